// SPDX-License-Identifier: Apache-2.0
//! A thread that plays the daemon with a real model behind it, and podswitchctl run against it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use podswitch_api::desired::{Bounds, DesiredState, Model, Query};
use podswitch_api::method::Call;
use podswitch_api::object::{Kind, Object};
use podswitch_api::rpc::{Id, parse_request, write_error, write_result};
use podswitch_api::{ErrorCode, RpcError};
use serde_json::{Value, json};

/// What became of a command.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Done {
    fn from(o: Output) -> Done {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done {
            code: o.status.code().unwrap(),
            out: text(o.stdout),
            err: text(o.stderr),
        }
    }
}

impl Done {
    /// Its output, when it succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert!(self.code == 0 && self.err.is_empty(), "{self:?}");
        self.out
    }

    /// Its complaint, when it failed with this code and every word is in it.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        words
            .iter()
            .for_each(|w| assert!(self.err.contains(w), "{w} is not in {self:?}"));
    }
}

/// Runs podswitchctl without any daemon in particular.
pub(crate) fn ctl(words: &[&str]) -> Done {
    run(
        Command::new(env!("CARGO_BIN_EXE_podswitchctl")).args(words),
        "",
    )
}

fn run(command: &mut Command, stdin: &str) -> Done {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that takes no input may be gone before it is written.
    drop(child.stdin.take().unwrap().write_all(stdin.as_bytes()));
    child.wait_with_output().unwrap().into()
}

/// The daemon. Its thread ends with the test's process.
pub(crate) struct Daemon {
    directory: tempfile::TempDir,
}

impl Daemon {
    pub(crate) fn start() -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        thread::spawn(move || {
            let mut state = State {
                model: Model::new(Bounds::default()),
                staged: None,
                looks: 0,
            };
            for stream in listener.incoming() {
                state.serve(stream.unwrap());
            }
        });
        Daemon { directory }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn ctl(&self, words: &[&str]) -> Done {
        self.ctl_with(words, "")
    }

    /// The same with something on standard input.
    pub(crate) fn ctl_with(&self, words: &[&str], stdin: &str) -> Done {
        run(
            Command::new(env!("CARGO_BIN_EXE_podswitchctl"))
                .arg("--socket")
                .arg(self.socket())
                .args(words),
            stdin,
        )
    }

    /// Two routed ports, a segment with two more, and a rule.
    pub(crate) fn furnished() -> Daemon {
        let daemon = Daemon::start();
        daemon.ctl_with(&["apply", "-f", "-"], OBJECTS).ok();
        daemon
    }
}

const OBJECTS: &str = "
- kind: port
  name: web
  device: {kind: veth, interface: psw1}
  mac: 02:00:00:00:00:01
  addresses: [10.0.0.1, 'fd00::1']
  pod: {namespace: default, name: web-0, container_id: 0f3c, ifname: eth0}
- {kind: port, name: db, device: {kind: veth, interface: psw2}, mac: 02:00:00:00:00:02, addresses: [10.0.0.2]}
- {kind: segment, name: lab, id: 7}
- {kind: port, name: left, device: {kind: veth, interface: psw3}, segment: {name: lab, vlan: {access: 10}}}
- {kind: port, name: right, device: {kind: veth, interface: psw4}, segment: {name: lab, vlan: {trunk: [10, 20]}}}
- {kind: rule, name: no-ssh, port: web, direction: ingress, priority: 10, protocol: tcp, ports: {first: 22, last: 22}, action: deny}
";

struct State {
    model: Model,
    staged: Option<(Vec<Kind>, DesiredState)>,
    looks: u64,
}

impl State {
    fn serve(&mut self, stream: UnixStream) {
        let mut out = stream.try_clone().unwrap();
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            let bytes = match parse_request(line.as_bytes()) {
                Err(bad) => write_error(bad.id.as_ref(), &bad.error),
                Ok(request) => self.answer(&request.id, request.call),
            };
            if out.write_all(&bytes).is_err() {
                return;
            }
        }
    }

    fn answer(&mut self, id: &Id, call: Call) -> Vec<u8> {
        match self.call(call) {
            Ok(result) => write_result(id, &result).unwrap(),
            Err(e) => write_error(Some(id), &e),
        }
    }

    fn call(&mut self, call: Call) -> Result<Value, RpcError> {
        let generation = self.model.generation();
        Ok(match call {
            Call::Why(p) => {
                let denied = p.port == Some(22);
                let judgement =
                    |port: &str| json!({"allowed": true, "port": port, "by": "default"});
                let mut ingress = judgement("web");
                if let Some(group) = p.group {
                    ingress["peer_group"] = json!(group);
                }
                if denied {
                    ingress = json!({"allowed": false, "port": "web", "by": "isolation", "isolated_by": [{"namespace": "shop", "name": "deny"}]});
                }
                let mut why = json!({"allowed": !denied, "from": {"address": "10.0.0.1", "pod": {"namespace": "shop", "name": "a"}},
                    "to": {"address": "10.0.0.2", "port": "web"}, "egress": judgement("a"),
                    "route": {"port": "web", "mac": "02:00:00:00:00:02", "mtu": 1500}, "ingress": ingress});
                if denied {
                    why["reason"] = json!("policy_isolated_ingress");
                }
                why
            }
            Call::Events(p) => events(p.since.unwrap_or(0)),
            Call::Apply(p) => {
                self.model.expect(p.expect_generation)?;
                let applied = self.model.apply(&p.changes)?;
                json!({"generation": applied.generation, "changed": applied.delta.len()})
            }
            Call::Begin(p) => {
                self.staged = Some((
                    p.kinds.unwrap_or(Kind::ALL.to_vec()),
                    DesiredState::default(),
                ));
                json!({"transaction": 1, "generation": generation})
            }
            Call::Put(p) => {
                let (_, state) = self.staged.as_mut().unwrap();
                p.objects.into_iter().for_each(|o| drop(state.insert(o)));
                json!({"objects": state.len()})
            }
            Call::Commit(_) => {
                let (kinds, state) = self.staged.take().unwrap();
                let applied = self.model.replace(&kinds, &state)?;
                let d = applied.delta;
                json!({"generation": applied.generation, "added": d.added(), "changed": d.changed(), "removed": d.removed()})
            }
            Call::Abort(_) => json!({}),
            Call::Get(p) => {
                let page = Query::new(&p)?.run(self.model.state());
                let mut result = json!({"generation": generation, "objects": page.objects.iter().map(entry).collect::<Vec<_>>()});
                page.resume
                    .into_iter()
                    .for_each(|c| result["continue"] = json!(c));
                result
            }
            Call::Stats(p) => self.stats(p.port)?,
            Call::Version(_) => {
                json!({"version": "9.9.9", "protocol": 1, "pid": 7, "uptime_seconds": 60, "kernel": "6.1.0",
                "mtu": 1500, "gateway": {"ipv4": "169.254.1.1", "ipv6": "fe80::1", "mac": "02:70:6f:64:73:77"}})
            }
            Call::Health(_) => {
                json!({"status": "degraded", "version": "9.9.9", "uptime_seconds": 60, "generation": generation,
                "ports": 4, "ports_up": 3, "workers": [
                    {"id": 0, "core": 2, "alive": true, "sleeping": true, "heartbeat_age_ms": 3, "generation": generation}],
                "problems": [{"severity": "warning", "subject": "port db", "message": "interface psw2 does not exist",
                    "hint": "delete the port"}]})
            }
            Call::Audit(_) => {
                json!({"balanced": true, "arenas": [{"id": 0, "chunks": 8, "chunk_size": 4096, "free": 4, "fill": 2,
                "held": 1, "tx": 1, "quarantined": 0, "unaccounted": 0}]})
            }
            Call::Teardown(_) => json!({"removed": [{"kind": "interface", "name": "psw1"}],
                "failed": [{"kind": "interface", "name": "psw2", "message": "it is stuck"}]}),
        })
    }

    /// Between two looks a second passes, in which port web receives 1500 frames and loses 500.
    fn stats(&mut self, port: Option<String>) -> Result<Value, RpcError> {
        self.looks += 1;
        let n = self.looks;
        let known = port
            .as_ref()
            .is_none_or(|p| self.model.state().ports.contains_key(p));
        if !known {
            return Err(
                RpcError::new(ErrorCode::NotFound, "there is no such port").hint("list them")
            );
        }
        Ok(json!({
            "time_ns": n * 1_000_000_000, "generation": self.model.generation(),
            "ports": [{"name": "web", "worker": 0, "rx_packets": n * 1500, "rx_bytes": n * 90_000, "tx_packets": n * 20,
                "tx_bytes": n * 1200, "drops": {"spoofed_mac": n * 500}, "kernel_drops": {}, "kicks": n, "kicks_again": 0}],
            "drops": {"spoofed_mac": n * 500}, "kernel_drops": {"kernel_backlog": 3},
            "workers": [{"id": 0, "core": 2, "ports": 4, "turns": n * 100, "busy_ns": n * 250_000_000, "sleeps": n,
                "idle_ns": n * 750_000_000, "stalls": 0, "stalled_ns": 0}],
            "rules": [{"name": "no-ssh", "port": "web", "direction": "ingress", "action": "deny", "packets": 4, "bytes": 240}],
            "policies": [{"rule": {"kind": "network_policy", "namespace": "shop", "name": "db", "direction": "ingress", "index": 0},
                "action": "Accept", "connections": 7, "bytes": 518}],
            "tables": [{"name": "route", "entries": 3, "lookups": 10, "hits": 9}]
        }))
    }
}

fn entry(object: &Object) -> Value {
    let status = match object {
        Object::Port(p) if p.name == "db" => {
            json!({"kind": "port", "state": "faulted", "id": 1, "worker": 0, "mtu": 1500, "message": "interface psw2 does not exist"})
        }
        Object::Port(_) => {
            json!({"kind": "port", "state": "up", "id": 0, "worker": 0, "mtu": 1500, "mode": "native", "ifindex": 4})
        }
        Object::Rule(_) => json!({"kind": "rule", "packets": 4, "bytes": 240}),
        Object::Segment(_) => json!({"kind": "segment", "ports": 2, "entries": 3, "learned": 2}),
        Object::Fdb(_) => json!({"kind": "fdb", "dynamic": false}),
        _ => return json!({"object": object}),
    };
    json!({"object": object, "status": status})
}

/// One event denied by isolation and one by a rule of a policy. Who asks for more gets one each time, once.
fn events(since: u64) -> Value {
    let event = |number: u64, rest: Value| {
        let mut event = json!({"number": number, "time_ms": 1_764_318_663_123_u64, "reason": "policy_isolated_ingress",
            "direction": "ingress", "from": {"address": "10.0.0.1", "pod": {"namespace": "shop", "name": "a"}},
            "to": {"address": "fd00::2", "port": "web"}, "protocol": "tcp", "port": 443, "source_port": 40112});
        let fields = rest.as_object().unwrap().clone();
        event.as_object_mut().unwrap().extend(fields);
        event
    };
    let all = [
        event(
            1,
            json!({"isolated_by": [{"namespace": "shop", "name": "deny"}], "group": 7}),
        ),
        event(
            2,
            json!({"reason": "policy_denied_egress", "direction": "egress", "policy":
                {"kind": "cluster_network_policy", "name": "no-web", "direction": "egress", "index": 1}}),
        ),
    ];
    let found: Vec<&Value> = all.iter().skip(since as usize).collect();
    json!({"next": 2, "lost": u64::from(since == 0), "events": found})
}

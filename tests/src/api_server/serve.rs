// SPDX-License-Identifier: Apache-2.0
//! Connections, requests and answers.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::Linger};
use serde_json::{Value, json};

use super::{Of, Shared, event, recorded};

/// How long a watcher waits for an event before it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

pub(super) fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept() else {
            return;
        };
        if shared.state().stopped {
            return;
        }
        let shared = shared.clone();
        std::thread::spawn(move || {
            // A client that has gone is nobody's fault.
            let _ = converse(&stream, &shared);
        });
    }
}

/// Requests of one connection, one after another, until it breaks.
fn converse(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_read_timeout(Some(LOOK))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        while line.is_empty() {
            match reader.read_line(&mut line) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(_) if shared.state().stopped => return reset(stream),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        stream.set_read_timeout(None)?;
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let header = header.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        shared.state().requests.push(format!("{method} {target}"));
        if !answer(stream, shared, method, target, &body)? {
            return Ok(());
        }
        stream.set_read_timeout(Some(LOOK))?;
    }
}

/// Breaks a connection as a machine does that has lost it.
fn reset(stream: &TcpStream) -> std::io::Result<()> {
    let at_once = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(stream, Linger, &at_once)?;
    Ok(())
}

/// What a request asks for.
struct Query<'a> {
    plural: &'a str,
    words: HashMap<&'a str, &'a str>,
}

impl<'a> Query<'a> {
    fn read(target: &'a str) -> Query<'a> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Query {
            plural: path.rsplit('/').next().unwrap_or(""),
            words: pairs.collect(),
        }
    }

    fn is(&self, word: &str) -> bool {
        self.words.get(word) == Some(&"true")
    }

    fn number(&self, word: &str) -> Option<u64> {
        self.words.get(word)?.parse().ok()
    }
}

/// Answers one request; whether the connection goes on.
fn answer(
    mut stream: &TcpStream,
    shared: &Shared,
    method: &str,
    target: &str,
    body: &[u8],
) -> std::io::Result<bool> {
    let query = Query::read(target);
    if method == "POST" {
        let object = serde_json::from_slice(body).unwrap_or(Value::Null);
        shared.state().created.push(object);
        return write(stream, 201, &String::from_utf8_lossy(body)).map(|()| true);
    }
    if target == "/apis" {
        return write(stream, 200, &groups(shared)).map(|()| true);
    }
    let watches = query.is("watch");
    let streams = query.is("sendInitialEvents");
    if let Some((status, body)) = take_fault(shared, &query, watches && !streams) {
        return write(stream, status, &body).map(|()| true);
    }
    if !watches {
        return write(stream, 200, &list(shared, &query)).map(|()| true);
    }
    if streams && !shared.state().streams {
        write_head(stream)?;
        write_chunk(stream, recorded("errors/watchlist.jsonl").trim_end())?;
        stream.write_all(b"0\r\n\r\n")?;
        return Ok(true);
    }
    watch(stream, shared, &query, streams)
}

/// The groups that are served: that of ClusterNetworkPolicies unless these are answered with 404.
fn groups(shared: &Shared) -> String {
    let mut state = shared.state();
    let kind = state.kinds.entry("clusternetworkpolicies".to_owned());
    let there = !kind.or_default().faults.iter().any(|f| f.status == 404);
    let group = |name: &str, version: &str| {
        let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
        json!({"name": name, "versions": [version], "preferredVersion": version})
    };
    let mut groups = vec![group("networking.k8s.io", "v1")];
    groups.extend(there.then(|| group("policy.networking.k8s.io", "v1alpha2")));
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}).to_string()
}

/// The answer of a fault that concerns a request.
fn take_fault(shared: &Shared, query: &Query<'_>, watches: bool) -> Option<(u16, String)> {
    let mut state = shared.state();
    let kind = state.kinds.entry(query.plural.to_owned()).or_default();
    let of = if watches { Of::Watch } else { Of::List };
    let at = kind
        .faults
        .iter()
        .position(|f| f.of == of || f.of == Of::Both)?;
    let fault = &mut kind.faults[at];
    let answer = (fault.status, fault.body.clone());
    if let Some(left) = &mut fault.left {
        *left -= 1;
        if *left == 0 {
            kind.faults.remove(at);
        }
    }
    Some(answer)
}

/// A page of a list. The token names the first object of the next one.
fn list(shared: &Shared, query: &Query<'_>) -> String {
    let mut state = shared.state();
    let version = state.version.to_string();
    let kind = state.kinds.entry(query.plural.to_owned()).or_default();
    let first = query.number("continue").unwrap_or(0) as usize;
    let limit = query.number("limit").map_or(usize::MAX, |l| l as usize);
    let items: Vec<&Value> = kind.objects.values().skip(first).take(limit).collect();
    let next = first + items.len();
    let mut metadata = json!({"resourceVersion": version});
    if next < kind.objects.len() {
        metadata["continue"] = json!(next.to_string());
        metadata["remainingItemCount"] = json!(kind.objects.len() - next);
    }
    json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}).to_string()
}

/// Events of a kind, until the connection is to break.
fn watch(
    mut stream: &TcpStream,
    shared: &Shared,
    query: &Query<'_>,
    streams: bool,
) -> std::io::Result<bool> {
    let mut state = shared.state();
    let (now, as_event) = (state.version, state.gone_as_event);
    let kind = state.kinds.entry(query.plural.to_owned()).or_default();
    let from = query.number("resourceVersion").unwrap_or(0);
    let resets = kind.resets;
    let mut lines = Vec::new();
    let mut next = kind.compacted;
    if streams {
        lines.extend(kind.objects.values().map(|object| event("ADDED", object)));
        let end = json!({"metadata": {"resourceVersion": now.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}},
            "kind": "Bookmark", "apiVersion": "v1"});
        lines.push(event("BOOKMARK", &end));
        next += kind.events.len();
    } else if from < kind.oldest {
        drop(state);
        let gone = recorded("errors/watch-410.jsonl");
        if !as_event {
            return write(stream, 410, &recorded("errors/410.json")).map(|()| true);
        }
        write_head(stream)?;
        write_chunk(stream, gone.trim_end())?;
        stream.write_all(b"0\r\n\r\n")?;
        return Ok(true);
    } else {
        next += kind
            .events
            .iter()
            .take_while(|(version, _)| *version <= from)
            .count();
    }
    drop(state);
    write_head(stream)?;
    for line in lines {
        write_chunk(stream, &line)?;
    }
    loop {
        let mut state = shared.state();
        if state.stopped {
            reset(stream)?;
            return Ok(false);
        }
        let kind = state.kinds.entry(query.plural.to_owned()).or_default();
        if kind.resets != resets {
            reset(stream)?;
            return Ok(false);
        }
        let there = kind.compacted + kind.events.len();
        if next >= there {
            drop(shared.changed.wait_timeout(state, LOOK));
            continue;
        }
        let skip = next.saturating_sub(kind.compacted);
        let lines: Vec<String> = kind
            .events
            .iter()
            .skip(skip)
            .map(|(_, l)| l.clone())
            .collect();
        next = there;
        drop(state);
        for line in lines {
            write_chunk(stream, &line)?;
        }
    }
}

fn write(mut stream: &TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    let kind = if body.starts_with('{') {
        "application/json"
    } else {
        "text/plain"
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} Status\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes())
}

fn write_head(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
}

/// A line as a chunk of its own.
fn write_chunk(mut stream: &TcpStream, line: &str) -> std::io::Result<()> {
    let chunk = format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
    stream.write_all(chunk.as_bytes())
}

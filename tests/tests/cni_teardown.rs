// SPDX-License-Identifier: Apache-2.0
//! `podswitchctl teardown` takes away what the plugin keeps in its default places, too.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

use podswitch_tests::programs::{bin_dir, run};
use podswitch_tests::{HUNG, Netns};
use serde_json::json;
use tempfile::TempDir;

/// Runs shell commands with a `/run` of their own, in which only `/run/netns` is the machine's: the default places are the
/// same for every node, so another test's plugin would be seen in them.
fn with_own_run(dir: &Path, script: &str) -> String {
    let prepare = r#"
        set -eu
        mount --rbind /run "$DIR/old-run"
        mount -t tmpfs tmpfs /run
        mkdir /run/netns
        mount --rbind "$DIR/old-run/netns" /run/netns
    "#;
    std::fs::create_dir(dir.join("old-run")).unwrap();
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child",
    ]);
    unshare.args(["bash", "-c", &format!("{prepare}{script}")]);
    unshare.env("DIR", dir).env("BIN", bin_dir());
    run(&mut unshare, b"", HUNG).success("the commands")
}

/// A node with two pods, everything in its default place unless `socket` and `state` say otherwise.
fn torn_down(socket: &str, config: &str, script: &str) {
    let dir = TempDir::new().unwrap();
    let node = Netns::new("node");
    let pods = [Netns::new("pod"), Netns::new("pod")];
    let conf = json!({
        "cniVersion": "1.1.0", "name": "podnet", "type": "podswitch", "socket": socket,
        "ipam": {"type": "podswitch", "ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:244:1::/64"}]]},
    });
    std::fs::write(dir.path().join("conf"), conf.to_string()).unwrap();
    std::fs::write(dir.path().join("toml"), config).unwrap();
    let state = dir.path().join("state");
    let head = format!(
        r#"
        printf 'state_dir = "{state}"\nworkers = [0]\n' >> "$DIR/toml"
        on_node() {{ ip netns exec {node} "$@"; }}
        cni() {{
            CNI_COMMAND=$1 CNI_CONTAINERID=c-$2 CNI_NETNS=/run/netns/$2 CNI_IFNAME=eth0 CNI_PATH="$BIN" \
                on_node "$BIN/podswitch-cni" < "$DIR/conf" > "$DIR/answer" || {{ cat "$DIR/answer" >&2; return 1; }}
        }}
        teardown() {{ on_node "$BIN/podswitchctl" teardown --config "$DIR/toml"; }}
        ip netns exec {node} "$BIN/podswitchd" --config "$DIR/toml" > "$DIR/log" 2>&1 &
        until on_node "$BIN/podswitchctl" --socket {socket} version > "$DIR/answer" 2>&1; do
            kill -0 $! || {{ cat "$DIR/log" >&2; exit 1; }}
            sleep 0.1
        done
        a={a} b={b}
        cni ADD $a
        cni ADD $b
        [ -e /run/podswitch/cni.lock ]
        [ "$(find /run/podswitch/ipam/podnet -type l | wc -l)" -eq 4 ]
        "#,
        state = state.display(),
        node = node.name(),
        a = pods[0].name(),
        b = pods[1].name(),
    );
    let report = with_own_run(dir.path(), &format!("{head}{script}"));
    assert_eq!(node.links(), Vec::<String>::new(), "{report}");
    for pod in &pods {
        assert_eq!(pod.links(), Vec::<String>::new(), "{report}");
    }
    assert!(!state.exists(), "{report}");
}

const NOTHING_LEFT: &str = r#"
    [ ! -e /run/podswitch ] || { find /run/podswitch >&2; exit 1; }
"#;

#[test]
fn with_the_daemon_running_nothing_is_left_in_run() {
    torn_down(
        "/run/podswitch/podswitchd.sock",
        "",
        &format!("cni DEL $a\nteardown\n{NOTHING_LEFT}"),
    );
}

/// Without a socket in the default place, too; and what another node on this machine has stays.
#[test]
fn without_the_daemon_leases_of_others_stay() {
    torn_down(
        "/run/other.sock",
        "socket = \"/run/other.sock\"\n",
        &format!(
            r#"
            kill -9 $!
            wait $! || true
            ln -s c-other/eth0 /run/podswitch/ipam/podnet/10.244.1.200
            mkdir /run/podswitch/ipam/empty
            teardown
            [ "$(cd /run/podswitch && find . -type l)" = ./ipam/podnet/10.244.1.200 ]
            [ ! -e /run/podswitch/cni.lock ] && [ ! -e /run/podswitch/ipam/empty ]
            rm /run/podswitch/ipam/podnet/10.244.1.200
            teardown
            {NOTHING_LEFT}
            # A DEL that comes late finds nothing and leaves nothing but its lock.
            cni DEL $a
            "#
        ),
    );
}

// SPDX-License-Identifier: Apache-2.0
//! The kernel's own drops on pod ports, each once and under its name.
//!
//! Some cannot be had here. `kernel_rx_ring_full`: a port's receive ring is as large as all that its fill ring may hold.
//! `kernel_rx_dropped`: but for kernels without multi-buffer receive, a frame that finds too few chunks counts as one that
//! found the fill ring empty. `kernel_tx_invalid`: the switch looks at what it sends. `kernel_backlog` is the machine's.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use podswitch_tests::kernel::set_sysctl;
use podswitch_tests::programs::run;
use podswitch_tests::{HUNG, Node, NodeConfig, Pod, eventually};
use serde_json::json;

/// What has been counted of a pod's port: frames received, and the kernel's drops by reason.
struct Counts {
    received: u64,
    kernel: BTreeMap<String, u64>,
}

impl Counts {
    fn of(&self, reason: &str) -> u64 {
        self.kernel.get(reason).copied().unwrap_or(0)
    }

    fn all(&self) -> u64 {
        self.received + self.kernel.values().sum::<u64>()
    }
}

fn counts(node: &Node, port: &str) -> Counts {
    let stats = node.rpc("stats", &json!({"port": port})).expect("stats");
    let port = &stats["ports"][0];
    let kernel = port["kernel_drops"].as_object().expect("drops");
    Counts {
        received: port["rx_packets"].as_u64().expect("a count"),
        kernel: kernel
            .iter()
            .map(|(reason, n)| (reason.clone(), n.as_u64().expect("a count")))
            .collect(),
    }
}

/// Waits until every frame that a port was sent is counted, once.
#[track_caller]
fn accounted(node: &Node, port: &str, sent: u64) -> Counts {
    eventually("every frame is counted", HUNG, || {
        let counts = counts(node, port);
        assert!(
            counts.all() <= sent,
            "{sent} sent: {} {:?}",
            counts.received,
            counts.kernel
        );
        (counts.all() == sent).then_some(counts)
    })
}

/// A pod that sends nothing of its own, and a socket in it.
struct Flooder {
    pod: Pod,
    port: String,
    socket: UdpSocket,
    data: Vec<u8>,
    /// Frames of its port that were counted before.
    before: u64,
}

impl Flooder {
    /// It sends so many bytes of data at a time, to nobody: the switch counts and drops them.
    fn new(node: &Node, bytes: usize) -> Flooder {
        let pod = node.pod();
        set_sysctl(&pod.netns, "net/ipv6/conf/eth0/disable_ipv6", "1");
        let version = node.rpc("version", &json!({})).expect("version");
        let gateway = &version["gateway"];
        let word = |key: &str| gateway[key].as_str().expect("a text").to_owned();
        pod.netns.ip(&format!(
            "neighbor replace {} lladdr {} dev eth0 nud permanent",
            word("ipv4"),
            word("mac")
        ));
        let socket = pod.netns.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            // What waits in the kernel's rings shall not hold the sender up.
            setsockopt(&socket, sockopt::SndBufForce, &(16 << 20)).expect("a send buffer");
            socket.connect("192.0.2.1:9").expect("a default route");
            socket
        });
        let port = node.port_name(&pod);
        let mut before = 0;
        eventually("the pod is quiet", HUNG, || {
            std::thread::sleep(Duration::from_millis(200));
            let now = counts(node, &port).all();
            (std::mem::replace(&mut before, now) == now).then_some(())
        });
        Flooder {
            pod,
            port,
            socket,
            data: vec![0; bytes],
            before,
        }
    }

    fn send(&self, frames: u64) {
        for _ in 0..frames {
            self.socket.send(&self.data).expect("send");
        }
    }
}

#[test]
fn what_comes_while_no_daemon_runs_is_missed_and_stays_counted() {
    let mut node = Node::new(NodeConfig::default());
    let pod = Flooder::new(&node, 20);
    let missed = |node: &Node| counts(node, &pod.port).of("kernel_steering_miss");
    let before = missed(&node);
    for round in 1..=2 {
        node.kill();
        pod.send(1000);
        node.start();
        eventually("the frames are counted", HUNG, || {
            (missed(&node) == before + round * 1000).then_some(())
        });
    }
}

#[test]
fn what_a_stopped_switch_has_no_room_for_found_the_fill_ring_empty() {
    const FRAMES: u64 = 5000;
    let node = Node::new(NodeConfig::default());
    let pod = Flooder::new(&node, 20);
    node.daemon().signal(Signal::SIGSTOP);
    pod.send(FRAMES);
    node.daemon().signal(Signal::SIGCONT);
    let counts = accounted(&node, &pod.port, pod.before + FRAMES);
    assert!(
        counts.of("kernel_fill_ring_empty") > 0,
        "{:?}",
        counts.kernel
    );
    assert_eq!(counts.of("kernel_device_dropped"), 0, "{:?}", counts.kernel);
}

#[test]
fn a_long_frame_that_finds_too_few_chunks_is_one_drop() {
    const FRAMES: u64 = 2000;
    let node = Node::new(NodeConfig {
        mtu: 9000,
        ..NodeConfig::default()
    });
    let pod = Flooder::new(&node, 8000);
    node.daemon().signal(Signal::SIGSTOP);
    pod.send(FRAMES);
    node.daemon().signal(Signal::SIGCONT);
    let counts = accounted(&node, &pod.port, pod.before + FRAMES);
    let refused = counts.of("kernel_fill_ring_empty") + counts.of("kernel_rx_dropped");
    assert!(refused > 0, "{:?}", counts.kernel);
    assert_eq!(counts.of("kernel_device_dropped"), 0, "{:?}", counts.kernel);
}

#[test]
fn without_the_steering_program_the_barrier_takes_it() {
    let node = Node::new(NodeConfig::default());
    let pod = Flooder::new(&node, 20);
    let host = node.host_end(&pod.pod);
    node.netns().ip(&format!("link set dev {host} xdp off"));
    pod.send(100);
    // What the pod sent before its port was attached met the barrier, too.
    let counts = accounted(&node, &pod.port, pod.before + 100);
    assert!(counts.of("kernel_barrier") >= 100, "{:?}", counts.kernel);
}

#[test]
fn a_frame_above_the_mtu_of_the_host_end_is_dropped_by_the_device() {
    let node = Node::new(NodeConfig::default());
    let pod = Flooder::new(&node, 2000);
    pod.pod.netns.ip("link set eth0 mtu 3000");
    pod.send(100);
    let counts = accounted(&node, &pod.port, pod.before + 100);
    assert_eq!(
        counts.of("kernel_device_dropped"),
        100,
        "{:?}",
        counts.kernel
    );
}

/// Has the kernel take the pod's frames up in a thread of its own that nearly never runs beside the sender.
fn delay_reception(node: &Node, interface: &str) {
    let path = format!("/sys/class/net/{interface}/threaded");
    let script = format!("echo 1 > {path}");
    run(node.netns().command("sh").args(["-c", &script]), b"", HUNG).success("threaded NAPI");
    let prefix: String = format!("napi/{interface}").chars().take(15).collect();
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let thread = processes
        .map(|p| p.file_name().to_string_lossy().into_owned())
        .find(|pid| {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            comm.is_ok_and(|name| name.starts_with(&prefix))
        });
    let thread = thread.expect("a thread of the device");
    let done = |words: &[&str]| {
        run(Command::new(words[0]).args(&words[1..]), b"", HUNG).success(words[0]);
    };
    done(&["chrt", "--idle", "--pid", "0", &thread]);
    done(&["taskset", "--pid", "--cpu-list", "0", &thread]);
}

#[test]
fn a_full_ring_of_the_host_end_is_a_drop_of_the_device() {
    const FRAMES: u64 = 20_000;
    let node = Node::new(NodeConfig {
        workers: vec![1],
        ..NodeConfig::default()
    });
    let pod = Flooder::new(&node, 20);
    delay_reception(&node, &node.host_end(&pod.pod));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut core = nix::sched::CpuSet::new();
            core.set(0).expect("core 0");
            let myself = nix::unistd::Pid::from_raw(0);
            nix::sched::sched_setaffinity(myself, &core).expect("core 0 is there");
            pod.send(FRAMES);
        });
    });
    let counts = accounted(&node, &pod.port, pod.before + FRAMES);
    assert!(
        counts.of("kernel_device_dropped") > 0,
        "{:?}",
        counts.kernel
    );
}

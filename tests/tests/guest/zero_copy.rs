// SPDX-License-Identifier: Apache-2.0
//! Zero-copy mode: a queue of a virtio NIC that is kept for the switch, what the host receives meanwhile, and the watchdog.
//!
//! virtio-net takes no rules that lead packets to a queue (ntuple). In their place is what QEMU's device does from when a program is attached, as it then
//! forgets its RSS table: packets of a flow come by the queue by which others of it have left, which for a process is that of its core.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use podswitch_tests::guest::{GuestNic, Suite, Wire};
use podswitch_tests::traffic::ping;
use podswitch_tests::uplink::Session;
use podswitch_tests::{HUNG, eventually};
use serde_json::json;

use super::machine::{Machine, NODE, PEER, ip};

/// Two queues; from 6.13 on its driver has zero-copy where the device reads the machine's memory by addresses that the platform gives it.
const NIC: GuestNic = GuestNic {
    wire: Wire::Tap("tap0"),
    mac: "02:00:00:00:02:01",
    queues: 2,
    properties: ",rss=on,iommu_platform=on,disable-legacy=on",
};
const WATCHDOG: &str = "[-]-watchdog";
const DAEMON: &str = "podswitchd[.]toml";
/// RSS that leaves queue 1 to the switch, and that does not.
const KEEP: &str = "ethtool -X eth0 weight 1 0";
const SPREAD: &str = "ethtool -X eth0 equal 2";
/// Ports of the host's echo server on the core of each queue.
const SERVERS: [u16; 2] = [2222, 2223];
/// How long the daemon may hang.
const LIMIT_MS: u64 = 4000;

impl Machine {
    /// A counter of the NIC's driver.
    #[track_caller]
    fn counted(&mut self, name: &str) -> u64 {
        let all = self.guest.run("ethtool -S eth0");
        let name = format!("{name}: ");
        let line = all.lines().find_map(|l| l.trim().strip_prefix(&name));
        let count = line.unwrap_or_else(|| panic!("no {name}: {all}"));
        count.parse().expect("a number")
    }

    /// A connection to the host itself whose packets come by this queue.
    #[track_caller]
    fn session_by(&mut self, queue: usize) -> Session {
        let packets = |m: &mut Machine| [0, 1].map(|q| m.counted(&format!("rx{q}_xdp_packets")));
        eventually("a connection by the queue", HUNG, || {
            let session = Session::connect(&self.peer, ip(NODE[0]), SERVERS[queue]);
            let before = packets(self);
            session.goes_on("its start");
            let after = packets(self);
            let come = [0, 1].map(|q| after[q] - before[q]);
            (come[queue] > come[1 - queue]).then_some(session)
        })
    }

    /// Datagrams to a port of a pod's, of many senders; they need not arrive.
    #[track_caller]
    fn send_to(&self, pod: IpAddr, datagrams: u32) {
        self.peer.run(|| {
            for _ in 0..64 {
                let socket = UdpSocket::bind((ip(PEER[0]), 0)).expect("a socket");
                for _ in 0..datagrams / 64 {
                    let sent = socket.send_to(&[0; 64], SocketAddr::new(pod, 9));
                    sent.expect("a datagram");
                }
            }
        });
    }

    /// A pod answers, by either family.
    #[track_caller]
    fn assert_answers(&self, pod: &[IpAddr]) {
        pod.iter().for_each(|at| ping(&self.peer, *at));
    }

    /// Whether a process with a command line of this pattern, which must not match itself, runs in the guest.
    #[track_caller]
    fn runs(&mut self, pattern: &str) -> bool {
        let (status, _) = self
            .guest
            .try_run(&format!("grep -qs '{pattern}' /proc/[0-9]*/cmdline"));
        status == 0
    }

    /// Waits until none runs.
    #[track_caller]
    fn eventually_without(&mut self, pattern: &str) {
        let what = format!("no process {pattern}");
        eventually(&what, HUNG, || (!self.runs(pattern)).then_some(()));
    }

    /// The port is up, each queue as it was asked for, and somebody watches.
    #[track_caller]
    fn assert_queues(&mut self) {
        let status = self.becomes("up");
        assert_eq!(status["queues"], json!(["copy", "zero-copy"]), "{status}");
        assert!(self.runs(WATCHDOG), "no watchdog");
    }

    #[track_caller]
    fn kill(&mut self, signal: &str) {
        self.guest.run(&format!("kill -{signal} $(cat /run/pid)"));
    }
}

#[test]
fn a_kept_queue_is_not_copied_and_comes_back_to_the_host() {
    let config = format!("[xdp]\nwatchdog_ms = {LIMIT_MS}\n");
    let mut machine = Machine::boot(Suite::Newer, &[NIC], &config);
    machine.start_switch();
    for (core, port) in SERVERS.into_iter().enumerate() {
        let serve = format!("taskset {} tcp-echo {port} & true", 1 << core);
        machine.guest.run(&serve);
        let served = format!("tcp-echo ::1 {port} 1 2>/dev/null");
        machine.guest.eventually(&served);
    }
    refuses_queues_of_the_host(&mut machine);
    machine.guest.run(KEEP);
    assert_eq!(machine.open("auto", "--zero-copy 1"), "native");
    machine.assert_queues();
    let (_, table) = machine.ctl("port list");
    assert!(table.contains("native, zero-copy 1"), "{table}");
    let pod = machine.pod();
    // Out of the NIC by the kept queue, and in by it.
    machine.assert_reach(&pod, PEER);
    let by_queue = machine.counted("rx1_xdp_redirects");
    assert!(by_queue > 0, "nothing came by the queue");

    let sessions = [0, 1].map(|queue| machine.session_by(queue));
    machine.kill("9");
    sessions.iter().for_each(|s| s.goes_on("kill -9"));
    machine.eventually_without(WATCHDOG);
    machine.start_switch();
    machine.assert_queues();
    machine.assert_answers(&pod);
    stopped_and_ended(&mut machine, &pod, &sessions);
    machine.start_switch();
    machine.assert_queues();
    machine.assert_answers(&pod);

    machine.guest.run("ip link set eth0 mtu 4000");
    let message = machine.becomes("faulted")["message"].to_string();
    assert!(message.contains("MTU 4000"), "{message}");
    machine.guest.run("ip link set eth0 mtu 1500");
    machine.assert_queues();

    machine.guest.run(SPREAD);
    let (_, health) = machine.ctl("health");
    let says = health.contains("spreads the host's packets to queue 1 too");
    assert!(says, "{health}");
    let (status, said) = machine.ctl("port delete uplink");
    assert_eq!(status, 0, "{said}");
    machine.eventually_without(WATCHDOG);
    let [beside, upon] = sessions.map(Session::end);
    println!("messages took at most {beside:?} by the other queue, {upon:?} by the kept one");
}

fn refuses_queues_of_the_host(machine: &mut Machine) {
    let add = "port add uplink --nic eth0 --routes 254 --zero-copy";
    machine.refused(&format!("{add} 1"), &["eth0", "queue 1", "RSS", KEEP]);
    let words = ["eth0 has no queue 2", "ethtool -L eth0"];
    machine.refused(&format!("{add} 2"), &words);
    assert!(!machine.runs(WATCHDOG), "a watchdog without a cause");
}

/// A daemon that is stopped, under more packets than the kept queue has chunks for, which nobody takes away.
fn stopped_and_ended(machine: &mut Machine, pod: &[IpAddr], [beside, upon]: &[Session; 2]) {
    machine.kill("STOP");
    let stopped = Instant::now();
    eventually("the kept queue is out of chunks", HUNG, || {
        machine.send_to(pod[0], 4096);
        upon.is_silent(Duration::from_millis(300)).then_some(())
    });
    beside.goes_on("SIGSTOP");
    machine.eventually_without(DAEMON);
    let ended = stopped.elapsed();
    println!("the watchdog ended the daemon {ended:.1?} after SIGSTOP");
    assert!(ended >= Duration::from_millis(LIMIT_MS / 2), "{ended:?}");
    upon.goes_on("SIGSTOP and the watchdog");
    beside.goes_on("the watchdog");
    let log = machine.guest.run("cat /run/log");
    let says = format!("has not run for {LIMIT_MS} ms");
    assert!(log.contains(&says), "{log}");
}

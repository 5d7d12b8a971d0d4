// SPDX-License-Identifier: Apache-2.0
//! Whole switches with threads on AF_XDP ports: frames of pods go through real veths.

#[path = "reference/frames.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of the stages, which use all of it"
)]
mod frames;
mod xdp_bed;

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use frames::V4;
use podswitch_datapath::frame::Audit;
use podswitch_datapath::port::Link;
use podswitch_datapath::port::xdp::Steering;
use podswitch_datapath::switch::{
    self, Device, IdleConfig, PortSpec, Switch, SwitchConfig, WorkerConfig,
};
use podswitch_datapath::tables::{self, Action, Gateway, PortKindSpec, Tables};
use podswitch_datapath::wire::MacAddr;
use podswitch_datapath::{PortId, VrfId, WorkerId};
use podswitch_host::link;
use podswitch_host::xdp::{self, Mode};
use xdp_bed::{Bed, eventually, features};

const GATEWAY_MAC: MacAddr = MacAddr([2, 0xff, 0, 0, 0, 1]);

fn mac(pod: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 2, pod as u8])
}

fn v4(pod: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, pod as u8 + 1)
}

fn config(workers: usize) -> SwitchConfig {
    SwitchConfig {
        workers: vec![WorkerConfig::default(); workers],
        features: features(),
        flow_entries: 1024,
        ..SwitchConfig::default()
    }
}

/// A switch on a bed of pods; pod n is port n.
struct Node {
    switch: Switch,
    steering: Vec<Steering>,
    /// Inode numbers of the ports' sockets.
    inodes: Vec<u64>,
    bed: Bed,
}

impl Node {
    /// Workers that sleep whenever it is quiet; ports on them in turn.
    fn new(mode: Mode, mtu: u32, pods: usize, workers: usize) -> Node {
        Node::with_spin(mode, mtu, pods, workers, Duration::from_micros(20))
    }

    /// Workers that sleep when it was quiet for so long.
    fn with_spin(mode: Mode, mtu: u32, pods: usize, workers: usize, spin: Duration) -> Node {
        let idle = IdleConfig {
            spin,
            latency: Duration::from_secs(3600),
        };
        let config = SwitchConfig {
            idle,
            ..config(workers)
        };
        Node::with_config(mode, mtu, pods, config)
    }

    fn with_config(mode: Mode, mtu: u32, pods: usize, config: SwitchConfig) -> Node {
        let workers = config.workers.len();
        let gateway = Gateway {
            mac: GATEWAY_MAC,
            v4: Ipv4Addr::new(169, 254, 1, 1),
            v6: "fe80::1".parse().unwrap(),
        };
        let switch = Switch::start(config, Tables::new(gateway)).unwrap();
        let mut node = Node {
            switch,
            steering: Vec::new(),
            inodes: Vec::new(),
            bed: Bed::new(mode, mtu, pods),
        };
        for pod in 0..pods {
            let steering = node.attach(pod, mtu, WorkerId((pod % workers) as u8));
            node.steering.push(steering);
        }
        node
    }

    fn attach(&mut self, pod: usize, mtu: u32, worker: WorkerId) -> Steering {
        let spec = PortSpec {
            worker: Some(worker),
            mtu,
            device: Device::Xdp {
                queue: self.bed.queue(pod),
                superframes: false,
            },
            faults: None,
        };
        let guard = self.bed.node.netns().enter().unwrap();
        let added = self.switch.add_port(PortId(pod as u16), spec).unwrap();
        drop(guard);
        let mut edit = self.switch.edit();
        edit.set_port(tables::PortSpec {
            id: PortId(pod as u16),
            name: format!("pod-{pod}"),
            worker: added.worker,
            mac: mac(pod),
            mtu,
            kind: PortKindSpec::Routed {
                vrf: VrfId(0),
                addresses: vec![v4(pod).into()],
            },
            check_source: true,
            node: false,
            egress_default: Action::Allow,
            ingress_default: Action::Allow,
        });
        let tables = edit.build().unwrap();
        self.switch.publish(tables);
        self.switch.wait_for_tables().unwrap();
        let mut steering = self.bed.loader.steering(1, None).unwrap();
        let socket = added.xdp[0].socket().unwrap();
        steering.insert(0, socket.as_fd()).unwrap();
        let path = format!("/proc/self/fd/{}", socket.as_fd().as_raw_fd());
        self.inodes.push(std::fs::metadata(path).unwrap().ino());
        let host = self.bed.pods[pod].host.clone();
        xdp::install(
            &mut self.bed.links,
            host.as_str(),
            steering.fd(),
            self.bed.mode,
        )
        .unwrap();
        steering
    }

    fn detach(&mut self, pod: usize) {
        self.steering[pod].remove(0).unwrap();
        let mut edit = self.switch.edit();
        edit.remove_port(PortId(pod as u16));
        let tables = edit.build().unwrap();
        self.switch.publish(tables);
        self.switch.remove_port(PortId(pod as u16)).unwrap();
    }

    /// Pod `from` sends packet `number` of `len` bytes of data.
    fn send(&self, from: usize, to: usize, number: u32, len: usize) {
        let packet = packet(from, to, number, len).bytes();
        let frame = frames::ethernet(GATEWAY_MAC, mac(from), 0x0800, &packet);
        self.bed.pods[from].raw.send(&frame);
    }

    /// Whether something arriving at the port would end a worker's sleep: its socket is in an epoll set.
    fn is_watched(&self, port: usize) -> bool {
        let inode = format!("ino:{:x}", self.inodes[port]);
        let infos = std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
        // Descriptors of other tests come and go.
        let mut texts = infos.filter_map(|info| std::fs::read_to_string(info.path()).ok());
        texts.any(|text| {
            let mut watched = text.lines().filter(|line| line.starts_with("tfd:"));
            watched.any(|line| line.split_whitespace().any(|word| word == inode))
        })
    }

    /// Waits until no frame is under way, and every chunk is where it should be.
    fn assert_balanced(&mut self) {
        let switch = &mut self.switch;
        let mut last = Vec::new();
        eventually("all chunks are free or in fill rings", || {
            last = switch.audit().unwrap();
            let quiet = |a: &Audit| a.user + a.handoff + a.transmit + a.closing == 0;
            last.iter().flat_map(|(_, arenas)| arenas).all(quiet)
        });
        for audit in last.iter().flat_map(|(_, arenas)| arenas) {
            let sum = audit.free + audit.fill + audit.quarantine;
            assert_eq!((sum, audit.listed), (audit.chunks, audit.free), "{audit:?}");
            assert_eq!(audit.quarantine, 0);
        }
    }
}

fn packet(from: usize, to: usize, number: u32, len: usize) -> V4 {
    let mut data = number.to_be_bytes().to_vec();
    data.resize(len.max(4), 0x5a);
    let udp = frames::udp(v4(from).into(), v4(to).into(), 4000, 9000, &data);
    V4::new(v4(from), v4(to), frames::UDP, udp)
}

fn arrived(from: usize, to: usize, number: u32, len: usize) -> Vec<u8> {
    let packet = V4 {
        ttl: 63,
        ..packet(from, to, number, len)
    };
    frames::ethernet(mac(to), GATEWAY_MAC, 0x0800, &packet.bytes())
}

/// While a port sends much, the kernel need not look for sleepers; once the worker sleeps, it must.
#[test]
fn a_busy_port_is_watched_again_before_the_worker_sleeps() {
    const BURST: u32 = 64;
    let mut node = Node::with_spin(Mode::Native, 1500, 2, 1, Duration::from_millis(200));
    assert!(node.is_watched(0) && node.is_watched(1));
    let mut number = 0;
    let mut exchange = |node: &mut Node, frames: u32| {
        for n in number..number + frames {
            node.send(0, 1, n, 100);
        }
        for n in number..number + frames {
            assert_eq!(node.bed.pods[1].raw.receive(), arrived(0, 1, n, 100));
        }
        number += frames;
    };
    eventually("a busy port is not watched", || {
        exchange(&mut node, BURST);
        !node.is_watched(1)
    });
    eventually("all ports are watched when it is quiet", || {
        node.is_watched(0) && node.is_watched(1)
    });
    exchange(&mut node, 1);
    node.assert_balanced();
}

/// Every pod sends to the next, some frames at a time, of all lengths.
fn exchange(mode: Mode, mtu: u32, pods: usize, workers: usize) {
    const FRAMES: u32 = 2_000;
    const WINDOW: u32 = 16;
    let mut node = Node::new(mode, mtu, pods, workers);
    let length = |n: u32| 4 + (n as usize * 379) % (mtu as usize - 32);
    let (mut sent, mut received) = (0, vec![0; pods]);
    let per_pod = FRAMES / pods as u32;
    eventually("all frames arrive", || {
        for n in 0..pods {
            let to = (n + 1) % pods;
            while let Some(frame) = node.bed.pods[to].raw.try_receive() {
                let number = received[to];
                assert!(
                    frame == arrived(n, to, number, length(number)),
                    "frame {number} to {to}"
                );
                received[to] += 1;
            }
        }
        let slowest = *received.iter().min().unwrap();
        while sent < per_pod && sent < slowest + WINDOW {
            (0..pods).for_each(|n| node.send(n, (n + 1) % pods, sent, length(sent)));
            sent += 1;
        }
        slowest == per_pod
    });
    node.assert_balanced();
    let counters = node.switch.counters();
    assert_eq!(counters.drops.iter().sum::<u64>(), 0, "{counters:?}");
    for pod in 0..pods {
        let id = PortId(pod as u16);
        let port = &counters.ports[&id];
        assert_eq!(
            (port.rx.packets, port.tx.packets),
            (per_pod.into(), per_pod.into())
        );
        let drops = node.switch.kernel_drops(id).unwrap().unwrap();
        assert_eq!(drops, Default::default());
    }
    for pod in 0..pods {
        node.detach(pod);
    }
    eventually("the sockets are closed", || node.switch.all_closed());
    node.assert_balanced();
    eventually("the memory is freed", || {
        node.switch.tidy().unwrap();
        node.switch
            .audit()
            .unwrap()
            .iter()
            .all(|(_, arenas)| arenas.is_empty())
    });
}

#[test]
fn one_worker_in_native_mode() {
    exchange(Mode::Native, 1500, 3, 1);
}

#[test]
fn one_worker_in_generic_mode_with_long_frames() {
    exchange(Mode::Generic, 20_000, 2, 1);
}

#[test]
fn two_workers_in_native_mode_with_long_frames() {
    exchange(Mode::Native, 9000, 4, 2);
}

#[test]
fn a_sleeping_worker_wakes_for_a_frame_on_a_socket() {
    let node = Node::new(Mode::Native, 1500, 2, 1);
    for i in 0..100 {
        eventually("sleep", || node.switch.workers()[0].asleep);
        node.send(0, 1, i, 100);
        assert_eq!(node.bed.pods[1].raw.receive(), arrived(0, 1, i, 100));
    }
    assert!(node.switch.workers()[0].cycles.sleeps >= 100);
}

/// However many ports send to one in a turn.
#[test]
fn a_port_is_kicked_within_its_budget_a_turn() {
    const SENDERS: usize = 5;
    const ROUNDS: u32 = 60;
    for budget in [1, 3] {
        let config = SwitchConfig {
            mode: switch::Mode::Inline,
            kicks_per_turn: budget,
            ..config(1)
        };
        let mut node = Node::with_config(Mode::Native, 1500, SENDERS + 1, config);
        let mut turns = 0;
        let mut turn = |node: &mut Node| {
            node.switch.turn();
            turns += 1;
        };
        for number in 0..ROUNDS {
            (1..=SENDERS).for_each(|from| node.send(from, 0, number, 100));
            turn(&mut node);
        }
        // What a device has counted is looked at a port a turn.
        (0..=SENDERS).for_each(|_| turn(&mut node));
        let kicks = node.switch.counters().ports[&PortId(0)].device.kicks;
        let most = u64::from(budget) * turns;
        assert!(
            (1..=most).contains(&kicks),
            "{kicks} kicks in {turns} turns"
        );
        let mut got = 0;
        eventually("all frames arrive", || {
            node.switch.turn();
            got += std::iter::from_fn(|| node.bed.pods[0].raw.try_receive()).count();
            got == SENDERS * ROUNDS as usize
        });
    }
}

#[test]
fn a_port_can_go_and_come_back_under_traffic() {
    let mut node = Node::new(Mode::Native, 1500, 3, 2);
    let mut sent = 0;
    for round in 0..5 {
        for _ in 0..50 {
            node.send(0, 1, sent, 100);
            node.send(0, 2, sent, 100);
            sent += 1;
        }
        node.detach(2);
        for _ in 0..50 {
            node.send(0, 1, sent, 100);
            node.send(0, 2, sent, 100);
            sent += 1;
        }
        eventually("the socket is closed", || node.switch.all_closed());
        let steering = node.attach(2, 1500, WorkerId(round % 2));
        node.steering[2] = steering;
    }
    let mut next = 0;
    eventually("pod 1 has everything", || {
        while let Some(frame) = node.bed.pods[1].raw.try_receive() {
            assert_eq!(frame, arrived(0, 1, next, 100));
            next += 1;
        }
        next == sent
    });
    node.assert_balanced();
    while node.bed.pods[2].raw.try_receive().is_some() {}
    node.send(0, 2, sent, 100);
    assert_eq!(node.bed.pods[2].raw.receive(), arrived(0, 2, sent, 100));
}

#[test]
fn an_interface_that_is_deleted_takes_only_its_own_port_along() {
    let mut node = Node::new(Mode::Native, 1500, 3, 1);
    let host = node.bed.pods[1].host.clone();
    link::delete(&mut node.bed.links, host.as_str()).unwrap();
    let mut number = 0;
    eventually("the switch notices", || {
        node.send(0, 1, number, 100);
        node.send(0, 2, number, 100);
        assert_eq!(node.bed.pods[2].raw.receive(), arrived(0, 2, number, 100));
        number += 1;
        node.switch.counters().ports[&PortId(1)].link == Link::Gone
    });
    eventually("a frame is refused", || {
        node.send(0, 1, number, 100);
        node.switch.counters().ports[&PortId(1)].device.tx_refused > 0
    });
    let tx = node.switch.counters().ports[&PortId(1)].tx;
    let len = arrived(0, 1, 0, 100).len() as u64;
    assert_eq!(tx.bytes, tx.packets * len, "refused frames are not sent");
    node.detach(1);
    eventually("the socket is closed", || node.switch.all_closed());
    node.send(0, 2, number, 100);
    assert_eq!(node.bed.pods[2].raw.receive(), arrived(0, 2, number, 100));
    node.assert_balanced();
}

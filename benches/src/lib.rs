// SPDX-License-Identifier: Apache-2.0
//! Benchmarks of podswitch: what is measured, and how it is told. `docs/benchmarks.md` says what the figures mean.
//!
//! | module | measures |
//! |---|---|
//! | [`frame_path`] | cycles a packet of the whole pipeline on ports in memory, against a loop without one |
//! | [`xdp`] | frames a second between pods on veths, against a bare forwarder on the same sockets |
//! | [`idle`] | what a quiet worker costs, and how long it takes to wake |
//! | [`memory`] | memory of ports: the daemon's and the kernel's |
//! | [`cni`] | attaching and detaching pods |
//! | [`policy`] | network policy, connections and floods in a large cluster |
//! | [`routes`] | the route table with the public one in it |
//! | [`tunnel`] | what VXLAN costs, on ports in memory |
//! | [`vhost`] | frames between virtual machines, against forwarders of DPDK's |
//! | [`nodes`] | frames and a TCP stream from node to node, against the kernel |
//!
//! | module | |
//! |---|---|
//! | [`outcome`], [`stats`] | samples, medians, interleaved rounds, confidence intervals |
//! | [`report`], [`svg`], [`machine`], [`criterion`] | JSON, and one HTML page with plots |
//! | [`traffic`] | pods, frames and tables |
//! | [`turned`], [`bare`] | pipelines that the benchmark turns itself; the loop without one |
//! | [`pair`] | a pod and a NIC on ports in memory |
//! | [`valve`] | when sources of frames may send, and how fast |
//! | [`pods`], [`ping`], [`process`] | a daemon with pods, and what /proc says of it |
#![forbid(unsafe_code)]

pub mod bare;
pub mod cni;
pub mod criterion;
pub mod frame_path;
pub mod idle;
pub mod machine;
pub mod memory;
pub mod nodes;
pub mod outcome;
pub mod pair;
pub mod ping;
pub mod pods;
pub mod policy;
pub mod process;
pub mod report;
pub mod routes;
pub mod stats;
pub mod svg;
pub mod traffic;
pub mod tunnel;
pub mod turned;
pub mod valve;
pub mod vhost;
pub mod xdp;

use outcome::Outcome;

/// How long to measure.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// A short run, for trying the benchmarks.
    pub quick: bool,
}

impl Settings {
    /// One of two amounts.
    pub fn pick<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// A benchmark.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    /// As the command line takes it.
    pub name: &'static str,
    /// In a line.
    pub about: &'static str,
    /// Panics, saying why, when it cannot measure what it should; what it made is taken apart.
    pub run: fn(Settings) -> Outcome,
}

/// All of them, in the order in which they run.
pub const ALL: &[Bench] = &[
    // What others freed it would use again.
    Bench {
        name: "policy-memory",
        about: "memory for the pods of a large cluster, and for connections",
        run: policy::footprint::run,
    },
    Bench {
        name: "frame-path",
        about: "cycles a packet of the whole pipeline on ports in memory, against a bare loop",
        run: frame_path::run,
    },
    Bench {
        name: "policy-path",
        about: "cycles a packet of established flows under network policy, against none and a bare loop",
        run: policy::path::run,
    },
    Bench {
        name: "connections",
        about: "TCP connections a second under network policy",
        run: policy::connections::run,
    },
    Bench {
        name: "floods",
        about: "what is left to established flows while another pod floods the worker",
        run: policy::floods::run,
    },
    Bench {
        name: "policy-update",
        about: "time from a change of network policy to the first frame judged by it, and turns meanwhile",
        run: policy::update::run,
    },
    Bench {
        name: "route-table",
        about: "lookups and changes in a route table with the public one in it",
        run: routes::run,
    },
    Bench {
        name: "tunnel",
        about: "cycles a packet that VXLAN adds, on ports in memory",
        run: tunnel::run,
    },
    Bench {
        name: "xdp",
        about: "frames a second between pods on veths, against a bare forwarder",
        run: xdp::run,
    },
    Bench {
        name: "vhost",
        about: "frames between virtual machines by vhost-user, against dpdk-testpmd and Open vSwitch with DPDK",
        run: vhost::run,
    },
    Bench {
        name: "nodes",
        about: "frames and a TCP stream from pod to pod on another node, against the kernel",
        run: nodes::run,
    },
    Bench {
        name: "idle",
        about: "CPU of a quiet worker, and the latency of waking it",
        run: idle::run,
    },
    Bench {
        name: "memory",
        about: "memory of ports: the daemon's and the kernel's",
        run: memory::run,
    },
    Bench {
        name: "cni",
        about: "CNI ADD to the first ping, ADD and DEL rates",
        run: cni::run,
    },
];

// SPDX-License-Identifier: Apache-2.0
//! Frame path, tables and rings of the podswitch userspace switch.
//!
//! # A frame's journey
//!
//! 1. A pod sends a frame into its `eth0`. On the other end of the veth, in the node's namespace, the steering program
//!    ([`port::xdp::Steering`]) gives it to the port's AF_XDP socket: the kernel copies it into a chunk of the port's
//!    [`Arena`](frame::Arena), one that the port has put into the fill ring, and the chunk's number into the receive ring.
//!    Without a socket the program drops the frame.
//! 2. The port's worker ([`worker`]) comes around: it takes the newest tables ([`publish::Reader::refresh`]), finds the
//!    port's balance of cycles positive, and receives a burst of up to 64 frames. A [`Frame`](frame::Frame) is a handle
//!    that owns its chunks: nobody else has them until it is sent or freed.
//! 3. The burst goes through the stages ([`stage`]): what is it, is the sender who it says it is, is its flow known
//!    ([`flow`]); if not, may it be sent, where to, may it be had. Each packet ends with a [`Verdict`]. For a partial
//!    transport checksum there is a note, and the sum itself is left for later.
//! 4. The worker does what the verdicts say. *Forward*: into the outbox of a port of its own; a frame for a port whose
//!    memory is another arena is copied first, and a partial checksum is finished here unless the port passes it on.
//!    *Reply*: the frame was turned into an answer and goes back. *Flood*: a copy for each port. *Drop*: counted under its
//!    [`Reason`], and the chunk is free again ([`counters`]).
//! 5. A frame for another worker's port crosses a ring ([`handoff`]), if that worker does not have too many already; there
//!    the stages judge what concerns the receiver, it is copied into memory of that worker, and the chunk goes home over
//!    a second ring.
//! 6. Each outbox that got something is flushed: its frames' chunks go into the port's transmit ring, and a bounded number
//!    of system calls make the kernel send. What the ring does not take waits, up to the port's backlog.
//! 7. The kernel puts the number of each chunk that was sent into the completion ring; the port's next turn takes it back
//!    into the worker's [`Pool`](frame::Pool), and puts a free chunk into the fill ring of the port that needs one.
//! 8. What all this took is charged to the port the burst came from. When nothing has come for a while, the worker
//!    announces that it sleeps, looks again, and waits on all sockets at once.
//!
//! Nothing on this way allocates, waits for a lock, or panics, whatever the bytes say.
//!
//! # Modules
//!
//! | module | what is there | who may depend on what |
//! |---|---|---|
//! | [`wire`] | byte layouts, checksums, the flow key | nothing else |
//! | [`ids`], [`verdict`] | small integers; verdicts and reasons | nothing else |
//! | `foreign` | memory that others change at any time | nothing else |
//! | `memfd` | memory that a successor can take over, in huge pages if it can | nothing else |
//! | [`frame`] | who owns which memory: arena, pool, frame, batch | `wire` |
//! | [`port`] | devices: AF_XDP, memory, capture files, faults | `frame` |
//! | [`tables`] | what all workers share and only read | `wire` |
//! | [`publish`] | new tables for workers that never wait | `tables` |
//! | [`flow`] | the connections of a worker, in a memfd | `wire`, limits of `tables` |
//! | [`events`] | samples of what was refused | `wire` |
//! | [`counters`] | what a worker has counted | `port` |
//! | [`stage`] | decisions about packets, one a file | `wire`, `frame`, `port`, `tables`, `flow`, `counters` |
//! | [`handoff`] | rings between workers | `frame` |
//! | [`worker`] | the loop: serve, dispatch, answer control, age, sleep | all of the above |
//! | [`switch`] | all of it as control sees it; a worker gives it the ports it closes | `worker` |

mod blocks;
pub mod counters;
pub mod events;
pub mod flow;
mod foreign;
pub mod frame;
pub mod handoff;
pub mod ids;
mod memfd;
pub mod port;
mod prefetch;
pub mod publish;
pub mod stage;
pub mod switch;
mod sync;
pub mod tables;
pub mod verdict;
pub mod wire;
pub mod worker;

pub use ids::{
    CidrClass, GroupId, IdentityId, PeerClass, PolicyRuleId, PortId, PortSet, RuleId, VrfId,
    WorkerId,
};
pub use verdict::{Reason, Verdict};

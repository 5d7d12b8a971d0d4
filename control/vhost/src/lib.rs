// SPDX-License-Identifier: Apache-2.0
//! vhost-user (docs/interop/vhost-user.rst of QEMU): the messages by which the frontend of a virtual machine, or a DPDK program, sets up the virtqueues
//! that a port serves.
//!
//! Each port has a [`Service`]: a socket, and a thread that may block on it without anybody noticing. What a frontend has set up goes to the
//! port's worker as a whole, by a [`VhostHandle`]. One frontend is connected at a time; when it has gone, the port waits for the next.
//!
//! | module | |
//! |---|---|
//! | `service` | the thread: connections, one after another |
//! | `socket` | listening, connecting, and waiting for a whole message |
//! | `session` | what a frontend has said, and what the worker is told |
//! | `refusal` | why a connection is ended |
//! | `patrol` | what a frontend may have a thread wait in, and how that ends |
//! | `direct` | connections without a socket, for fuzz targets |
//! | `files` | which descriptors are taken from a frontend |
//!
//! A frontend that breaks the protocol loses its connection, with a reason that names the message and the value; the port is as it was before it came.
//!
//! [`VhostHandle`]: podswitch_datapath::port::vhost::VhostHandle
#![forbid(unsafe_code)]

#[cfg(fuzzing)]
mod direct;
mod files;
mod patrol;
mod refusal;
mod service;
mod session;
mod socket;

#[cfg(fuzzing)]
pub use direct::Direct;
pub use files::FileError;
pub use refusal::Refusal;
pub use service::{Service, State};
pub use socket::{Endpoint, Meeting, Mode, SocketError};

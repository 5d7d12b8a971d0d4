// SPDX-License-Identifier: Apache-2.0
//! Why a frontend's connection is ended.

use std::io;

use podswitch_datapath::port::vhost::{Addresses, Broken, PartError, RegionError};
use vhost::vhost_user::Error;

use crate::files::FileError;
use crate::session::SETTLE;

/// What a frontend said that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It chose what it was not offered.
    #[error("features {chosen:#x}, of which {:#x} were not offered", chosen & !offered)]
    Features {
        /// What it chose.
        chosen: u64,
        /// What it could.
        offered: u64,
    },
    /// A queue that is not there.
    #[error("queue {index}; there are {count}")]
    NoQueue {
        /// Its number.
        index: u32,
        /// How many there may be.
        count: usize,
    },
    /// Something was to be changed that a queue goes by while it is served.
    #[error("{what} to become {new:#x} while queue {index} is served; it is {old:#x}")]
    Running {
        /// What.
        what: &'static str,
        /// What it was to be.
        new: u64,
        /// What it is.
        old: u64,
        /// The queue.
        index: usize,
    },
    /// A length that no queue has.
    #[error("a queue of {0} descriptors; it has 1 to 32768")]
    Size(u32),
    /// A queue was started before it was said where it is, or what is said of it cannot be.
    #[error(
        "queue {index} of {size} descriptors at {:#x}, {:#x} and {:#x} is not in the memory that was told of, not aligned, or of a length that it cannot have",
        at.descriptors, at.available, at.used
    )]
    Misplaced {
        /// Its number.
        index: usize,
        /// Its length.
        size: u16,
        /// Where it was said to be.
        at: Addresses,
    },
    /// A region of memory.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// A region that was to be taken away and is not there.
    #[error("there is no region of {bytes} bytes at {guest:#x}")]
    NoRegion {
        /// Where it should be for the guest.
        guest: u64,
        /// Bytes of it.
        bytes: u64,
    },
    /// A file that is to be shared.
    #[error("{what} of {bytes} bytes at offset {offset:#x}: {why}")]
    Part {
        /// What it is for.
        what: &'static str,
        /// Bytes of it.
        bytes: u64,
        /// Where it begins in the file.
        offset: u64,
        /// Why it is not taken.
        why: PartError,
    },
    /// Regions for what is in flight that are none.
    #[error(
        "what is in flight of {queues} queues of {length} descriptors; there are {count} queues of 1 to 32768"
    )]
    Inflight {
        /// How many there are to be.
        queues: u16,
        /// How long.
        length: u16,
        /// How many there may be.
        count: usize,
    },
    /// A descriptor.
    #[error(transparent)]
    File(#[from] FileError),
    /// The guest's driver.
    #[error("queue {}: {}", .0.queue, .0.fault)]
    Broken(Broken),
    /// What nobody has offered.
    #[error("not supported")]
    Unsupported,
    /// The worker does not answer, so nobody knows whether it still uses what the frontend takes away.
    #[error("the port's worker has not looked for {} s", SETTLE.as_secs())]
    Deaf,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::ReqHandlerError(io::Error::other(refusal))
    }
}

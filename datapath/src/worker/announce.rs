// SPDX-License-Identifier: Apache-2.0
//! Devices of which nothing in memory tells that frames wait, but a descriptor alone: all are asked for at once, with one call a turn.
#![forbid(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::ids::PortId;

/// Most ports that are told of at once; the kernel begins with others the next time.
const AT_ONCE: usize = 32;

/// The descriptors.
#[derive(Debug, Default)]
pub(crate) struct Announcers {
    epoll: Option<OwnedFd>,
    ports: usize,
}

impl Announcers {
    /// Asks for this port's from now on.
    ///
    /// # Errors
    /// When the kernel has no room for it.
    pub(crate) fn add(&mut self, id: PortId, fd: BorrowedFd<'_>) -> io::Result<()> {
        let all = match &self.epoll {
            Some(all) => all,
            None => self.epoll.insert(epoll::create(CreateFlags::CLOEXEC)?),
        };
        epoll::add(
            all,
            fd,
            EventData::new_u64(id.index() as u64),
            EventFlags::IN,
        )?;
        self.ports += 1;
        Ok(())
    }

    /// And no longer.
    pub(crate) fn remove(&mut self, fd: BorrowedFd<'_>) {
        if let Some(all) = &self.epoll
            && epoll::delete(all, fd).is_ok()
        {
            self.ports -= 1;
        }
    }

    /// Tells which ports have something.
    #[inline]
    pub(crate) fn ask(&self, mut tell: impl FnMut(PortId)) {
        if self.ports > 0
            && let Some(all) = &self.epoll
        {
            let mut events = [MaybeUninit::<Event>::uninit(); AT_ONCE];
            let now = Timespec::default();
            // An error is asked about again next time.
            let ready = epoll::wait(all, &mut events, Some(&now)).map(|(ready, _)| ready);
            for event in ready.unwrap_or_default() {
                tell(PortId(event.data.u64() as u16));
            }
        }
    }
}

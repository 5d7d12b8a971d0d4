// SPDX-License-Identifier: Apache-2.0
//! A guest: memory, and queues as their driver sees them, in a way that shares nothing with the device's.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use podswitch_datapath::port::vhost::{Addresses, Position, Queue, Region};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

/// Where the guest's memory begins for the guest and for its frontend; the file begins a page earlier.
pub(crate) const GUEST: u64 = 0x4000_0000;
pub(crate) const USER: u64 = 0x7f00_0000_0000;
const OFFSET: u64 = 4096;
/// Flags of descriptors, and of places in a packed queue.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;
const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// Memory of a guest.
pub(crate) struct Guest {
    pub(crate) file: Arc<File>,
    pub(crate) bytes: u64,
    /// The next address that nothing is at.
    free: u64,
}

impl Guest {
    pub(crate) fn new(bytes: u64) -> Guest {
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&file, OFFSET + bytes).unwrap();
        Guest {
            file: Arc::new(file),
            bytes,
            free: GUEST,
        }
    }

    /// All of it, as its frontend describes it.
    pub(crate) fn region(&self) -> Region {
        Region {
            guest: GUEST,
            user: USER,
            bytes: self.bytes,
            offset: OFFSET,
            file: self.file.try_clone().unwrap(),
        }
    }

    /// The same in two regions that lie side by side for the guest, and in the other order for its frontend.
    pub(crate) fn halves(&self) -> [Region; 2] {
        let half = self.bytes / 2;
        let all = [self.region(), self.region()];
        let [first, second] = all;
        [
            Region {
                user: USER + half,
                bytes: half,
                ..first
            },
            Region {
                guest: GUEST + half,
                bytes: half,
                offset: OFFSET + half,
                ..second
            },
        ]
    }

    /// Room that nothing else is in, at a multiple of `align`.
    pub(crate) fn room(&mut self, bytes: u64, align: u64) -> u64 {
        let at = self.free.next_multiple_of(align);
        self.free = at + bytes;
        assert!(
            self.free <= GUEST + self.bytes,
            "the guest's memory is full"
        );
        at
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at - GUEST + OFFSET).unwrap();
    }

    pub(crate) fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file
            .read_exact_at(&mut bytes, at - GUEST + OFFSET)
            .unwrap();
        bytes
    }

    pub(crate) fn word(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.read(at, 2).try_into().unwrap())
    }

    pub(crate) fn set_word(&self, at: u64, value: u16) {
        self.write(at, &value.to_le_bytes());
    }

    pub(crate) fn int(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.read(at, 4).try_into().unwrap())
    }
}

/// What is known by an address and how long it is.
pub(crate) type Part = (u64, u32);

/// A queue, as its driver sees it.
pub(crate) struct Driver {
    pub(crate) size: u16,
    packed: bool,
    /// Where its parts are for the guest.
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    /// Free descriptors of a split queue, or ids of a packed one.
    free: Vec<u16>,
    /// Descriptors of each id.
    held: Vec<Vec<u16>>,
    next: u16,
    wrap: bool,
    seen: u16,
    seen_wrap: bool,
    pub(crate) call: Arc<File>,
    pub(crate) kick: Arc<File>,
}

impl Driver {
    pub(crate) fn new(guest: &mut Guest, size: u16, packed: bool) -> Driver {
        let n = u64::from(size);
        let event = || {
            let fd: OwnedFd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
            Arc::new(File::from(fd))
        };
        Driver {
            size,
            packed,
            descriptors: guest.room(16 * n, 16),
            available: guest.room(6 + 2 * n, 4),
            used: guest.room(6 + 8 * n, 4),
            free: (0..size).rev().collect(),
            held: vec![Vec::new(); usize::from(size)],
            next: 0,
            wrap: true,
            seen: 0,
            seen_wrap: true,
            call: event(),
            kick: event(),
        }
    }

    /// What its frontend says of it, of all memory in one region.
    pub(crate) fn queue(&self, start: u64) -> Queue {
        let user = |at: u64| at - GUEST + USER;
        let begin = if self.packed { 1 << 15 } else { 0 };
        Queue {
            size: self.size,
            addresses: Addresses {
                descriptors: user(self.descriptors),
                available: user(self.available),
                used: user(self.used),
            },
            from: Position {
                available: begin,
                used: begin,
            },
            start,
            disabled: false,
            call: Some(self.call.clone()),
            kick: Some(self.kick.clone()),
        }
    }

    /// Writes descriptor `index` of a table or of the queue itself.
    pub(crate) fn describe(
        &self,
        guest: &Guest,
        table: u64,
        index: u16,
        part: Part,
        flags: u16,
        last: u16,
    ) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&part.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&part.1.to_le_bytes());
        let (third, fourth) = if self.packed {
            (last, flags)
        } else {
            (flags, last)
        };
        bytes[12..14].copy_from_slice(&third.to_le_bytes());
        bytes[14..].copy_from_slice(&fourth.to_le_bytes());
        guest.write(table + 16 * u64::from(index), &bytes);
    }

    /// How many more descriptors there are.
    pub(crate) fn room(&self) -> usize {
        self.free.len()
    }

    /// Makes a buffer of these parts available, described in the queue or in a `table`; its id.
    pub(crate) fn offer(
        &mut self,
        guest: &Guest,
        parts: &[Part],
        flags: u16,
        table: Option<u64>,
    ) -> u16 {
        if let Some(table) = table {
            for (n, part) in (0..).zip(parts) {
                let more = usize::from(n) + 1 < parts.len();
                let chain = if more && !self.packed { NEXT } else { 0 };
                let last = if self.packed { 0 } else { n + 1 };
                self.describe(guest, table, n, *part, flags | chain, last);
            }
            let whole = (table, 16 * parts.len() as u32);
            return self.chain(guest, &[whole], INDIRECT);
        }
        self.chain(guest, parts, flags)
    }

    fn chain(&mut self, guest: &Guest, parts: &[Part], flags: u16) -> u16 {
        match self.packed {
            true => self.chain_packed(guest, parts, flags),
            false => self.chain_split(guest, parts, flags),
        }
    }

    fn chain_split(&mut self, guest: &Guest, parts: &[Part], flags: u16) -> u16 {
        let from = self.free.len() - parts.len();
        let mut indices = self.free.split_off(from);
        indices.reverse();
        for (n, part) in parts.iter().enumerate() {
            let next = indices.get(n + 1).copied();
            let chain = next.map_or(0, |_| NEXT);
            let (at, next) = (indices[n], next.unwrap_or(0));
            self.describe(guest, self.descriptors, at, *part, flags | chain, next);
        }
        let id = indices[0];
        self.held[usize::from(id)] = indices;
        self.show(guest, id);
        id
    }

    /// Makes the chain that begins with a descriptor of a split queue available, whatever it is.
    pub(crate) fn show(&mut self, guest: &Guest, head: u16) {
        let place = u64::from(self.next & (self.size - 1));
        guest.set_word(self.available + 4 + 2 * place, head);
        self.next = self.next.wrapping_add(1);
        guest.set_word(self.available + 2, self.next);
    }

    fn chain_packed(&mut self, guest: &Guest, parts: &[Part], flags: u16) -> u16 {
        let id = self.free.pop().unwrap();
        // The others count as taken, too.
        let rest = self.free.len() - (parts.len() - 1);
        let mut ids = self.free.split_off(rest);
        ids.push(id);
        self.held[usize::from(id)] = ids;
        let first = (self.next, self.wrap);
        let mut first_flags = 0;
        for (n, part) in parts.iter().enumerate() {
            let chain = if n + 1 < parts.len() { NEXT } else { 0 };
            let own = if self.wrap { AVAILABLE } else { USED };
            let all = flags | chain | own;
            if n == 0 {
                first_flags = all;
                // Seen last: as it is now, it is used.
                let was = if self.wrap { 0 } else { AVAILABLE | USED };
                self.describe(guest, self.descriptors, self.next, *part, was, id);
            } else {
                self.describe(guest, self.descriptors, self.next, *part, all, id);
            }
            self.next += 1;
            if self.next == self.size {
                (self.next, self.wrap) = (0, !self.wrap);
            }
        }
        guest.set_word(self.descriptors + 16 * u64::from(first.0) + 14, first_flags);
        id
    }

    /// The next buffer that was given back: its id, and how much was written.
    pub(crate) fn used(&mut self, guest: &Guest) -> Option<(u16, u32)> {
        let (id, written) = match self.packed {
            true => self.used_packed(guest)?,
            false => self.used_split(guest)?,
        };
        let held = std::mem::take(&mut self.held[usize::from(id)]);
        assert!(!held.is_empty(), "id {id} was not the device's");
        if self.packed {
            self.seen += held.len() as u16;
            if self.seen >= self.size {
                (self.seen, self.seen_wrap) = (self.seen - self.size, !self.seen_wrap);
            }
        }
        self.free.extend(held);
        Some((id, written))
    }

    fn used_split(&mut self, guest: &Guest) -> Option<(u16, u32)> {
        if guest.word(self.used + 2) == self.seen {
            return None;
        }
        let at = self.used + 4 + 8 * u64::from(self.seen & (self.size - 1));
        self.seen = self.seen.wrapping_add(1);
        let id = guest.int(at);
        Some((id.try_into().unwrap(), guest.int(at + 4)))
    }

    fn used_packed(&mut self, guest: &Guest) -> Option<(u16, u32)> {
        let at = self.descriptors + 16 * u64::from(self.seen);
        let flags = guest.word(at + 14);
        let both = [flags & AVAILABLE != 0, flags & USED != 0];
        (both == [self.seen_wrap; 2]).then(|| (guest.word(at + 12), guest.int(at + 8)))
    }

    /// Asks the device to call, or not to; by the events that were agreed on.
    pub(crate) fn ask_for_calls(&self, guest: &Guest, on: bool, events: bool) {
        match (self.packed, events) {
            (false, false) => guest.set_word(self.available, u16::from(!on)),
            (false, true) => {
                let event = if on {
                    self.seen
                } else {
                    self.seen.wrapping_sub(1)
                };
                guest.set_word(self.available + 4 + 2 * u64::from(self.size), event);
            }
            (true, true) if on => {
                let wrap = if self.seen_wrap { 1 << 15 } else { 0 };
                guest.set_word(self.available, self.seen | wrap);
                guest.set_word(self.available + 2, 2);
            }
            (true, _) => guest.set_word(self.available + 2, u16::from(!on)),
        }
    }

    /// Whether the device wants to be kicked for the buffers that were made available from the `old`th on.
    pub(crate) fn is_to_kick(&self, guest: &Guest, old: u16, events: bool) -> bool {
        match (self.packed, events) {
            (false, false) => guest.word(self.used) & 1 == 0,
            (false, true) => {
                let event = guest.word(self.used + 4 + 8 * u64::from(self.size));
                let (passed, made) = (self.next.wrapping_sub(event), self.next.wrapping_sub(old));
                passed.wrapping_sub(1) < made
            }
            (true, _) => guest.word(self.used + 2) != 1,
        }
    }

    /// Buffers that were made available so far, of a split queue.
    pub(crate) fn offered(&self) -> u16 {
        self.next
    }
}

/// How often an eventfd was rung since it was read last.
pub(crate) fn rung(event: &File) -> u64 {
    let mut bytes = [0; 8];
    match rustix::io::read(event.as_fd(), &mut bytes) {
        Ok(_) => u64::from_ne_bytes(bytes),
        Err(_) => 0,
    }
}

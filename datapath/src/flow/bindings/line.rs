// SPDX-License-Identifier: Apache-2.0
//! A binding in memory that one worker writes while others read: the last word has a number that is odd while the others are being written
//! and another one afterwards (a sequence lock, as Linux' `seqcount_t`).
#![forbid(unsafe_code)]

use crate::sync::{Ordering, fence};
use crate::wire::FlowKey;
use crate::wire::translate::Endpoint;

/// Words of a line: the key (0 to 4), the real address (5 and 6), and number, port, and whether it is in use and kept (7).
pub(super) const WORDS: usize = 8;
const INSIDE: usize = 5;
const LAST: usize = 7;
/// Of the last word: in use; kept; the number plus one of the binding of the connection's other end; the outside is a service; the port; the
/// number, odd while it is being written.
const USED: u64 = 1;
const KEPT: u64 = 2;
const NEXT: u32 = 2;
const NEXT_BITS: u64 = (1 << 21) - 1;
const SERVICE: u32 = 23;
const PORT: u32 = 24;
const NUMBER: u32 = 40;
const WRITING: u64 = 1 << NUMBER;

/// A word that is shared: the standard library's, or the model checker's.
pub(super) trait Word {
    fn load(&self, ordering: Ordering) -> u64;
    fn store(&self, value: u64, ordering: Ordering);
}

impl Word for std::sync::atomic::AtomicU64 {
    #[inline(always)]
    fn load(&self, ordering: Ordering) -> u64 {
        self.load(ordering)
    }

    #[inline(always)]
    fn store(&self, value: u64, ordering: Ordering) {
        self.store(value, ordering);
    }
}

/// A binding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Binding {
    /// Key of packets from outside: to the address and port by which the end is known there.
    pub(super) outside: FlowKey,
    /// The end itself.
    pub(super) inside: Endpoint,
    /// That address and port are a service's, and the end is a backend.
    pub(super) service: bool,
}

impl Binding {
    /// Of a connection whose packets from the bound end have this key; they leave as if from `to`.
    pub(super) fn new(key: &FlowKey, to: Endpoint, service: bool) -> Binding {
        Binding {
            outside: key.reversed().with_destination(&to),
            inside: Endpoint {
                address: key.src,
                port: key.sport,
            },
            service,
        }
    }

    /// Key of packets from the bound end.
    pub(super) fn inner(&self) -> FlowKey {
        self.outside.with_destination(&self.inside).reversed()
    }
}

/// The binding of the other end of the connection, if that is bound, too.
#[inline(always)]
pub(super) fn next(words: &[impl Word; WORDS]) -> Option<u32> {
    let last = words[LAST].load(Ordering::Relaxed);
    ((last >> NEXT & NEXT_BITS) as u32).checked_sub(1)
}

/// Says which binding the other end has. Only one thread may.
pub(super) fn chain(words: &[impl Word; WORDS], next: u32) {
    let last = words[LAST].load(Ordering::Relaxed);
    let rest = last & !(NEXT_BITS << NEXT);
    // Nothing that a reader takes together changes.
    words[LAST].store(rest | u64::from(next + 1) << NEXT, Ordering::Release);
}

/// Whether what is in a line was made by a process before this one, and no connection has named it since.
#[inline(always)]
pub(super) fn is_kept(words: &[impl Word; WORDS]) -> bool {
    words[LAST].load(Ordering::Relaxed) & KEPT != 0
}

/// Keeps what is in a line, if something is. One that was being written when the process before ended is empty.
pub(super) fn keep(words: &[impl Word; WORDS]) {
    let last = words[LAST].load(Ordering::Relaxed);
    match last & WRITING != 0 {
        true => clear(words),
        false => words[LAST].store(last | ((last & USED) * KEPT), Ordering::Relaxed),
    }
}

/// What is in a line; nothing while it is being written.
#[inline(always)]
pub(super) fn read(words: &[impl Word; WORDS]) -> Option<Binding> {
    let last = words[LAST].load(Ordering::Acquire);
    if last & USED == 0 || last & WRITING != 0 {
        return None;
    }
    let word = |i: usize| words[i].load(Ordering::Relaxed);
    let key: [u64; INSIDE] = std::array::from_fn(word);
    let address: [u64; 2] = std::array::from_fn(|i| word(INSIDE + i));
    // The words above are read before the number is looked at again.
    fence(Ordering::Acquire);
    if words[LAST].load(Ordering::Relaxed) != last {
        return None;
    }
    Some(Binding {
        outside: zerocopy::transmute!(key),
        inside: Endpoint {
            address: zerocopy::transmute!(address),
            port: (last >> PORT) as u16,
        },
        service: last >> SERVICE & 1 != 0,
    })
}

/// Writes a line. Only one thread may.
pub(super) fn write(words: &[impl Word; WORDS], binding: &Binding) {
    let number = begin(words);
    let key: [u64; INSIDE] = zerocopy::transmute!(binding.outside);
    let address: [u64; 2] = zerocopy::transmute!(binding.inside.address);
    for (i, value) in key.into_iter().chain(address).enumerate() {
        words[i].store(value, Ordering::Relaxed);
    }
    let service = u64::from(binding.service) << SERVICE;
    let last = number | u64::from(binding.inside.port) << PORT | service | USED;
    words[LAST].store(last, Ordering::Release);
}

/// Empties a line. Only one thread may.
pub(super) fn clear(words: &[impl Word; WORDS]) {
    let number = begin(words);
    words[LAST].store(number, Ordering::Release);
}

/// Says that the line is being written; returns the number it gets.
fn begin(words: &[impl Word; WORDS]) -> u64 {
    let last = words[LAST].load(Ordering::Relaxed);
    let number = (last >> NUMBER | 1) << NUMBER;
    words[LAST].store(number, Ordering::Relaxed);
    // The number is seen before any of the words that are written from here on.
    fence(Ordering::Release);
    number.wrapping_add(WRITING)
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    use super::*;
    use crate::sync::Arc;
    use loom::sync::atomic::AtomicU64;

    impl Word for AtomicU64 {
        fn load(&self, ordering: Ordering) -> u64 {
            self.load(ordering)
        }

        fn store(&self, value: u64, ordering: Ordering) {
            self.store(value, ordering);
        }
    }

    fn binding(n: u8) -> Binding {
        let key = FlowKey::new(
            crate::ids::VrfId(0),
            17,
            [n; 16],
            [n; 16],
            n.into(),
            n.into(),
        );
        let to = Endpoint {
            address: [n; 16],
            port: n.into(),
        };
        Binding::new(&key, to, n == 2)
    }

    /// A reader sees one binding, the other or none, never parts of both.
    #[test]
    fn loom_a_line_is_read_whole_or_not_at_all() {
        let mut model = loom::model::Builder::new();
        // Every word that is read may be the old or the new one: without a bound there are too many ways.
        model.preemption_bound = Some(2);
        model.check(|| {
            let words: Arc<[AtomicU64; WORDS]> =
                Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
            write(&words, &binding(1));
            let reader = {
                let words = words.clone();
                loom::thread::spawn(move || {
                    if let Some(seen) = read(&words) {
                        assert!(seen == binding(1) || seen == binding(2), "{seen:?}");
                    }
                })
            };
            write(&words, &binding(2));
            reader.join().unwrap();
        });
    }
}

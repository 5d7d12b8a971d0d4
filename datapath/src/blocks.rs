// SPDX-License-Identifier: Apache-2.0
//! Blocks of 256 codes, all of the process in one place: huge pages where there are some, and found by their number.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Codes of a block.
pub(crate) const BLOCK: usize = 256;
/// Bits of a block's number.
pub(crate) const NUMBER_BITS: u32 = 18;
const CODES: usize = BLOCK << NUMBER_BITS;
/// Bytes of a huge page; on machines with others the kernel does less.
const HUGE_PAGE: usize = 2 << 20;

/// Codes, all of them at once: block 0 first, which is zero for ever.
pub(crate) type Codes = &'static [AtomicU16];

struct Blocks {
    codes: Codes,
    free: Mutex<Free>,
}

/// Numbers that are not in use.
struct Free {
    /// Used before.
    numbers: Vec<u32>,
    /// Never used: this one and all above it.
    fresh: u32,
}

/// Made with the first block. None: the kernel gives no addresses, and there are no blocks.
fn blocks() -> Option<&'static Blocks> {
    static ALL: OnceLock<Option<Blocks>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        Some(Blocks {
            codes: map()?,
            free: Mutex::new(Free {
                numbers: Vec::new(),
                fresh: 1,
            }),
        })
    });
    all.as_ref()
}

/// Zeroed memory for all codes there may ever be; what nobody writes to takes none. It is never given back.
fn map() -> Option<Codes> {
    let bytes = CODES * size_of::<AtomicU16>();
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: (M3) new addresses that the kernel chooses.
    let room = unsafe { libc::mmap(null_mut(), bytes + HUGE_PAGE, access, flags, -1, 0) };
    if room == libc::MAP_FAILED {
        return None;
    }
    let before = room.addr().next_multiple_of(HUGE_PAGE) - room.addr();
    // SAFETY: (M3) less than a huge page behind the first of the addresses.
    let base = unsafe { room.cast::<u8>().add(before) };
    // Not the first ones: few blocks are to take few pages. Nothing depends on it.
    // SAFETY: (M3) a part of what was just mapped; it changes no content.
    unsafe {
        libc::madvise(
            base.add(HUGE_PAGE).cast(),
            bytes - HUGE_PAGE,
            libc::MADV_HUGEPAGE,
        )
    };
    // SAFETY: (M3) `bytes` from there on are mapped as long as the process lives, and are only ever seen as atomics.
    let codes: Codes = unsafe { std::slice::from_raw_parts(base.cast(), CODES) };
    // Who reads block 0 first is a worker, and is not to wait for its page.
    codes[0].store(0, Ordering::Relaxed);
    Some(codes)
}

/// All codes; none while there are no blocks.
pub(crate) fn codes() -> Codes {
    blocks().map_or(&[], |all| all.codes)
}

/// Reads a code.
#[inline(always)]
pub(crate) fn code(codes: Codes, number: u32, at: u8) -> u16 {
    let index = number as usize * BLOCK + usize::from(at);
    codes.get(index).map_or(0, |c| c.load(Ordering::Relaxed))
}

/// Asks the processor to bring a code near.
#[inline(always)]
pub(crate) fn prefetch(codes: Codes, number: u32, at: u8) {
    if let Some(code) = codes.get(number as usize * BLOCK + usize::from(at)) {
        crate::prefetch::prefetch(code);
    }
}

/// A block in use. Written to only while nobody else has it: a reader comes to it by tables that were published after.
#[derive(Debug)]
pub(crate) struct Block {
    number: u32,
    codes: &'static [AtomicU16],
}

impl Block {
    /// A new one. None: all are in use, or there are none at all.
    pub(crate) fn new(codes: &[u16; BLOCK]) -> Option<Block> {
        let all = blocks()?;
        let mut free = all.free.lock().unwrap_or_else(PoisonError::into_inner);
        let number = match free.numbers.pop() {
            Some(number) => number,
            None if free.fresh < 1 << NUMBER_BITS => {
                free.fresh += 1;
                free.fresh - 1
            }
            None => return None,
        };
        drop(free);
        let first = number as usize * BLOCK;
        let mut block = Block {
            number,
            codes: &all.codes[first..first + BLOCK],
        };
        block.write(0, codes);
        Some(block)
    }

    /// Its number, never 0.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Asks for all of its codes.
    pub(crate) fn prefetch(&self) {
        crate::prefetch::prefetch_slice(self.codes);
    }

    pub(crate) fn read(&self) -> [u16; BLOCK] {
        std::array::from_fn(|at| self.codes[at].load(Ordering::Relaxed))
    }

    pub(crate) fn write(&mut self, at: usize, codes: &[u16]) {
        for (slot, code) in self.codes[at..].iter().zip(codes) {
            slot.store(*code, Ordering::Relaxed);
        }
    }

    /// Calls `f` with its address and size.
    pub(crate) fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        f(self.codes.as_ptr().addr(), size_of_val(self.codes));
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(all) = blocks() {
            let mut free = all.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.numbers.push(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_apart_and_keep_what_is_written() {
        let all: Vec<Block> = (1..=500)
            .map(|n| Block::new(&[n; BLOCK]).unwrap())
            .collect();
        for (block, n) in all.iter().zip(1..) {
            assert_eq!(block.read(), [n; BLOCK]);
            for at in [0, 255] {
                assert_eq!(code(codes(), block.number(), at), n);
            }
        }
        assert_eq!(code(codes(), 0, 0), 0);
        assert_eq!(code(codes(), u32::MAX, 255), 0, "not there");
    }
}

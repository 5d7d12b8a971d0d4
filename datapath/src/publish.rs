// SPDX-License-Identifier: Apache-2.0
//! Handing new tables to the workers: readers never wait and never free, and a publication stops nobody.
//!
//! Each reader has a mailbox for one shared pointer. [`Publisher::publish`] puts the new tables into every mailbox
//! and takes out what a reader has not fetched; [`Reader::refresh`] looks into its mailbox with one relaxed load and
//! takes what is in it. The publisher keeps a pointer of its own to everything a reader may still have, so a reader
//! that lets go of a pointer only counts down; [`Publisher::reclaim`] frees, on the publisher's thread, what nobody
//! else has. It is not part of a publication, whose effect need not wait for it.
//!
//! A reader about to sleep puts its tables back into the mailbox ([`Reader::rest`]), from where the next publication
//! takes them: who sleeps holds nothing up, and has new tables at once when it wakes. Publishing need not wake it.
//!
//! | who | does | costs |
//! |---|---|---|
//! | reader | `refresh`, nothing new | one load of a line that only publications write |
//! | reader | `refresh`, something new | one swap, one count down |
//! | publisher | `publish` | one swap a reader |
//! | publisher | `reclaim` | freeing what became free; at the latest when [`KEPT`] wait |
//!
//! The model in this file's tests runs this code under loom.

use std::marker::PhantomData;
use std::ptr;

use crate::sync::{Arc, AtomicPtr, Ordering};
use crate::tables::Tables;

/// Replaced values that a publication leaves to a later [`Publisher::reclaim`].
const KEPT: usize = 8;

/// Room for one shared pointer, on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Mailbox<T> {
    /// Null, or from `Arc::into_raw`: the mailbox owns that count.
    slot: AtomicPtr<T>,
    owns: PhantomData<Arc<T>>,
}

impl<T> Mailbox<T> {
    fn new() -> Mailbox<T> {
        Mailbox {
            slot: AtomicPtr::new(ptr::null_mut()),
            owns: PhantomData,
        }
    }

    /// Whether it was empty a moment ago.
    #[inline]
    fn is_empty(&self) -> bool {
        self.slot.load(Ordering::Relaxed).is_null()
    }

    /// Puts `item` in and takes out what was there.
    fn swap(&self, item: Option<Arc<T>>) -> Option<Arc<T>> {
        let new = item.map_or(ptr::null_mut(), |item| Arc::into_raw(item).cast_mut());
        let old = self.slot.swap(new, Ordering::AcqRel);
        if old.is_null() {
            return None;
        }
        // SAFETY: (P1) `old` came from `into_raw`, and the swap made this thread the only one to have it.
        Some(unsafe { Arc::from_raw(old) })
    }

    /// Puts `item` in unless there is something; then gives it back.
    fn offer(&self, item: Arc<T>) -> Option<Arc<T>> {
        let new = Arc::into_raw(item).cast_mut();
        let empty = ptr::null_mut();
        let order = (Ordering::Release, Ordering::Relaxed);
        match self.slot.compare_exchange(empty, new, order.0, order.1) {
            Ok(_) => None,
            // SAFETY: (P1) `new` came from `into_raw` just now and did not get into the slot.
            Err(_) => Some(unsafe { Arc::from_raw(new) }),
        }
    }
}

impl<T> Drop for Mailbox<T> {
    fn drop(&mut self) {
        drop(self.swap(None));
    }
}

/// The control thread's end. It must outlive the work of the readers: when it is gone, a reader may be the last one
/// to let go.
#[derive(Debug)]
pub struct Publisher<T> {
    current: Arc<T>,
    /// Replaced, oldest first; a reader may still have them.
    retired: Vec<Arc<T>>,
    mailboxes: Vec<Arc<Mailbox<T>>>,
}

impl<T> Publisher<T> {
    /// With a first value and no readers.
    pub fn new(first: T) -> Publisher<T> {
        Publisher {
            current: Arc::new(first),
            retired: Vec::new(),
            mailboxes: Vec::new(),
        }
    }

    /// What was published last.
    pub fn current(&self) -> &T {
        &self.current
    }

    /// A new reader, which has the present value.
    pub fn reader(&mut self) -> Reader<T> {
        let mailbox = Arc::new(Mailbox::new());
        self.mailboxes.push(mailbox.clone());
        Reader {
            mailbox,
            current: Some(self.current.clone()),
        }
    }

    /// Gives every reader a new value. The old ones wait for [`reclaim`](Publisher::reclaim), unless there are many.
    pub fn publish(&mut self, next: T) {
        let old = std::mem::replace(&mut self.current, Arc::new(next));
        self.retired.push(old);
        for mailbox in &self.mailboxes {
            // What comes out is also in `retired`, so nothing is freed here.
            drop(mailbox.swap(Some(self.current.clone())));
        }
        if self.retired.len() > KEPT {
            self.reclaim();
        }
    }

    /// Frees the old values that no reader has any more, and forgets readers that are gone; returns how many old
    /// values are left.
    pub fn reclaim(&mut self) -> usize {
        self.mailboxes.retain_mut(|m| Arc::get_mut(m).is_none());
        self.retired.retain_mut(|t| Arc::get_mut(t).is_none());
        self.retired.len()
    }
}

impl Publisher<Tables> {
    /// The oldest generation that a reader may still have.
    pub fn oldest(&self) -> u64 {
        self.retired.first().unwrap_or(&self.current).generation()
    }
}

/// A worker's end.
#[derive(Debug)]
pub struct Reader<T> {
    mailbox: Arc<Mailbox<T>>,
    /// None while at rest; then the mailbox is not empty.
    current: Option<Arc<T>>,
}

impl<T> Reader<T> {
    /// The latest value. Never waits; call it once a turn.
    #[inline]
    pub fn refresh(&mut self) -> &T {
        if !self.mailbox.is_empty() {
            self.fetch();
        }
        match &self.current {
            Some(current) => current,
            None => unreachable!("a reader at rest has its value in the mailbox"),
        }
    }

    #[cold]
    fn fetch(&mut self) {
        if let Some(new) = self.mailbox.swap(None) {
            self.current = Some(new);
        }
    }

    /// Whether [`refresh`](Reader::refresh) has something new.
    #[inline]
    pub fn is_due(&self) -> bool {
        !self.mailbox.is_empty()
    }

    /// Lets go of the value before sleeping, so that it can be freed meanwhile. [`refresh`](Reader::refresh) has the
    /// latest again.
    pub fn rest(&mut self) {
        if let Some(current) = self.current.take() {
            // Not empty: a newer value is there already, and the publisher has this one too.
            drop(self.mailbox.offer(current));
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use std::thread::{self, ThreadId};

    /// Notes a drop on a thread that is not the one that made it.
    struct Homed(usize, ThreadId);

    impl Drop for Homed {
        fn drop(&mut self) {
            assert_eq!(self.1, thread::current().id(), "freed by a reader");
        }
    }

    #[test]
    fn reader_sees_the_latest_and_old_ones_are_freed_once_it_has_passed() {
        let mut publisher = Publisher::new(0);
        let mut reader = publisher.reader();
        assert_eq!(*reader.refresh(), 0);
        publisher.publish(1);
        publisher.publish(2);
        assert_eq!(publisher.reclaim(), 1, "0 is in use, 1 was never fetched");
        assert_eq!(*reader.refresh(), 2);
        assert_eq!(publisher.reclaim(), 0);
    }

    #[test]
    fn reader_at_rest_holds_nothing_up() {
        let mut publisher = Publisher::new(0);
        let mut reader = publisher.reader();
        reader.rest();
        reader.rest();
        assert_eq!(*reader.refresh(), 0);
        reader.rest();
        publisher.publish(1);
        assert_eq!(publisher.reclaim(), 0);
        assert_eq!(*reader.refresh(), 1);
        publisher.publish(2);
        reader.rest();
        assert_eq!(publisher.reclaim(), 0, "it rests with 2 and let go of 1");
        assert_eq!(*reader.refresh(), 2);
    }

    #[test]
    fn gone_reader_holds_nothing_up() {
        let mut publisher = Publisher::new(0);
        let reader = publisher.reader();
        publisher.publish(1);
        drop(reader);
        assert_eq!(publisher.reclaim(), 0);
        assert!(publisher.mailboxes.is_empty());
    }

    #[test]
    fn threads_see_values_grow_and_free_nothing() {
        const LAST: usize = 20_000;
        let home = thread::current().id();
        let mut publisher = Publisher::new(Homed(0, home));
        let readers: Vec<_> = (0..2)
            .map(|r| {
                let mut reader = publisher.reader();
                thread::spawn(move || {
                    let mut seen = 0;
                    while seen < LAST {
                        let value = reader.refresh().0;
                        assert!(value >= seen);
                        seen = value;
                        if value % 3 == r {
                            reader.rest();
                        }
                    }
                    reader
                })
            })
            .collect();
        for value in 1..=LAST {
            publisher.publish(Homed(value, home));
        }
        let readers: Vec<_> = readers.into_iter().map(|r| r.join().unwrap()).collect();
        assert_eq!(publisher.reclaim(), 0);
        drop(readers);
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_model {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::thread;

    /// A value whose reads and whose end loom orders: a read that does not happen before the end is an error, and so
    /// is an end on another thread than the publisher's.
    struct Watched {
        value: UnsafeCell<usize>,
        home: thread::ThreadId,
    }

    impl Watched {
        fn new(value: usize) -> Watched {
            Watched {
                value: UnsafeCell::new(value),
                home: thread::current().id(),
            }
        }

        fn get(&self) -> usize {
            // SAFETY: (P1) shared and alive; loom fails the model if that is not so.
            self.value.with(|value| unsafe { *value })
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            assert!(self.home == thread::current().id(), "freed by a reader");
            // SAFETY: (P1) the last owner; loom fails the model if a read is not over.
            self.value.with_mut(|value| unsafe { *value = usize::MAX });
        }
    }

    /// A reader at work, over all interleavings with publications: values grow, each is whole when read, none is
    /// freed while in use or by the reader, and when it has passed, nothing old is left.
    #[test]
    fn loom_reader_never_frees_and_never_sees_the_freed() {
        loom::model(|| {
            let mut publisher = Publisher::new(Watched::new(0));
            let mut reader = publisher.reader();
            let worker = thread::spawn(move || {
                let first = reader.refresh().get();
                let second = reader.refresh().get();
                assert!(first <= second && second <= 2);
                reader
            });
            publisher.publish(Watched::new(1));
            publisher.reclaim();
            publisher.publish(Watched::new(2));
            let mut reader = worker.join().unwrap();
            assert_eq!(reader.refresh().get(), 2);
            assert_eq!(publisher.reclaim(), 0);
            drop(reader);
        });
    }

    /// A reader that rests, over all interleavings with publications: it always has a value when it wakes, and
    /// while it rests nothing old is left.
    #[test]
    fn loom_reader_at_rest_counts_as_passed() {
        loom::model(|| {
            let mut publisher = Publisher::new(Watched::new(0));
            let mut reader = publisher.reader();
            let worker = thread::spawn(move || {
                let first = reader.refresh().get();
                reader.rest();
                let second = reader.refresh().get();
                assert!(first <= second);
                reader.rest();
                reader
            });
            publisher.publish(Watched::new(1));
            publisher.reclaim();
            publisher.publish(Watched::new(2));
            let mut reader = worker.join().unwrap();
            assert_eq!(publisher.reclaim(), 0);
            assert_eq!(reader.refresh().get(), 2);
            drop(reader);
        });
    }

    /// Two readers and one publication.
    #[test]
    fn loom_two_readers() {
        loom::model(|| {
            let mut publisher = Publisher::new(Watched::new(0));
            let workers: Vec<_> = (0..2)
                .map(|_| {
                    let mut reader = publisher.reader();
                    thread::spawn(move || {
                        reader.refresh().get();
                        reader.rest();
                        reader
                    })
                })
                .collect();
            publisher.publish(Watched::new(1));
            publisher.reclaim();
            let readers: Vec<_> = workers.into_iter().map(|w| w.join().unwrap()).collect();
            assert_eq!(publisher.reclaim(), 0);
            drop(readers);
        });
    }
}

// SPDX-License-Identifier: Apache-2.0
//! A persistent longest-prefix table.
//!
//! A trie that looks at five bits of the key a level and leaves out every level at which nothing branches. A node
//! names the bits above it (`path`), so one exclusive-or both checks the levels left out and yields the five bits to
//! look at. It holds the prefixes that end inside its five bits (lengths 1 to 5, 62 of them) as a bitmap with a packed
//! array of values, and its up to 32 children as a bitmap with a packed array of nodes.
//!
//! Nodes live in their parent's array: a level costs one dependent load. Arrays are shared (`Arc`) between versions;
//! a change copies the arrays on the way down, at most 32 nodes each, and shares the rest. The shape depends on the
//! content alone, not on the order of changes: every node but the root has a prefix or two children.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::prefetch::prefetch_counts;

/// Bits of the key that a level looks at.
const STRIDE: u32 = 5;
const FANOUT: usize = 1 << STRIDE;

/// An unsigned integer that a trie is keyed by, most significant bit first.
pub(crate) trait Key: Copy + Eq + std::fmt::Debug {
    /// Its width, bits.
    const BITS: u32;
    /// Zero bits put in front, at least one, so that the last level ends with the key and no prefix is empty.
    const PAD: u32 = (STRIDE - Self::BITS % STRIDE) % STRIDE;
    /// Zero.
    const ZERO: Self;

    /// `(self ^ path) >> shift`, if that is below [`FANOUT`].
    fn index(self, path: Self, shift: u8) -> Option<usize>;
    /// The same without the lowest `bits` bits.
    fn cleared(self, bits: u32) -> Self;
    /// The same with `bits << shift` added; those bits are zero before.
    fn with(self, bits: u32, shift: u8) -> Self;
    /// Leading bits that two keys share, padding included.
    fn common(self, other: Self) -> u32;
}

macro_rules! key {
    ($($int:ty),*) => {$(
        impl Key for $int {
            const BITS: u32 = <$int>::BITS;
            const ZERO: $int = 0;

            #[inline(always)]
            fn index(self, path: $int, shift: u8) -> Option<usize> {
                let at = (self ^ path) >> (shift as u32 % <$int>::BITS);
                (at < FANOUT as $int).then_some(at as usize)
            }

            fn cleared(self, bits: u32) -> $int {
                self.checked_shr(bits).map_or(0, |high| high << bits)
            }

            fn with(self, bits: u32, shift: u8) -> $int {
                self | (bits as $int) << shift
            }

            fn common(self, other: $int) -> u32 {
                (self ^ other).leading_zeros() + Self::PAD
            }
        }
    )*};
}
key!(u32, u64, u128);

/// For each value of five bits the bits of the prefixes that cover it.
const COVERING: [u64; FANOUT] = {
    let mut masks = [0; FANOUT];
    let mut at = 0;
    while at < FANOUT {
        let mut length = 1;
        while length <= STRIDE {
            masks[at] |= 1 << prefix_bit(at, length);
            length += 1;
        }
        at += 1;
    }
    masks
};

/// Bit of the prefix of `length` (1 to 5) bits that covers `at`: the longer, the higher.
const fn prefix_bit(at: usize, length: u32) -> u32 {
    (1 << length) - 2 + (at as u32 >> (STRIDE - length))
}

#[derive(Clone, Debug)]
struct Node<K, V> {
    /// The bits above this node's five; the rest is zero.
    path: K,
    /// Values of `prefixes`, in the order of their bits.
    values: Option<Arc<[V]>>,
    /// Nodes of `present`, in the order of their bits.
    children: Option<Arc<[Node<K, V>]>>,
    prefixes: u64,
    present: u32,
    /// Bits of the key below this node's five; a multiple of five.
    shift: u8,
}

/// Where a prefix ends.
#[derive(Clone, Copy)]
struct End {
    /// Shift of the node it ends in.
    shift: u8,
    /// Its length inside that node, 1 to 5.
    length: u32,
}

impl End {
    fn of<K: Key>(length: u8) -> End {
        let padded = u32::from(length) + K::PAD;
        let level = (padded - 1) / STRIDE;
        End {
            shift: (K::BITS + K::PAD - STRIDE * (level + 1)) as u8,
            length: padded - STRIDE * level,
        }
    }
}

fn inserted<T: Clone>(array: &Option<Arc<[T]>>, at: usize, item: T) -> Option<Arc<[T]>> {
    let (before, after) = array.as_deref().unwrap_or_default().split_at(at);
    let one = std::iter::once(item);
    Some(
        before
            .iter()
            .cloned()
            .chain(one)
            .chain(after.iter().cloned())
            .collect(),
    )
}

fn removed<T: Clone>(array: &Option<Arc<[T]>>, at: usize) -> Option<Arc<[T]>> {
    let array = array.as_deref().unwrap_or_default();
    let (before, after) = (array.get(..at)?, array.get(at + 1..)?);
    if before.is_empty() && after.is_empty() {
        return None;
    }
    Some(before.iter().chain(after).cloned().collect())
}

/// The nodes for writing. Where they are copied, the counts of what they share are asked for first.
fn nodes_mut<K: Clone, V>(nodes: &mut Arc<[Node<K, V>]>) -> &mut [Node<K, V>]
where
    Node<K, V>: Clone,
{
    if Arc::strong_count(nodes) > 1 {
        for node in nodes.iter() {
            node.values.iter().for_each(prefetch_counts);
            node.children.iter().for_each(prefetch_counts);
        }
    }
    Arc::make_mut(nodes)
}

impl<K: Key, V: Clone> Node<K, V> {
    fn new(key: K, shift: u8) -> Self {
        Node {
            path: key.cleared(u32::from(shift) + STRIDE),
            values: None,
            children: None,
            prefixes: 0,
            present: 0,
            shift,
        }
    }

    /// The node's five bits of a key whose bits above are the node's path.
    fn at(&self, key: K) -> usize {
        key.index(self.path, self.shift).unwrap_or(0)
    }

    #[inline(always)]
    fn child(&self, at: usize) -> Option<&Node<K, V>> {
        if self.present >> at & 1 == 0 {
            return None;
        }
        self.children.as_deref()?.get(self.child_rank(at))
    }

    #[inline(always)]
    fn child_rank(&self, at: usize) -> usize {
        (self.present & ((1 << at) - 1)).count_ones() as usize
    }

    #[inline(always)]
    fn value_rank(&self, bit: u32) -> usize {
        (self.prefixes & ((1 << bit) - 1)).count_ones() as usize
    }

    #[inline(always)]
    fn value(&self, bit: u32) -> Option<&V> {
        self.values.as_deref()?.get(self.value_rank(bit))
    }

    fn add_child(&mut self, node: Node<K, V>) {
        let at = self.at(node.path);
        self.children = inserted(&self.children, self.child_rank(at), node);
        self.present |= 1 << at;
    }

    fn insert(&mut self, key: K, end: End, value: V) -> Option<V> {
        // The level at which the prefix leaves this node's path, or ends.
        let apart = key.common(self.path) / STRIDE * STRIDE;
        let apart = (K::BITS + K::PAD).saturating_sub(apart + STRIDE) as u8;
        let meet = apart.max(end.shift);
        if meet > self.shift {
            let above = Node::new(key, meet);
            let below = std::mem::replace(self, above);
            self.add_child(below);
        }
        let at = self.at(key);
        if self.shift == end.shift {
            return self.insert_value(prefix_bit(at, end.length), value);
        }
        if self.present >> at & 1 == 0 {
            let mut leaf = Node::new(key, end.shift);
            leaf.insert(key, end, value);
            self.add_child(leaf);
            return None;
        }
        let rank = self.child_rank(at);
        let children = nodes_mut(self.children.as_mut()?);
        children.get_mut(rank)?.insert(key, end, value)
    }

    fn insert_value(&mut self, bit: u32, value: V) -> Option<V> {
        let rank = self.value_rank(bit);
        if self.prefixes >> bit & 1 == 0 {
            self.values = inserted(&self.values, rank, value);
            self.prefixes |= 1 << bit;
            return None;
        }
        let values = Arc::make_mut(self.values.as_mut()?);
        Some(std::mem::replace(values.get_mut(rank)?, value))
    }

    fn get_mut(&mut self, key: K, end: End) -> Option<&mut V> {
        let at = self.at(key);
        if self.shift == end.shift {
            let rank = self.value_rank(prefix_bit(at, end.length));
            return Arc::make_mut(self.values.as_mut()?).get_mut(rank);
        }
        let rank = self.child_rank(at);
        nodes_mut(self.children.as_mut()?)
            .get_mut(rank)?
            .get_mut(key, end)
    }

    /// Takes out a prefix that is there.
    fn remove(&mut self, key: K, end: End) {
        let at = self.at(key);
        if self.shift == end.shift {
            let bit = prefix_bit(at, end.length);
            self.values = removed(&self.values, self.value_rank(bit));
            self.prefixes &= !(1 << bit);
            return;
        }
        let rank = self.child_rank(at);
        let Some(child) = self
            .children
            .as_mut()
            .and_then(|c| nodes_mut(c).get_mut(rank))
        else {
            return;
        };
        child.remove(key, end);
        if child.collapse() {
            self.children = removed(&self.children, rank);
            self.present &= !(1 << at);
        }
    }

    /// Replaces a node without prefixes by its only child; true if it holds nothing at all.
    fn collapse(&mut self) -> bool {
        if self.prefixes != 0 || self.present.count_ones() > 1 {
            return false;
        }
        match self.children.as_deref().and_then(|c| c.first()).cloned() {
            Some(only) => *self = only,
            None => return true,
        }
        false
    }

    /// Calls `f` for every prefix of the subtree that agrees with `key` in all but the lowest `rest` bits.
    fn visit<'a>(&'a self, key: K, rest: u32, f: &mut dyn FnMut(K, u8, &'a V)) {
        let shared = rest.max(u32::from(self.shift) + STRIDE);
        if self.path.cleared(shared) != key.cleared(shared) {
            return;
        }
        for (bit, value) in bits(self.prefixes).zip(self.values.as_deref().unwrap_or_default()) {
            let length = (bit + 2).ilog2();
            let index = bit + 2 - (1 << length);
            let prefix = self.path.with(index << (STRIDE - length), self.shift);
            let unused = u32::from(self.shift) + STRIDE - length;
            if unused <= rest && prefix.cleared(rest) == key {
                f(prefix, (K::BITS - unused) as u8, value);
            }
        }
        for child in self.children.as_deref().unwrap_or_default() {
            child.visit(key, rest, f);
        }
    }

    fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        if let Some(values) = &self.values {
            allocation(values, f);
        }
        if let Some(children) = &self.children {
            allocation(children, f);
            children.iter().for_each(|c| c.visit_allocations(f));
        }
    }
}

/// Reports the address and size in bytes, counts included, of what a shared pointer owns.
pub(crate) fn allocation<T: ?Sized>(shared: &Arc<T>, f: &mut dyn FnMut(usize, usize)) {
    let counts = 2 * size_of::<usize>();
    f(
        Arc::as_ptr(shared).addr(),
        counts + size_of_val::<T>(shared),
    );
}

fn bits(mut set: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        (bit < u64::BITS).then_some(bit)
    })
}

/// A map from prefixes of `K` to `V` with longest-match lookup. A clone is one or two counts; a change after it
/// copies at most 32 nodes a level.
#[derive(Clone, Debug)]
pub(crate) struct Trie<K, V> {
    root: Option<Node<K, V>>,
    len: usize,
}

impl<K, V> Default for Trie<K, V> {
    fn default() -> Self {
        Trie { root: None, len: 0 }
    }
}

impl<K: Key, V: Clone> Trie<K, V> {
    /// How many prefixes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The value of the longest prefix that covers `key`.
    #[inline]
    pub(crate) fn lookup(&self, key: K) -> Option<&V> {
        let mut node = self.root.as_ref()?;
        let mut best = None;
        while let Some(at) = key.index(node.path, node.shift) {
            let covering = node.prefixes & COVERING[at];
            if covering != 0 {
                best = Some((node, covering));
            }
            match node.child(at) {
                Some(child) => node = child,
                None => break,
            }
        }
        let (node, covering) = best?;
        node.value(covering.ilog2())
    }

    /// The value of exactly this prefix.
    pub(crate) fn get(&self, key: K, length: u8) -> Option<&V> {
        let end = End::of::<K>(length);
        let mut node = self.root.as_ref()?;
        while node.shift >= end.shift {
            let at = key.index(node.path, node.shift)?;
            if node.shift == end.shift {
                let bit = prefix_bit(at, end.length);
                return (node.prefixes >> bit & 1 != 0).then(|| node.value(bit))?;
            }
            node = node.child(at)?;
        }
        None
    }

    /// The value of the whole key.
    #[inline]
    pub(crate) fn get_exact(&self, key: K) -> Option<&V> {
        self.get(key, K::BITS as u8)
    }

    /// The value of the whole key, for writing.
    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        self.get_exact(key)?;
        self.root
            .as_mut()?
            .get_mut(key, End::of::<K>(K::BITS as u8))
    }

    /// The value of the whole key, for writing; the default if there is none yet.
    pub(crate) fn get_or_insert(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        if self.get_exact(key).is_none() {
            self.insert(key, K::BITS as u8, V::default());
        }
        self.get_mut(key)
            .expect("it was there, or has just been inserted")
    }

    /// Sets the value of a prefix; returns the one it had.
    pub(crate) fn insert(&mut self, key: K, length: u8, value: V) -> Option<V> {
        debug_assert!(u32::from(length) <= K::BITS);
        let end = End::of::<K>(length);
        let key = key.cleared(K::BITS - u32::from(length));
        let root = self.root.get_or_insert_with(|| Node::new(key, end.shift));
        let old = root.insert(key, end, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes a prefix out; returns the value it had.
    pub(crate) fn remove(&mut self, key: K, length: u8) -> Option<V> {
        let key = key.cleared(K::BITS - u32::from(length));
        let old = self.get(key, length)?.clone();
        let root = self.root.as_mut()?;
        root.remove(key, End::of::<K>(length));
        if root.collapse() {
            self.root = None;
        }
        self.len -= 1;
        Some(old)
    }

    /// Calls `f` with key, length and value of every prefix, in no particular order.
    pub(crate) fn visit<'a>(&'a self, f: &mut dyn FnMut(K, u8, &'a V)) {
        self.visit_within(K::ZERO, 0, f);
    }

    /// As [`visit`](Trie::visit), for the prefixes that this one covers.
    pub(crate) fn visit_within<'a>(&'a self, key: K, length: u8, f: &mut dyn FnMut(K, u8, &'a V)) {
        let rest = K::BITS - u32::from(length);
        if let Some(root) = &self.root {
            root.visit(key.cleared(rest), rest, f);
        }
    }

    /// Calls `f` with address and size of every allocation of the trie itself.
    pub(crate) fn visit_allocations(&self, f: &mut dyn FnMut(usize, usize)) {
        if let Some(root) = &self.root {
            root.visit_allocations(f);
        }
    }
}

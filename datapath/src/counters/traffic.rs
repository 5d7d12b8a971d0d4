// SPDX-License-Identifier: Apache-2.0
//! Packets and bytes by a dense number, in pages that come into being when control asks for them.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use super::{Traffic, TrafficCells};

const PER_PAGE: usize = 1024;

type Page = [TrafficCells; PER_PAGE];

/// Counters for numbers from 0 on.
#[derive(Debug)]
pub(super) struct TrafficPages(Box<[OnceLock<Box<Page>>]>);

impl TrafficPages {
    /// For numbers below `most`.
    pub(super) fn new(most: usize) -> TrafficPages {
        TrafficPages(
            (0..most.div_ceil(PER_PAGE))
                .map(|_| OnceLock::new())
                .collect(),
        )
    }

    /// Makes room for a number.
    pub(super) fn prepare(&self, number: usize) {
        if let Some(page) = self.0.get(number / PER_PAGE) {
            page.get_or_init(|| Box::new(std::array::from_fn(|_| TrafficCells::default())));
        }
    }

    #[inline]
    fn cells(&self, number: usize) -> Option<&TrafficCells> {
        let page = self.0.get(number / PER_PAGE)?.get()?;
        page.get(number % PER_PAGE)
    }

    /// One packet more; nothing for a number without room.
    #[inline]
    pub(super) fn add(&self, number: usize, bytes: u64) {
        if let Some(cells) = self.cells(number) {
            cells.add(1, bytes);
        }
    }

    /// What was counted for a number.
    pub(super) fn get(&self, number: usize) -> Traffic {
        self.cells(number)
            .map(TrafficCells::get)
            .unwrap_or_default()
    }

    /// Every number for which something was counted.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, Traffic)> {
        let pages = self.0.iter().enumerate();
        pages
            .filter_map(|(n, page)| Some((n * PER_PAGE, page.get()?)))
            .flat_map(|(first, page)| {
                let numbered = page.iter().enumerate();
                numbered.map(move |(i, cells)| ((first + i) as u32, cells.get()))
            })
            .filter(|(_, traffic)| traffic.packets > 0)
    }
}

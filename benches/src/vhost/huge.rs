// SPDX-License-Identifier: Apache-2.0
//! Huge pages for programs of DPDK's.

/// Where their number is, of 2 MiB each.
const NUMBER: &str = "/proc/sys/vm/nr_hugepages";

/// Pages that are set aside as long as this is there.
#[derive(Debug)]
pub(super) struct HugePages(u32);

impl HugePages {
    /// Sets so many more aside; `None` where there is no room for them.
    pub(super) fn set_aside(pages: u32) -> Option<HugePages> {
        let before = number()?;
        std::fs::write(NUMBER, (before + pages).to_string()).ok()?;
        if number() == Some(before + pages) {
            return Some(HugePages(pages));
        }
        let _ = std::fs::write(NUMBER, before.to_string());
        None
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // Others may have set some aside meanwhile.
        let left = number().unwrap_or(0).saturating_sub(self.0);
        let _ = std::fs::write(NUMBER, left.to_string());
    }
}

fn number() -> Option<u32> {
    let text = std::fs::read_to_string(NUMBER).ok()?;
    text.trim().parse().ok()
}

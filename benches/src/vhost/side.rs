// SPDX-License-Identifier: Apache-2.0
//! What is compared: forwarders between two sockets.

use std::path::{Path, PathBuf};

/// A forwarder between two sockets.
pub(super) trait Side {
    /// What it is called, once for each way in which it is set up in turn.
    fn names(&self) -> &'static [&'static str];
    /// The sockets at which it listens.
    fn sockets(&self) -> [&Path; 2];
    /// Lets it run, or rest.
    fn run(&self, on: bool);
    /// Sets it up in the way of this number; it runs.
    fn set_up(&self, _way: usize) {}
    /// It is a router, and no switch.
    fn routes(&self) -> bool {
        false
    }
    /// It has known all flows for a while: whatever it says of frames from now on counts.
    ///
    /// # Panics
    /// When it does not know so many.
    fn begin(&mut self, _flows: u32) {}
    /// Sees to it that it forwarded all that it had room for.
    ///
    /// # Panics
    /// When it did not.
    fn end(&mut self) {}
    /// Why its figures do not say what they should, if something went wrong.
    fn problem(&self) -> Option<String> {
        None
    }
}

pub(super) fn sockets(folder: &Path) -> [PathBuf; 2] {
    ["a", "b"].map(|name| folder.join(name))
}

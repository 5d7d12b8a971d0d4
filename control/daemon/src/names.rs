// SPDX-License-Identifier: Apache-2.0
//! Which id the switch knows a port by. Ids are dense; a freed one rests as long as others are free, so that counters
//! and frames in flight of a port that went are not taken for its successor's.

use std::collections::{HashMap, VecDeque};

use podswitch_datapath::PortId;
use podswitch_datapath::ids::MAX_PORTS;

/// Port names and their ids.
#[derive(Debug)]
pub struct Names {
    ids: HashMap<String, PortId>,
    names: HashMap<PortId, String>,
    free: VecDeque<PortId>,
}

impl Default for Names {
    fn default() -> Names {
        Names {
            ids: HashMap::new(),
            names: HashMap::new(),
            free: (0..MAX_PORTS as u16).map(PortId).collect(),
        }
    }
}

impl Names {
    /// The port's id.
    pub fn id(&self, name: &str) -> Option<PortId> {
        self.ids.get(name).copied()
    }

    /// The port's name.
    pub fn name(&self, id: PortId) -> Option<&str> {
        self.names.get(&id).map(String::as_str)
    }

    /// The port's id, a fresh one when it has none; `None` when all are taken.
    pub fn assign(&mut self, name: &str) -> Option<PortId> {
        if let Some(id) = self.id(name) {
            return Some(id);
        }
        let id = self.free.pop_front()?;
        self.ids.insert(name.to_owned(), id);
        self.names.insert(id, name.to_owned());
        Some(id)
    }

    /// Forgets a port.
    pub fn release(&mut self, name: &str) {
        if let Some(id) = self.ids.remove(name) {
            self.names.remove(&id);
            self.free.push_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_dense_stable_and_rest_before_reuse() {
        let mut names = Names::default();
        assert_eq!(names.assign("a"), Some(PortId(0)));
        assert_eq!(names.assign("b"), Some(PortId(1)));
        assert_eq!(names.assign("a"), Some(PortId(0)));
        names.release("a");
        assert_eq!(names.id("a"), None);
        assert_eq!(names.assign("c"), Some(PortId(2)));
        assert_eq!(names.name(PortId(1)), Some("b"));
        for i in 0..MAX_PORTS - 2 {
            assert!(names.assign(&format!("p{i}")).is_some(), "{i}");
        }
        assert_eq!(names.assign("one too many"), None);
        names.release("b");
        assert_eq!(names.assign("d"), Some(PortId(1)));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Which pods claim which address. A pod that is being deleted keeps its address until it is gone, while another may have it already.

use std::collections::HashMap;
use std::net::IpAddr;

use super::shelf::Name;

/// Mostly one.
#[derive(Debug)]
enum Claimants {
    One(Name),
    Many(Vec<Name>),
}

/// Claimants by address.
#[derive(Debug, Default)]
pub(super) struct Claims(HashMap<IpAddr, Claimants>);

impl Claims {
    /// All that claim an address.
    pub(super) fn of(&self, address: &IpAddr) -> &[Name] {
        match self.0.get(address) {
            None => &[],
            Some(Claimants::One(name)) => std::slice::from_ref(name),
            Some(Claimants::Many(names)) => names,
        }
    }

    pub(super) fn add(&mut self, address: IpAddr, name: &Name) {
        let claimants = match self.0.remove(&address) {
            None => Claimants::One(name.clone()),
            Some(Claimants::One(one)) if one == *name => Claimants::One(one),
            Some(Claimants::One(one)) => Claimants::Many(vec![one, name.clone()]),
            Some(Claimants::Many(mut many)) => {
                if !many.contains(name) {
                    many.push(name.clone());
                }
                Claimants::Many(many)
            }
        };
        self.0.insert(address, claimants);
    }

    pub(super) fn remove(&mut self, address: IpAddr, name: &Name) {
        let left: Vec<Name> = match self.0.remove(&address) {
            None => return,
            Some(Claimants::One(one)) => Vec::from_iter((one != *name).then_some(one)),
            Some(Claimants::Many(many)) => many.into_iter().filter(|n| n != name).collect(),
        };
        match <[Name; 1]>::try_from(left) {
            Ok([one]) => {
                self.0.insert(address, Claimants::One(one));
            }
            Err(left) if left.is_empty() => {}
            Err(left) => {
                self.0.insert(address, Claimants::Many(left));
            }
        }
    }
}

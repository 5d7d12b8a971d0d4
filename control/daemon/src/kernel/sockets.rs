// SPDX-License-Identifier: Apache-2.0
//! Sockets of the host that are led to pods: programs on a control group, for the daemon's network namespace alone. They stay when the daemon goes, and
//! are replaced one by one by those of the next, which lead to the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use podswitch_datapath::port::xdp::{HostPort, HostSockets};
use podswitch_host::{Error, cgroup};
use tracing::warn;

use super::{Kernel, KernelError};

/// What sockets are led by.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Wanted {
    /// Where ports of the node lead.
    pub led: BTreeMap<HostPort, SocketAddr>,
    /// The node's addresses.
    pub here: BTreeSet<IpAddr>,
}

/// Programs that are on a control group.
pub struct Attached {
    path: PathBuf,
    sockets: HostSockets,
    told: Wanted,
}

impl Kernel {
    /// Puts programs on a control group, in the place of those that an earlier daemon left there.
    ///
    /// # Errors
    /// [`KernelError`]; none of ours is there then.
    pub fn lead_sockets(&mut self, path: &Path, wanted: Wanted) -> Result<Attached, KernelError> {
        let led = self.put_on(path, wanted);
        if led.is_err()
            && let Err(e) = cgroup::remove_ours(path)
        {
            warn!(cgroup = %path.display(), error = %e, "what an earlier daemon has left stays");
        }
        led
    }

    fn put_on(&mut self, path: &Path, wanted: Wanted) -> Result<Attached, KernelError> {
        let group = cgroup::open(path)?;
        let netns = cgroup::netns_cookie()?;
        let before = cgroup::ours(group.as_fd(), netns)?;
        let first = before.first().map(|first| first.info.id);
        let mut attached = Attached {
            path: path.to_owned(),
            sockets: self.loader.host_sockets(netns, first)?,
            told: Wanted::default(),
        };
        attached.follow(wanted)?;
        attached.attach(&group, &before)?;
        Ok(attached)
    }
}

impl Attached {
    fn attach(&self, group: &File, before: &[cgroup::Attached]) -> Result<(), Error> {
        for (attach_type, program) in self.sockets.programs() {
            let mut old = before.iter().filter(|old| old.attach_type == attach_type);
            let replaced = old.next().map(|old| old.program.as_fd());
            cgroup::attach(group.as_fd(), attach_type, program, replaced)?;
        }
        Ok(())
    }

    /// The control group.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leads sockets so from now on.
    ///
    /// # Errors
    /// [`KernelError`] when a map cannot be written: what was told until then holds.
    pub fn follow(&mut self, wanted: Wanted) -> Result<(), KernelError> {
        let gone: Vec<HostPort> = missing(self.told.led.keys(), |at| wanted.led.contains_key(at));
        for at in gone {
            self.sockets.forget(&at)?;
            self.told.led.remove(&at);
        }
        for address in missing(&self.told.here, |a| wanted.here.contains(a)) {
            self.sockets.remove_address(address)?;
            self.told.here.remove(&address);
        }
        for address in missing(&wanted.here, |a| self.told.here.contains(a)) {
            self.sockets.add_address(address)?;
            self.told.here.insert(address);
        }
        for (at, to) in wanted.led {
            if self.told.led.get(&at) != Some(&to) {
                self.sockets.lead(&at, to)?;
                self.told.led.insert(at, to);
            }
        }
        Ok(())
    }
}

/// What of these is not there.
fn missing<'a, T: Copy + 'a>(
    all: impl IntoIterator<Item = &'a T>,
    is_there: impl Fn(&T) -> bool,
) -> Vec<T> {
    let all = all.into_iter().copied();
    all.filter(|one| !is_there(one)).collect()
}

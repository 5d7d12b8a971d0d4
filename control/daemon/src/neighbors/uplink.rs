// SPDX-License-Identifier: Apache-2.0
//! One NIC: what is known of its link, whom to ask there, and the socket to do so.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use ipnet::IpNet;
use podswitch_api::MacAddr;
use podswitch_datapath::{PortId, VrfId};
use podswitch_host::addr::{self, Address};
use podswitch_host::neigh::{self, Neighbor};
use podswitch_host::resolution::{Heard, Message, Socket};
use podswitch_host::{Error, Link, Socket as Netlink, link};
use tracing::warn;

use super::announce::Announcements;
use super::resolver::{Action, Kernel, Probe, Resolver, Said, View};
use super::service::{Change, Open};

/// A NIC.
#[derive(Debug)]
pub(super) struct Uplink {
    pub(super) port: PortId,
    pub(super) vrf: VrfId,
    /// Index of the interface.
    pub(super) link: u32,
    /// Its own Ethernet address.
    mac: [u8; 6],
    up: bool,
    addresses: Vec<IpNet>,
    socket: Socket,
    /// What the kernel's table has, as far as it is good for something.
    kernel: HashMap<IpAddr, Kernel>,
    resolver: Resolver,
    wanted: BTreeMap<IpAddr, Probe>,
    announcements: Announcements,
    /// It has been said that there is no address to ask from.
    silent: bool,
}

impl Uplink {
    /// Reads how things are.
    ///
    /// # Errors
    /// When there is no such interface any more.
    pub(super) fn open(open: Open, netlink: &mut Netlink, now: Instant) -> Result<Uplink, Error> {
        let Open {
            port, vrf, socket, ..
        } = open;
        let found = link::get(netlink, socket.link())?;
        let mut uplink = Uplink {
            port,
            vrf,
            link: found.index,
            mac: found.mac.unwrap_or_default(),
            up: true,
            addresses: Vec::new(),
            kernel: HashMap::new(),
            socket,
            resolver: Resolver::new(u64::from(found.index), now),
            wanted: BTreeMap::new(),
            announcements: Announcements::new(now),
            silent: false,
        };
        uplink.link_changed(&found, now);
        uplink.read_again(netlink, now)?;
        Ok(uplink)
    }

    /// Reads the kernel's table and the interface's addresses anew: notices were lost, or the link has come back.
    pub(super) fn read_again(&mut self, netlink: &mut Netlink, now: Instant) -> Result<(), Error> {
        let addresses = addr::list(netlink, self.link)?;
        let usable = addresses.iter().filter(|a| usable(a));
        self.addresses = usable.map(|a| a.net).collect();
        self.silent = false;
        let neighbors = neigh::list(netlink, self.link)?;
        let there: HashMap<IpAddr, Kernel> = neighbors
            .iter()
            .filter_map(|n| Some((n.ip, meaning(n)?)))
            .collect();
        let before = std::mem::take(&mut self.kernel);
        for address in before.into_keys().filter(|a| !there.contains_key(a)) {
            self.resolver.kernel(address, Kernel::Gone, now);
        }
        for (address, kernel) in &there {
            self.resolver.kernel(*address, *kernel, now);
        }
        self.kernel = there;
        Ok(())
    }

    /// Something about the interface has changed. Says whether the link has come up: then the kernel's table is to be read
    /// anew.
    pub(super) fn link_changed(&mut self, found: &Link, now: Instant) -> bool {
        self.mac = found.mac.unwrap_or(self.mac);
        let up = found.flags.up() && found.flags.lower_up();
        let was = std::mem::replace(&mut self.up, up);
        match (was, up) {
            (true, false) => self.resolver.link_down(now),
            (false, true) => self.resolver.link_up(now),
            _ => {}
        }
        up && !was
    }

    pub(super) fn neighbor_changed(&mut self, neighbor: &Neighbor, there: bool, now: Instant) {
        let kernel = match there {
            true => meaning(neighbor),
            false => Some(Kernel::Gone),
        };
        let Some(kernel) = kernel else { return };
        match kernel {
            Kernel::Gone => self.kernel.remove(&neighbor.ip),
            _ => self.kernel.insert(neighbor.ip, kernel),
        };
        self.resolver.kernel(neighbor.ip, kernel, now);
    }

    /// These neighbours are wanted, and no others but for those that packets ask for.
    pub(super) fn want(&mut self, wanted: BTreeMap<IpAddr, Probe>, now: Instant) {
        let before = std::mem::take(&mut self.wanted);
        for address in before.keys().filter(|a| !wanted.contains_key(a)) {
            self.resolver.unwant(*address);
        }
        for (address, probe) in &wanted {
            if before.get(address) == Some(probe) {
                continue;
            }
            if !self.resolver.want(*address, *probe, now) {
                warn!(port = self.port.0, %address, "too many neighbors are wanted; this one is not looked for");
            }
            self.ask_kernel(*address, now);
        }
        self.wanted = wanted;
    }

    /// A packet waits for a neighbour.
    pub(super) fn demand(&mut self, address: IpAddr, now: Instant) {
        if self.own(address) {
            return;
        }
        let known = self.resolver.get(address).is_some();
        if self.resolver.demand(address, now) && !known {
            self.ask_kernel(address, now);
        }
    }

    fn ask_kernel(&mut self, address: IpAddr, now: Instant) {
        if let Some(kernel) = self.kernel.get(&address) {
            self.resolver.kernel(address, *kernel, now);
        }
    }

    fn own(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.addr() == address)
    }

    /// An address has come to this node; those that others on this link look for here are announced.
    pub(super) fn announce(&mut self, address: IpAddr, now: Instant) {
        if self.addresses.iter().any(|net| net.contains(&address)) {
            self.announcements.add(address, now);
        }
    }

    /// An address has left this node.
    pub(super) fn retire(&mut self, address: IpAddr) {
        self.announcements.remove(address);
    }

    /// Takes in what was said on the link.
    pub(super) fn hear(&mut self, now: Instant) -> Result<(), Error> {
        let resolver = &mut self.resolver;
        self.socket.receive(self.mac, |heard: Heard| {
            let said = Said {
                mac: heard.mac.map(MacAddr),
                answer: heard.answer,
                overrides: heard.overrides,
            };
            resolver.heard(heard.address, said, now);
        })
    }

    /// Does what is due, and notes what has become of neighbours.
    pub(super) fn act(&mut self, now: Instant, changes: &mut Vec<Change>) -> Result<(), Error> {
        self.resolver.tick(now);
        for action in self.resolver.actions() {
            let (address, mac) = match action {
                Action::Ask { address, to } => {
                    self.ask(address, to)?;
                    continue;
                }
                Action::Resolved { address, mac } => (address, Some(mac)),
                Action::Lost { address } => (address, None),
            };
            changes.push(Change {
                port: self.port,
                vrf: self.vrf,
                address,
                mac,
            });
        }
        while let Some(address) = self.announcements.due(now) {
            if self.up {
                self.socket
                    .send(self.mac, &Message::Announcement { address })?;
            }
        }
        Ok(())
    }

    /// Sends a question. One that the interface does not take is asked again in time, like one that is lost on the way.
    fn ask(&mut self, address: IpAddr, to: Option<MacAddr>) -> Result<(), Error> {
        let to = to.map(|mac| mac.0);
        let message = match (address, self.from(address)) {
            (IpAddr::V4(target), Some(IpAddr::V4(from))) => Message::Request { target, from, to },
            (IpAddr::V4(target), _) => Message::Request {
                target,
                from: Ipv4Addr::UNSPECIFIED,
                to,
            },
            (IpAddr::V6(target), Some(IpAddr::V6(from))) => {
                Message::Solicitation { target, from, to }
            }
            (IpAddr::V6(_), _) => {
                if !std::mem::replace(&mut self.silent, true) {
                    warn!(
                        link = self.link,
                        %address,
                        "the interface has no IPv6 address to look for neighbors from; enable IPv6 on it"
                    );
                }
                return Ok(());
            }
        };
        self.socket.send(self.mac, &message).map(drop)
    }

    /// The address to ask from: one of the target's subnet, else the interface's first one; over IPv6 a link-local one
    /// before others, which every neighbour can answer (RFC 4861, 7.2.2).
    fn from(&self, target: IpAddr) -> Option<IpAddr> {
        let of_family = || {
            self.addresses
                .iter()
                .filter(|n| n.addr().is_ipv4() == target.is_ipv4())
        };
        let near = of_family().find(|n| n.contains(&target));
        let link_local =
            || of_family().find(|n| matches!(n.addr(), IpAddr::V6(a) if a.is_unicast_link_local()));
        let from = near.or_else(link_local).or_else(|| of_family().next());
        from.map(IpNet::addr)
    }

    /// When [`Uplink::act`] is to be called next.
    pub(super) fn next(&self) -> Option<Instant> {
        [self.resolver.next(), self.announcements.next()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Every neighbour.
    pub(super) fn all(&self) -> impl Iterator<Item = View> {
        self.resolver.all()
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }
}

/// Whether packets can be sent from an address now.
fn usable(address: &Address) -> bool {
    !address.tentative() && !address.dad_failed()
}

/// What an entry of the kernel's table is to us (`include/uapi/linux/neighbour.h`): one that is being looked for is
/// nothing.
fn meaning(neighbor: &Neighbor) -> Option<Kernel> {
    let mac = neighbor.mac.map(MacAddr).filter(|mac| mac.is_unicast());
    match mac {
        _ if neighbor.failed() => Some(Kernel::Failed),
        Some(mac) if neighbor.permanent() => Some(Kernel::Permanent(mac)),
        Some(mac) if neighbor.reachable() => Some(Kernel::Reachable(mac)),
        Some(mac) => Some(Kernel::Stale(mac)),
        None => None,
    }
}

// SPDX-License-Identifier: Apache-2.0
//! The node's NIC: a program in its driver takes what is the switch's and leaves the rest to the host, whose interface it stays.
//! Nothing of the host's is closed. The program stays when the daemon goes, so that the switch's connections outlive it.
//!
//! Where the switch's frames are of a VLAN, the host's device of that VLAN says what the node is there: addresses, MAC address, MTU and link.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::{BorrowedFd, OwnedFd};

use podswitch_api::object::XdpMode;
use podswitch_datapath::Reason;
use podswitch_datapath::port::xdp::{HostPort, NicSteering, Roles};
use podswitch_datapath::wire::MacAddr;
use podswitch_host::ethtool::Ethtool;
use podswitch_host::{Error, Link, Socket, addr, link, ports, tap, tc, xdp};
use podswitch_state::store::{OwnedInterface, SavedFeature};
use tracing::{info, warn};

use super::veth::ALIAS;
use super::{Kernel, KernelError, Means, tap_drops};

/// Features of devices that are turned off while frames come to the switch, because a frame has to come as it was on the wire: not
/// merged with others, which cannot be undone, and with its VLAN tag in it.
const MERGING: [&str; 2] = ["rx-lro", "rx-gro-hw"];
const TAG_REMOVAL: &str = "rx-vlan-hw-parse";
/// A tap device tells of segments that are merged so that they can be cut again, and puts tags into frames. LRO does not merge so.
const MERGING_FOR_TAP: [&str; 1] = ["rx-lro"];

/// What the kernel says a NIC is, or the VLAN device on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its MTU, bytes from the IP header on.
    pub mtu: u32,
    /// The node's addresses on it, in the kernel's order.
    pub addresses: Vec<IpAddr>,
}

/// What of an interface decides whether it can be taken: when one was refused and none of this has changed since, it would be again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Look {
    interface: Seen,
    /// The VLAN device on it.
    vlan: Option<Seen>,
    /// Whether it has an XDP program, whosever.
    program: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    index: u32,
    mac: Option<[u8; 6]>,
    mtu: u32,
    up: bool,
    master: Option<u32>,
}

impl Seen {
    fn of(link: &Link) -> Seen {
        Seen {
            index: link.index,
            mac: link.mac,
            mtu: link.mtu,
            up: link.flags.up(),
            master: link.master,
        }
    }
}

/// An interface that may be taken.
pub struct Found {
    /// The interface.
    pub link: Link,
    /// Index of the device by which the host has its addresses there: the interface, or the VLAN device on it.
    pub device: u32,
    /// What that device is.
    pub facts: Facts,
    /// Receive queues in use.
    pub queues: u32,
    /// Whether frames come from memory of this machine or its host, so that their checksums may not be finished.
    pub local_sender: bool,
    /// How it is, before anything is changed.
    pub before: OwnedInterface,
}

/// How a NIC is to be attached.
pub struct Wanted {
    /// Where the program runs; [`XdpMode::Auto`] is in the driver.
    pub mode: XdpMode,
    /// Index of the tap device, in that mode.
    pub tap: Option<u32>,
    /// VLAN whose frames are the switch's.
    pub vlan: Option<u16>,
    /// Addresses whose packets are the switch's, and for which it answers ARP and neighbor solicitations.
    pub pods: BTreeSet<IpAddr>,
    /// Addresses of services, of which some ports are the switch's.
    pub services: BTreeSet<IpAddr>,
    /// Ports of those and of the node's addresses that lead to pods and services.
    pub host_ports: BTreeSet<HostPort>,
    /// UDP ports of tunnels that end at the node's addresses.
    pub overlay_ports: Vec<u16>,
    /// Ports of the node that masqueraded connections leave by.
    pub reserved: Option<RangeInclusive<u16>>,
}

/// What is attached to a NIC.
pub struct Attached {
    /// Its index.
    pub ifindex: u32,
    /// That of the device by which the host has its addresses there.
    pub device: u32,
    means: Means,
    /// Index of its tap device, if it has one.
    tap: Option<u32>,
    queues: u32,
    steering: NicSteering,
    pods: BTreeSet<IpAddr>,
    services: BTreeSet<IpAddr>,
    host_ports: BTreeSet<HostPort>,
    node: BTreeSet<IpAddr>,
    overlay_ports: Vec<u16>,
}

/// How an interface looks, and the device of the VLAN, if one is asked for; `None` when there is no such interface.
pub fn look(interface: &str, vlan: Option<u16>) -> Option<Look> {
    let mut socket = Socket::open().ok()?;
    let link = link::find(&mut socket, interface).ok()??;
    let vlan = vlan.and_then(|id| link::find_vlan(&mut socket, &link, id).ok()?);
    Some(Look {
        interface: Seen::of(&link),
        vlan: vlan.as_ref().map(Seen::of),
        program: !link.xdp.is_empty(),
    })
}

impl Facts {
    /// What an interface is now; `None` when it is gone, or has no MAC address.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn read(index: u32) -> Result<Option<Facts>, Error> {
        let mut socket = Socket::open()?;
        let Some(link) = link::find(&mut socket, index)? else {
            return Ok(None);
        };
        let addresses = node_addresses(&mut socket, index)?;
        Ok(link.mac.map(|mac| Facts {
            mac: MacAddr(mac),
            mtu: link.mtu,
            addresses,
        }))
    }
}

impl Kernel {
    /// Looks at an interface that is to be the node's NIC, of untagged frames or those of a VLAN, and changes nothing.
    ///
    /// # Errors
    /// [`KernelError`], naming the interface: when it is not there, cannot be a NIC, has no device of the VLAN, or has a program of somebody
    /// else's.
    pub fn find_nic(
        interface: &str,
        vlan: Option<u16>,
        mode: XdpMode,
    ) -> Result<Found, KernelError> {
        let mut socket = Socket::open()?;
        let link = super::find(&mut socket, interface)?;
        fit(&mut socket, &link)?;
        let tagged = vlan.map(|id| find_vlan(&mut socket, &link, id));
        let tagged = tagged.transpose()?;
        let device = tagged.as_ref().unwrap_or(&link);
        let mac = stands_alone(&mut socket, device)?;
        xdp::refuse_foreign(&link)?;
        let ethtool = Ethtool::open()?;
        let queues = queues(&ethtool, &link)?;
        Ok(Found {
            facts: Facts {
                mac: MacAddr(mac),
                mtu: device.mtu,
                addresses: node_addresses(&mut socket, device.index)?,
            },
            device: device.index,
            queues,
            local_sender: sends_unfinished(&ethtool, interface)?,
            before: OwnedInterface {
                clsact: mode == XdpMode::Tap && !tc::has_clsact(&mut socket, link.index)?,
                features: features_to_change(&ethtool, interface, mode)?,
                ..OwnedInterface::unchanged(link.name.as_str(), link.index)
            },
            link,
        })
    }

    /// Makes a device for what is the switch's of a NIC's frames: its descriptor and index.
    ///
    /// # Errors
    /// [`KernelError`] where the kernel makes none.
    pub fn make_tap() -> Result<(OwnedFd, u32), KernelError> {
        let tap = tap::create(&mut Socket::open()?)?;
        Ok((tap.fd, tap.index))
    }

    /// Makes sure that ports are free to be the switch's alone, and stay so.
    ///
    /// # Errors
    /// [`KernelError::PortsHeld`] and [`KernelError::PortsEphemeral`], naming one of them.
    pub fn check_ports(range: &RangeInclusive<u16>) -> Result<(), KernelError> {
        let held = ports::held(range)?;
        if let Some(first) = held.first() {
            return Err(KernelError::PortsHeld {
                range: range.clone(),
                first: *first,
                others: held.len() - 1,
            });
        }
        match ports::ephemeral(range)?.first() {
            None => Ok(()),
            Some(&port) => Err(KernelError::PortsEphemeral {
                range: range.clone(),
                port,
            }),
        }
    }

    /// Turns off what changes frames on their way in. To be called after it was noted how the interface was.
    ///
    /// # Errors
    /// [`KernelError`] when frames would be merged and the device does not let that be turned off.
    pub fn prepare_nic(found: &Found) -> Result<(), KernelError> {
        let ethtool = Ethtool::open()?;
        let name = found.link.name.as_str();
        for feature in &found.before.features {
            let off = [(feature.name.as_str(), false)];
            match ethtool.set_features(name, &off) {
                Ok(()) => info!(interface = name, feature = feature.name, "turned off"),
                // A program in the driver may still be told of tags.
                Err(e) if feature.name == TAG_REMOVAL => {
                    warn!(interface = name, error = %e, "frames of VLANs may come without their tags");
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Attaches the steering program, which drops what is the switch's until it is connected; a predecessor's is replaced in one step.
    ///
    /// # Errors
    /// [`KernelError`]; a foreign program is never replaced, and generic mode is never fallen back to.
    pub fn attach_nic(&mut self, found: &Found, wanted: Wanted) -> Result<Attached, KernelError> {
        let mut socket = Socket::open()?;
        let link = &found.link;
        let means = match wanted.mode {
            XdpMode::Auto | XdpMode::Native => Means::Xdp(xdp::Mode::Native),
            XdpMode::Generic => Means::Xdp(xdp::Mode::Generic),
            XdpMode::Tap => Means::Tap,
        };
        let native_on = (means == Means::Xdp(xdp::Mode::Native)).then_some(link.index);
        let steering = match means {
            Means::Xdp(_) => self.loader.nic_steering(found.queues, native_on)?,
            Means::Tap => self.loader.nic_tap_steering()?,
        };
        let mut attached = Attached {
            ifindex: link.index,
            device: found.device,
            means,
            tap: wanted.tap,
            queues: found.queues,
            steering,
            pods: BTreeSet::new(),
            services: BTreeSet::new(),
            host_ports: BTreeSet::new(),
            node: BTreeSet::new(),
            overlay_ports: Vec::new(),
        };
        attached.steering.set_vlan(wanted.vlan)?;
        attached.follow(&found.facts)?;
        attached.set_overlay_ports(&wanted.overlay_ports)?;
        attached.steering.set_reserved(wanted.reserved.as_slice())?;
        attached.change_pods(BTreeSet::new(), wanted.pods)?;
        attached.change_services(BTreeSet::new(), wanted.services)?;
        attached.change_host_ports(BTreeSet::new(), wanted.host_ports)?;
        let filter = tc::filtered(&mut socket, link.index)?;
        if let Some(id) = link.xdp.first().map(|(_, id)| id).or(filter) {
            // What was missed while no daemon ran is not forgotten, but for the moment up to the replacement.
            let counted = NicSteering::open(id).and_then(|old| attached.steering.count_on(&old));
            if let Err(e) = counted {
                warn!(interface = link.name, error = %e, "what its steering program has counted is lost");
            }
        }
        attached.install(&mut socket, link)?;
        Ok(attached)
    }
}

impl Attached {
    /// Attaches the program; one of ours of the other kind goes once this one is there.
    fn install(&self, socket: &mut Socket, link: &Link) -> Result<(), KernelError> {
        let Means::Xdp(mode) = self.means else {
            return self.filter(socket, link);
        };
        super::install(socket, link, self.steering.fd(), mode).map_err(|e| match e {
            e if e.is_gone() || mode != xdp::Mode::Native => e.into(),
            e @ (Error::ForeignXdp { .. } | Error::XdpMode { .. }) => e.into(),
            source => KernelError::NoNative {
                name: link.name.clone(),
                source,
            },
        })?;
        tc::remove(socket, link.index, tc::Direction::Ingress, tc::NIC_NAME)?;
        info!(
            interface = link.name,
            queues = self.queues,
            %mode,
            "AF_XDP on every queue; the interface stays the host's"
        );
        Ok(())
    }

    fn filter(&self, socket: &mut Socket, link: &Link) -> Result<(), KernelError> {
        tc::filter(socket, link.index, self.steering.fd()).map_err(|e| match e {
            e if e.exists() => KernelError::NotNic {
                name: link.name.clone(),
                what: "has a traffic-control filter of somebody else's before all others".into(),
                hint: "give that filter another priority than 1, or the port another `mode`",
            },
            e => e.into(),
        })?;
        super::detach(socket, link)?;
        info!(
            interface = link.name,
            "traffic control sends what is the switch's into a tap device; the interface stays the host's"
        );
        Ok(())
    }

    pub(super) fn means(&self) -> Means {
        self.means
    }

    pub(super) fn insert(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), KernelError> {
        Ok(self.steering.insert(queue, socket)?)
    }

    /// Opens the way into the tap device, if that is how frames come.
    pub(super) fn open(&mut self) -> Result<(), KernelError> {
        match self.tap {
            Some(tap) => Ok(self.steering.set_tap(tap)?),
            None => Ok(()),
        }
    }

    pub(super) fn disconnect(&mut self) {
        if self.tap.is_some() {
            if let Err(e) = self.steering.set_tap(0) {
                warn!(ifindex = self.ifindex, error = %e, "the steering program still knows a device");
            }
            return;
        }
        for queue in 0..self.queues {
            if let Err(e) = self.steering.remove(queue) {
                warn!(ifindex = self.ifindex, queue, error = %e, "the steering program could not be emptied");
            }
        }
    }

    /// Of the interface and the VLAN device on it the name of one that has no link; `None` when both have one.
    ///
    /// # Errors
    /// When the kernel does not say, or one is gone.
    pub fn without_link(&self) -> Result<Option<String>, Error> {
        let mut socket = Socket::open()?;
        for index in [self.ifindex, self.device] {
            let link = link::get(&mut socket, index)?;
            if !(link.flags.up() && link.flags.lower_up()) {
                return Ok(Some(link.name));
            }
        }
        Ok(None)
    }

    /// The device's own drops are the host's as well, and not counted here.
    pub(super) fn drops(&self) -> Result<Vec<(Reason, u64)>, KernelError> {
        let missed = self.steering.counters()?.missed;
        let full = self.tap.map(|tap| tap_drops(&mut Socket::open()?, tap));
        let missed = (Reason::KernelSteeringMiss, missed);
        Ok([missed].into_iter().chain(full.transpose()?).collect())
    }

    /// This is what the interface is from now on.
    ///
    /// # Errors
    /// [`KernelError`] when the program's map cannot be written; so with the others.
    pub fn follow(&mut self, facts: &Facts) -> Result<(), KernelError> {
        self.steering.set_mac(facts.mac)?;
        let node: BTreeSet<IpAddr> = facts.addresses.iter().copied().collect();
        let changed: Vec<IpAddr> = self.node.symmetric_difference(&node).copied().collect();
        self.node = node;
        changed.into_iter().try_for_each(|a| self.tell(a))
    }

    /// Packets to these UDP ports of the node's addresses are tunnels' from now on.
    ///
    /// # Errors
    /// As [`Attached::follow`].
    pub fn set_overlay_ports(&mut self, ports: &[u16]) -> Result<(), KernelError> {
        if self.overlay_ports != ports {
            self.steering.set_overlay_ports(ports)?;
            self.overlay_ports = ports.to_vec();
        }
        Ok(())
    }

    /// Packets to the addresses in `gone` are the host's from now on, those to the ones in `come` the switch's.
    ///
    /// # Errors
    /// As [`Attached::follow`].
    pub fn change_pods(
        &mut self,
        gone: BTreeSet<IpAddr>,
        come: BTreeSet<IpAddr>,
    ) -> Result<(), KernelError> {
        let mut changed = change(&mut self.pods, gone, come).into_iter();
        changed.try_for_each(|address| self.tell(address))
    }

    /// The same of addresses of which only some ports are the switch's.
    ///
    /// # Errors
    /// As [`Attached::follow`].
    pub fn change_services(
        &mut self,
        gone: BTreeSet<IpAddr>,
        come: BTreeSet<IpAddr>,
    ) -> Result<(), KernelError> {
        let mut changed = change(&mut self.services, gone, come).into_iter();
        changed.try_for_each(|address| self.tell(address))
    }

    /// The same of those ports, and of the node's addresses'.
    ///
    /// # Errors
    /// As [`Attached::follow`].
    pub fn change_host_ports(
        &mut self,
        gone: BTreeSet<HostPort>,
        come: BTreeSet<HostPort>,
    ) -> Result<(), KernelError> {
        for port in change(&mut self.host_ports, gone, come) {
            match self.host_ports.contains(&port) {
                true => self.steering.set_host_port(&port)?,
                false => drop(self.steering.remove_host_port(&port)?),
            }
        }
        Ok(())
    }

    /// Tells the program what an address is. One that is a pod's as well stays the node's, or the host would not be reached by it. Of a service's
    /// address only some ports are the switch's, as of the node's own.
    fn tell(&mut self, address: IpAddr) -> Result<(), KernelError> {
        let node = self.node.contains(&address) || self.services.contains(&address);
        match (node, self.pods.contains(&address)) {
            (true, _) => self.steering.set_address(address, Roles::NODE)?,
            (false, true) => {
                let roles = Roles::POD.and(Roles::PROXY);
                self.steering.set_address(address, roles)?;
            }
            (false, false) => drop(self.steering.remove_address(address)?),
        }
        Ok(())
    }
}

/// Takes some out of a set and puts others in; what is not as it was before.
fn change<T: Ord + Copy>(set: &mut BTreeSet<T>, gone: BTreeSet<T>, come: BTreeSet<T>) -> Vec<T> {
    let gone = gone.into_iter().filter(|one| set.remove(one));
    let mut changed: Vec<T> = gone.collect();
    changed.extend(come.into_iter().filter(|one| set.insert(*one)));
    changed
}

/// The addresses of the node on an interface, in the order of the kernel,
/// but for those of the link alone: nobody beyond it knows them.
fn node_addresses(socket: &mut Socket, index: u32) -> Result<Vec<IpAddr>, Error> {
    let all = addr::list(socket, index)?;
    let known_beyond = |a: &IpAddr| match a {
        IpAddr::V4(a) => !a.is_link_local(),
        IpAddr::V6(a) => !a.is_unicast_link_local(),
    };
    Ok(all
        .iter()
        .map(addr::Address::ip)
        .filter(known_beyond)
        .collect())
}

/// The device of a VLAN on top of an interface.
fn find_vlan(socket: &mut Socket, link: &Link, id: u16) -> Result<Link, KernelError> {
    let found = link::find_vlan(socket, link, id)?;
    found.ok_or_else(|| KernelError::NoVlan {
        name: link.name.clone(),
        id,
    })
}

fn not_nic<T>(link: &Link, what: String, hint: &'static str) -> Result<T, KernelError> {
    let name = link.name.clone();
    Err(KernelError::NotNic { name, what, hint })
}

/// Refuses what cannot be a NIC.
fn fit(socket: &mut Socket, link: &Link) -> Result<(), KernelError> {
    let unfit = |what: String, hint| not_nic(link, what, hint);
    if link.flags.loopback() {
        return unfit("is the loopback interface".into(), "name the node's NIC");
    }
    if link.alias.as_deref().is_some_and(|a| a.starts_with(ALIAS)) {
        return unfit(
            "is the host end of a pod's veth".into(),
            "name the node's NIC",
        );
    }
    match link.kind.as_deref() {
        None | Some("veth") => {}
        Some("vlan") => {
            let parent = link::peer(socket, link)?;
            let parent = parent.map_or("(gone)".to_owned(), |p| p.name);
            let id = link
                .vlan
                .map_or(String::new(), |id| format!(" with id {id}"));
            let hint = "name the interface under it, and the id as `vlan`";
            return unfit(format!("is a VLAN device{id} on {parent}"), hint);
        }
        Some(kind @ ("bond" | "team")) => {
            let hint = "bonds are not supported: give the node a NIC outside of one";
            return unfit(format!("is a {kind}"), hint);
        }
        Some(kind) => {
            let hint = "name a NIC: a physical interface, virtio or a veth";
            return unfit(format!("is a {kind}, not a NIC"), hint);
        }
    }
    stands_alone(socket, link).map(drop)
}

/// Refuses a device that belongs to another one, and gives the MAC address of one that does not.
fn stands_alone(socket: &mut Socket, link: &Link) -> Result<[u8; 6], KernelError> {
    let unfit = |what: String, hint| not_nic(link, what, hint);
    if let Some(master) = link.master {
        let master = link::find(socket, master)?;
        let kind = master.as_ref().and_then(|m| m.kind.as_deref());
        let name = master.as_ref().map_or("(gone)", |m| m.name.as_str());
        let what = format!("is a member of the {} {name}", kind.unwrap_or("device"));
        return unfit(what, "take it out of there, or name another NIC");
    }
    match link.mac {
        Some(mac) => Ok(mac),
        None => unfit("has no MAC address".into(), "name an Ethernet interface"),
    }
}

/// Whether a driver may hand frames up whose checksums their sender left to its device: a veth's other end, and the host of a virtual machine with
/// those of its neighbors, do. From Linux 6.5 on virtio-net does so also beside a program in the driver.
fn sends_unfinished(ethtool: &Ethtool, interface: &str) -> Result<bool, Error> {
    match ethtool.driver(interface) {
        Ok(driver) => Ok(["veth", "virtio_net"].contains(&driver.name.as_str())),
        Err(e) if e.is_unsupported() => Ok(false),
        Err(e) => Err(e),
    }
}

/// Receive queues in use; all that are allocated, of a driver that does not say.
fn queues(ethtool: &Ethtool, link: &Link) -> Result<u32, Error> {
    match ethtool.channels(&link.name) {
        Ok(channels) => Ok((channels.rx + channels.combined).max(1)),
        Err(e) if e.is_unsupported() => Ok(link.rx_queues.max(1)),
        Err(e) => Err(e),
    }
}

/// Features that are on and have to be off.
fn features_to_change(
    ethtool: &Ethtool,
    interface: &str,
    mode: XdpMode,
) -> Result<Vec<SavedFeature>, KernelError> {
    let features = ethtool.features(interface)?;
    let (merging, tags) = match mode {
        XdpMode::Tap => (&MERGING_FOR_TAP[..], None),
        _ => (&MERGING[..], Some(TAG_REMOVAL)),
    };
    let stays = |name: &&&str| {
        let feature = features.get(**name);
        feature.is_some_and(|f| f.active && !f.changeable)
    };
    if let Some(feature) = merging.iter().find(stays) {
        return Err(KernelError::NotNic {
            name: interface.to_owned(),
            what: format!("merges segments ({feature}) and does not let that be turned off"),
            hint: "of a virtual machine, let its host leave segments as they are (for QEMU's virtio-net: guest_tso4=off,guest_tso6=off), or \
                   let the guest choose (ctrl_guest_offloads=on)",
        });
    }
    let wanted = merging.iter().copied().chain(tags);
    let on = wanted.filter(|name| {
        features
            .get(*name)
            .is_some_and(|f| f.active && f.changeable)
    });
    Ok(on
        .map(|name| SavedFeature {
            name: name.to_owned(),
            before: true,
        })
        .collect())
}

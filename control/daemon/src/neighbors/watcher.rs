// SPDX-License-Identifier: Apache-2.0
//! What the thread does: one turn after another, each when a descriptor is readable or something is due.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use podswitch_datapath::PortId;
use podswitch_datapath::events::MissReader;
use podswitch_host::route::{self, Family};
use podswitch_host::watch::{Event, Topic, Watch};
use podswitch_host::{Error, Socket as Netlink};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{debug, warn};

use super::import::{self, Imported};
use super::service::{Change, Command, Listed, Open, Report};
use super::uplink::Uplink;

/// Changes are told this far apart at least: each report makes new tables.
const REPORTS_APART: Duration = Duration::from_millis(5);
/// A routing table is read anew this long after a notice of a change, so that a burst of them is one.
const SETTLE: Duration = Duration::from_millis(20);
/// Of the time, the part that may be spent on reading a routing table: one in so many.
const READING: u32 = 20;

/// The thread.
pub(super) struct Work {
    inbox: Receiver<Command>,
    bell: Arc<OwnedFd>,
    misses: MissReader,
    watch: Watch,
    netlink: Netlink,
    uplinks: BTreeMap<PortId, Uplink>,
    /// Routing tables that are followed.
    tables: BTreeMap<u32, Table>,
    changes: Vec<Change>,
    reported: Instant,
    report: Box<dyn Fn(Report) -> bool + Send>,
}

/// A routing table of the kernel's.
#[derive(Debug, Default)]
struct Table {
    nics: HashMap<u32, PortId>,
    routes: BTreeMap<IpNet, Imported>,
    /// When to read it.
    due: Option<Instant>,
    /// When it may be read again at the earliest.
    rested: Option<Instant>,
}

impl Table {
    fn changed(&mut self, now: Instant) {
        let soon = (now + SETTLE).max(self.rested.unwrap_or(now));
        self.due.get_or_insert(soon);
    }
}

impl Work {
    /// Everything that is to be watched is, from now on.
    ///
    /// # Errors
    /// When the kernel gives no sockets.
    pub(super) fn new(
        inbox: Receiver<Command>,
        bell: Arc<OwnedFd>,
        misses: MissReader,
        report: Box<dyn Fn(Report) -> bool + Send>,
    ) -> Result<Work, Error> {
        Ok(Work {
            inbox,
            bell,
            misses,
            watch: Watch::open(&[
                Topic::Links,
                Topic::Addresses,
                Topic::Neighbors,
                Topic::Routes,
            ])?,
            netlink: Netlink::open()?,
            uplinks: BTreeMap::new(),
            tables: BTreeMap::new(),
            changes: Vec::new(),
            reported: Instant::now(),
            report,
        })
    }

    /// Works until nobody gives commands or wants reports any more.
    pub(super) fn run(mut self) {
        loop {
            if let Err(e) = self.wait() {
                return warn!(error = %e, "neighbors are no longer watched");
            }
            let _ = rustix::io::read(&self.bell, &mut [0u8; 8]);
            let now = Instant::now();
            if !self.obey(now) {
                return;
            }
            if let Err(e) = self.follow(now) {
                return warn!(error = %e, "neighbors are no longer watched");
            }
            for miss in self.misses.read() {
                if let Some(uplink) = self.uplinks.get_mut(&miss.port) {
                    uplink.demand(miss.address, now);
                }
            }
            self.act(now);
            if !self.read_tables(now) || !self.tell(now) {
                return;
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) -> io::Result<()> {
        let mut fds = vec![
            PollFd::new(&self.bell, PollFlags::IN),
            PollFd::new(&self.misses, PollFlags::IN),
            PollFd::new(&self.watch, PollFlags::IN),
        ];
        for uplink in self.uplinks.values() {
            fds.push(PollFd::from_borrowed_fd(
                uplink.socket().as_fd(),
                PollFlags::IN,
            ));
        }
        let next = self.next().map(|next| {
            let left = next.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match poll(&mut fds, next.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn next(&self) -> Option<Instant> {
        let of_uplinks = self.uplinks.values().filter_map(Uplink::next);
        let of_tables = self.tables.values().filter_map(|t| t.due);
        let report = (!self.changes.is_empty()).then(|| self.reported + REPORTS_APART);
        of_uplinks.chain(of_tables).chain(report).min()
    }

    /// Carries commands out; false when nobody gives any more.
    fn obey(&mut self, now: Instant) -> bool {
        loop {
            let command = match self.inbox.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            };
            match command {
                Command::Open(open) => self.open(open, now),
                Command::Close(port) => self.close(port, now),
                Command::Want(port, wanted) => {
                    if let Some(uplink) = self.uplinks.get_mut(&port) {
                        uplink.want(wanted, now);
                    }
                }
                Command::Announce(vrf, address) => {
                    let uplinks = self.uplinks.values_mut().filter(|u| u.vrf == vrf);
                    uplinks.for_each(|u| u.announce(address, now));
                }
                Command::Retire(vrf, address) => {
                    let uplinks = self.uplinks.values_mut().filter(|u| u.vrf == vrf);
                    uplinks.for_each(|u| u.retire(address));
                }
                Command::List(answer) => {
                    let of = |u: &Uplink| {
                        let port = u.port;
                        u.all()
                            .map(move |view| Listed { port, view })
                            .collect::<Vec<_>>()
                    };
                    // Who asked may have given up.
                    let _ = answer.send(self.uplinks.values().flat_map(of).collect());
                }
            }
        }
    }

    fn open(&mut self, open: Open, now: Instant) {
        let (port, link, table) = (open.port, open.socket.link(), open.table);
        self.close(port, now);
        match Uplink::open(open, &mut self.netlink, now) {
            Ok(uplink) => drop(self.uplinks.insert(port, uplink)),
            // The engine hears that the interface is gone, too, and closes the port.
            Err(e) => {
                return warn!(port = port.0, error = %e, "the link of a NIC cannot be watched");
            }
        }
        if let Some(number) = table {
            let table = self.tables.entry(number).or_default();
            table.nics.insert(link, port);
            table.due = Some(now);
        }
    }

    fn close(&mut self, port: PortId, now: Instant) {
        let Some(uplink) = self.uplinks.remove(&port) else {
            return;
        };
        let known = uplink.all().filter(|view| view.mac.is_some());
        self.changes.extend(known.map(|view| Change {
            port,
            vrf: uplink.vrf,
            address: view.address,
            mac: None,
        }));
        for table in self.tables.values_mut() {
            if table.nics.remove(&uplink.link).is_some() {
                table.due = Some(now);
            }
        }
    }

    /// Takes in what the kernel has told.
    fn follow(&mut self, now: Instant) -> Result<(), Error> {
        let Work {
            watch,
            netlink,
            uplinks,
            tables,
            ..
        } = self;
        let mut again: Vec<PortId> = Vec::new();
        watch.drain(|event| match event {
            Event::LinkChanged(link) => {
                for uplink in uplinks.values_mut().filter(|u| u.link == link.index) {
                    if uplink.link_changed(&link, now) {
                        again.push(uplink.port);
                    }
                }
                // The kernel is silent about routes that change with a link.
                let of_link = tables
                    .values_mut()
                    .filter(|t| t.nics.contains_key(&link.index));
                of_link.for_each(|t| t.changed(now));
            }
            Event::AddressChanged(address) | Event::AddressGone(address) => {
                // What is there now is read: an address that changes is told in several notices.
                for uplink in uplinks.values_mut().filter(|u| u.link == address.link) {
                    again.push(uplink.port);
                }
            }
            Event::NeighborChanged(ref neighbor) | Event::NeighborGone(ref neighbor) => {
                let there = matches!(event, Event::NeighborChanged(_));
                for uplink in uplinks.values_mut().filter(|u| u.link == neighbor.link) {
                    uplink.neighbor_changed(neighbor, there, now);
                }
            }
            Event::RouteChanged(entry) | Event::RouteGone(entry) => {
                if let Some(table) = tables.get_mut(&entry.route.table) {
                    table.changed(now);
                }
            }
            Event::Resync => {
                again.extend(uplinks.keys());
                tables.values_mut().for_each(|t| t.changed(now));
            }
            Event::LinkGone { .. } => {}
        })?;
        again.sort();
        again.dedup();
        for port in again {
            if let Some(uplink) = uplinks.get_mut(&port)
                && let Err(e) = uplink.read_again(netlink, now)
            {
                debug!(port = port.0, error = %e, "an interface could not be read; it may be gone");
            }
        }
        Ok(())
    }

    /// Hears and asks. A NIC whose socket fails is given up; the engine hears that its interface is gone.
    fn act(&mut self, now: Instant) {
        let mut failed = Vec::new();
        for uplink in self.uplinks.values_mut() {
            let acted = uplink
                .hear(now)
                .and_then(|()| uplink.act(now, &mut self.changes));
            if let Err(e) = acted {
                warn!(port = uplink.port.0, error = %e, "the link of a NIC is no longer watched");
                failed.push(uplink.port);
            }
        }
        failed.into_iter().for_each(|port| self.close(port, now));
    }

    /// Reads routing tables that have changed; false when nobody wants to know.
    fn read_tables(&mut self, now: Instant) -> bool {
        let mut open = true;
        for (&number, table) in &mut self.tables {
            if table.due.is_none_or(|due| due > now) {
                continue;
            }
            table.due = None;
            let begun = Instant::now();
            let read = [Family::V4, Family::V6].map(|family| {
                // Without a NIC nothing of it is wanted any more.
                match table.nics.is_empty() {
                    true => Ok(Vec::new()),
                    false => route::entries(&mut self.netlink, family, number),
                }
            });
            let ended = Instant::now();
            table.rested = Some(ended + (ended - begun) * READING);
            let mut routes = BTreeMap::new();
            for entries in read {
                match entries {
                    Ok(entries) => routes.extend(import::routes(&entries, &table.nics)),
                    Err(e) => {
                        warn!(table = number, error = %e, "the kernel's routes could not be read");
                        table.changed(ended + Duration::from_secs(1));
                        routes = table.routes.clone();
                        break;
                    }
                }
            }
            let changes = import::differences(&table.routes, &routes);
            table.routes = routes;
            if !changes.is_empty() {
                open &= (self.report)(Report::Routes {
                    table: number,
                    changes,
                });
            }
        }
        self.tables
            .retain(|_, t| t.due.is_some() || !t.nics.is_empty());
        open
    }

    /// Reports changes of neighbours; false when nobody wants to know.
    fn tell(&mut self, now: Instant) -> bool {
        if self.changes.is_empty() || now < self.reported + REPORTS_APART {
            return true;
        }
        self.reported = now;
        (self.report)(Report::Neighbors(std::mem::take(&mut self.changes)))
    }
}

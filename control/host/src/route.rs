// SPDX-License-Identifier: Apache-2.0
//! Routes (`man 7 rtnetlink`, `RTM_NEWROUTE`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::{Error, Result};
use crate::netlink::Socket;
use crate::netlink::message::{Request, attr, attrs, family, ip, u8_at, u16_at, u32_at};

const RTNH_F_DEAD: u32 = 1;
const RTNH_F_ONLINK: u32 = 4;
const RTNH_F_LINKDOWN: u32 = 16;
const RTAX_MTU: u16 = 2;
/// Length of `struct rtnexthop`.
const NEXT_HOP: usize = 8;

/// Address family of a list of routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Forwards or delivers it on a link.
    #[default]
    Unicast,
    /// Drops it without a word.
    Blackhole,
    /// Drops it and answers "unreachable".
    Unreachable,
    /// Drops it and answers "administratively prohibited".
    Prohibit,
    /// Any other `RTN_*` (local, broadcast, ...), as read from the kernel.
    Other(u8),
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Kind::Unicast => libc::RTN_UNICAST,
            Kind::Blackhole => libc::RTN_BLACKHOLE,
            Kind::Unreachable => libc::RTN_UNREACHABLE,
            Kind::Prohibit => libc::RTN_PROHIBIT,
            Kind::Other(n) => n,
        }
    }

    fn read(n: u8) -> Self {
        match n {
            libc::RTN_UNICAST => Kind::Unicast,
            libc::RTN_BLACKHOLE => Kind::Blackhole,
            libc::RTN_UNREACHABLE => Kind::Unreachable,
            libc::RTN_PROHIBIT => Kind::Prohibit,
            other => Kind::Other(other),
        }
    }
}

/// A route with at most one next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destination; host bits are ignored. `0.0.0.0/0` or `::/0` is the default route.
    pub dst: IpNet,
    /// Next hop. An IPv6 next hop of an IPv4 route is allowed (RFC 5549).
    pub gateway: Option<IpAddr>,
    /// Index of the outgoing interface.
    pub link: Option<u32>,
    /// The gateway is taken to be on the link even if no prefix says so.
    pub onlink: bool,
    /// `RT_SCOPE_*`; by default link for a route without a gateway, else global. IPv6 has none.
    pub scope: Option<u8>,
    /// Largest packet on this route, bytes (`RTAX_MTU`).
    pub mtu: Option<u32>,
    /// Source address for packets of this host.
    pub src: Option<IpAddr>,
    /// Preference, lower first. IPv6 uses 1024 when none is given.
    pub priority: Option<u32>,
    /// Routing table; 254 is main.
    pub table: u32,
    /// Who made it, `RTPROT_*`; 4 ("static") by default.
    pub protocol: u8,
    /// What it does.
    pub kind: Kind,
}

/// A route as it is in a table of the kernel, with all its next hops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The route; its next hop and link are none where it has several.
    pub route: Route,
    /// Where it leads, in the kernel's order; empty for a route that leads nowhere.
    pub next_hops: Vec<NextHop>,
}

/// One of the ways a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// The next hop; none where the destination itself is on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the outgoing interface.
    pub link: u32,
    /// Its share of the flows, 1 to 256.
    pub weight: u32,
    /// Its interface is down or has no carrier: the kernel does not use it.
    pub dead: bool,
}

impl Route {
    /// A unicast route of the main table, so far without next hop or link.
    pub fn new(dst: IpNet) -> Self {
        Route {
            dst,
            gateway: None,
            link: None,
            onlink: false,
            scope: None,
            mtu: None,
            src: None,
            priority: None,
            table: u32::from(libc::RT_TABLE_MAIN),
            protocol: libc::RTPROT_STATIC,
            kind: Kind::Unicast,
        }
    }

    /// A default route.
    pub fn default_for(family: Family) -> Self {
        Route::new(match family {
            Family::V4 => Ipv4Net::default().into(),
            Family::V6 => Ipv6Net::default().into(),
        })
    }

    /// Through this next hop.
    #[must_use]
    pub fn via(mut self, gateway: IpAddr) -> Self {
        self.gateway = Some(gateway);
        self
    }

    /// Out of the interface with this index.
    #[must_use]
    pub fn dev(mut self, link: u32) -> Self {
        self.link = Some(link);
        self
    }

    /// The next hop is on the link, whatever the prefixes say.
    #[must_use]
    pub fn onlink(mut self) -> Self {
        self.onlink = true;
        self
    }

    /// With this route MTU, bytes.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// With this source address.
    #[must_use]
    pub fn src(mut self, src: IpAddr) -> Self {
        self.src = Some(src);
        self
    }

    fn scope_number(&self) -> u8 {
        match (self.scope, self.dst) {
            (Some(scope), _) => scope,
            (None, IpNet::V4(_)) if self.gateway.is_none() && self.kind == Kind::Unicast => {
                libc::RT_SCOPE_LINK
            }
            _ => libc::RT_SCOPE_UNIVERSE,
        }
    }

    fn request(&self, kind: u16, flags: i32) -> Request {
        let table = u8::try_from(self.table).unwrap_or(libc::RT_TABLE_UNSPEC);
        let mut header = [0; 12];
        header[..8].copy_from_slice(&[
            family(self.dst.addr()),
            self.dst.prefix_len(),
            0,
            0,
            table,
            self.protocol,
            self.scope_number(),
            self.kind.number(),
        ]);
        let onlink = if self.onlink { RTNH_F_ONLINK } else { 0 };
        header[8..].copy_from_slice(&onlink.to_ne_bytes());
        let mut request = Request::new(kind, flags, &header);
        request.u32(libc::RTA_TABLE, self.table);
        if self.dst.prefix_len() > 0 {
            request.ip(libc::RTA_DST, self.dst.network());
        }
        match self.gateway {
            Some(gateway) if gateway.is_ipv4() == self.dst.addr().is_ipv4() => {
                request.ip(libc::RTA_GATEWAY, gateway);
            }
            Some(gateway) => {
                request.attr(libc::RTA_VIA, &via(gateway));
            }
            None => {}
        }
        if let Some(link) = self.link {
            request.u32(libc::RTA_OIF, link);
        }
        if let Some(src) = self.src {
            request.ip(libc::RTA_PREFSRC, src);
        }
        if let Some(priority) = self.priority {
            request.u32(libc::RTA_PRIORITY, priority);
        }
        if let Some(mtu) = self.mtu {
            request.nest(libc::RTA_METRICS, |metrics| {
                metrics.u32(RTAX_MTU, mtu);
            });
        }
        request
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dst)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(link) = self.link {
            write!(f, " dev index {link}")?;
        }
        if self.onlink {
            write!(f, " onlink")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        if let Some(src) = self.src {
            write!(f, " src {src}")?;
        }
        if self.table != u32::from(libc::RT_TABLE_MAIN) {
            write!(f, " table {}", self.table)?;
        }
        Ok(())
    }
}

/// Adds a route.
///
/// # Errors
/// [`Error::exists`] when there is one to the same destination with the same priority; otherwise the kernel's
/// refusal, naming the route.
pub fn add(socket: &mut Socket, route: &Route) -> Result<()> {
    let request = route.request(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
    socket.change(format_args!("adding route {route}"), request)
}

/// Adds a route, or puts it in the place of the one with the same destination, priority and table.
///
/// # Errors
/// The kernel's refusal, naming the route.
pub fn replace(socket: &mut Socket, route: &Route) -> Result<()> {
    let request = route.request(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
    socket.change(format_args!("setting route {route}"), request)
}

/// Removes a route; fields that are none match any.
///
/// # Errors
/// [`Error::is_gone`] when there is no such route.
pub fn delete(socket: &mut Socket, route: &Route) -> Result<()> {
    let mut any_scope = *route;
    any_scope.scope = route.scope.or(Some(libc::RT_SCOPE_NOWHERE));
    let request = any_scope.request(libc::RTM_DELROUTE, 0);
    socket.change(format_args!("removing route {route}"), request)
}

/// The routes of one family and table that have at most one next hop; local ones are in table 255.
///
/// # Errors
/// The kernel's refusal.
pub fn list(socket: &mut Socket, family: Family, table: u32) -> Result<Vec<Route>> {
    let all = entries(socket, family, table)?;
    Ok(all
        .into_iter()
        .filter(|e| e.next_hops.len() <= 1)
        .map(|e| e.route)
        .collect())
}

/// The routes of one family and table with all their next hops.
///
/// # Errors
/// The kernel's refusal.
pub fn entries(socket: &mut Socket, family: Family, table: u32) -> Result<Vec<Entry>> {
    let mut header = [0; 12];
    header[0] = match family {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    };
    let mut request = Request::new(libc::RTM_GETROUTE, 0, &header);
    request.u32(libc::RTA_TABLE, table);
    let listed = socket.dump(
        format_args!("listing the routes of table {table}"),
        request,
        |payload| parse(payload).filter(|e| e.route.table == table),
    );
    match listed {
        // Strict checking reports a table that was never used as an error.
        Err(Error::Netlink {
            errno: libc::ENOENT,
            ..
        }) => Ok(Vec::new()),
        other => other,
    }
}

/// Reads the payload of an `RTM_NEWROUTE` or `RTM_DELROUTE`.
pub(crate) fn parse(payload: &[u8]) -> Option<Entry> {
    let unspecified = if i32::from(u8_at(payload, 0)?) == libc::AF_INET {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let prefix = u8_at(payload, 1)?;
    let flags = u32_at(payload, 8)?;
    let mut route = Route::new(IpNet::new(unspecified, prefix).ok()?);
    let mut next_hops = Vec::new();
    route.table = u32::from(u8_at(payload, 4)?);
    route.protocol = u8_at(payload, 5)?;
    route.scope = Some(u8_at(payload, 6)?);
    route.kind = Kind::read(u8_at(payload, 7)?);
    route.onlink = flags & RTNH_F_ONLINK != 0;
    for (kind, value) in attrs(payload.get(12..)?) {
        match kind {
            libc::RTA_DST => route.dst = IpNet::new(ip(value)?, prefix).ok()?,
            libc::RTA_GATEWAY => route.gateway = ip(value),
            libc::RTA_VIA => route.gateway = ip(value.get(2..)?),
            libc::RTA_OIF => route.link = u32_at(value, 0),
            libc::RTA_PREFSRC => route.src = ip(value),
            libc::RTA_PRIORITY => route.priority = u32_at(value, 0),
            libc::RTA_TABLE => route.table = u32_at(value, 0)?,
            libc::RTA_METRICS => route.mtu = attr(value, RTAX_MTU).and_then(|v| u32_at(v, 0)),
            libc::RTA_MULTIPATH => next_hops.extend(multipath(value)),
            _ => {}
        }
    }
    if let (true, Some(link)) = (next_hops.is_empty(), route.link) {
        next_hops.push(NextHop {
            gateway: route.gateway,
            link,
            weight: 1,
            dead: is_dead(flags),
        });
    }
    Some(Entry { route, next_hops })
}

/// The `struct rtnexthop`s of `RTA_MULTIPATH`, each with attributes behind it; ends at the first one whose length
/// cannot be right.
fn multipath(mut rest: &[u8]) -> impl Iterator<Item = NextHop> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let attributes = rest.get(NEXT_HOP..length)?;
        let gateway = attrs(attributes).find_map(|(kind, value)| match kind {
            libc::RTA_GATEWAY => ip(value),
            libc::RTA_VIA => ip(value.get(2..)?),
            _ => None,
        });
        let hop = NextHop {
            gateway,
            link: u32_at(rest, 4)?,
            weight: u32::from(u8_at(rest, 3)?) + 1,
            dead: is_dead(u32::from(u8_at(rest, 2)?)),
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(hop)
    })
}

fn is_dead(flags: u32) -> bool {
    flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN) != 0
}

/// `struct rtvia`: the family, then the address.
fn via(gateway: IpAddr) -> Vec<u8> {
    let mut bytes = u16::from(family(gateway)).to_ne_bytes().to_vec();
    match gateway {
        IpAddr::V4(v4) => bytes.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes.extend_from_slice(&v6.octets()),
    }
    bytes
}

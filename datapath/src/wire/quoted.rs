// SPDX-License-Identifier: Apache-2.0
//! The packet that an ICMP or ICMPv6 error is about, as far as the error repeats it.

use super::flow_key::{FlowKey, map_v4};
use super::icmp::{self, Query, v4, v6};
use super::ipv4::{self, Ipv4Header};
use super::ipv6::{self, Ipv6Header};
use super::parse::{Fragment, Kind, Parsed};
use super::{array_at, protocol};

/// Whether the packet is an ICMP or ICMPv6 error, which repeats the packet it is about (RFC 792, RFC 4443 section 2.1).
#[inline]
pub fn is_icmp_error(parsed: &Parsed) -> bool {
    if parsed.fragment == Fragment::Later {
        return false;
    }
    match (parsed.kind, parsed.protocol) {
        (Kind::Ipv4, protocol::ICMP) => matches!(
            parsed.icmp_type,
            v4::UNREACHABLE | v4::TIME_EXCEEDED | v4::PARAMETER_PROBLEM
        ),
        (Kind::Ipv6, protocol::ICMPV6) => !v6::is_informational(parsed.icmp_type),
        _ => false,
    }
}

/// The key of the packet that an error in `frame` is about, in the VRF of the error; `None` for anything else, and where what
/// is repeated ends before the ports, is itself an error, or is a later fragment.
pub fn quoted_key(frame: &[u8], parsed: &Parsed) -> Option<FlowKey> {
    if !is_icmp_error(parsed) {
        return None;
    }
    let quoted = frame.get(usize::from(parsed.l4) + icmp::HEADER_LEN..)?;
    let (mut key, transport) = match parsed.kind {
        Kind::Ipv4 => {
            let ip = Ipv4Header::read(quoted)?;
            let field = ip.flags_fragment.get();
            if ip.version() != 4 || field & ipv4::flags::OFFSET != 0 {
                return None;
            }
            let rest = quoted.get(ip.header_len().max(ipv4::HEADER_LEN)..)?;
            let (src, dst) = (map_v4(ip.src), map_v4(ip.dst));
            (
                FlowKey::new(parsed.key.vrf(), ip.protocol, src, dst, 0, 0),
                rest,
            )
        }
        _ => {
            let ip = Ipv6Header::read(quoted)?;
            let whole = ipv6::HEADER_LEN + usize::from(ip.payload_length.get());
            let upper = ipv6::walk(quoted, whole, ip.next_header).ok()?;
            if ip.version() != 6 || upper.part.fragment == Fragment::Later {
                return None;
            }
            let rest = quoted.get(upper.offset.into()..)?;
            let vrf = parsed.key.vrf();
            (
                FlowKey::new(vrf, upper.protocol, ip.src, ip.dst, 0, 0),
                rest,
            )
        }
    };
    set_transport(&mut key, transport)?;
    Some(key)
}

/// Ports, or the identifier of a query.
fn set_transport(key: &mut FlowKey, transport: &[u8]) -> Option<()> {
    let query = match key.protocol() {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            let [a, b, c, d] = *array_at::<4>(transport, 0)?;
            key.sport = u16::from_be_bytes([a, b]);
            key.dport = u16::from_be_bytes([c, d]);
            return Some(());
        }
        protocol::ICMP => v4::query(*transport.first()?),
        protocol::ICMPV6 => v6::query(*transport.first()?),
        _ => return Some(()),
    };
    let [_, _, _, _, a, b, _, _] = *array_at::<8>(transport, 0)?;
    let id = u16::from_be_bytes([a, b]);
    match query? {
        Query::Request => key.sport = id,
        Query::Reply => key.dport = id,
    }
    Some(())
}

// SPDX-License-Identifier: Apache-2.0
//! Values that several kinds of objects have.

use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Bounds, refuse};
use crate::error::RpcError;
use crate::limits::{MAX_INTERFACE_LENGTH, MAX_NAME_LENGTH, MAX_TEXT_LENGTH, MAX_VLAN, MAX_VRF};
use crate::mac::MacAddr;

/// Refuses a field that is given where it means nothing.
pub(super) fn absent(
    field: &str,
    value: Option<impl Display>,
    why: impl Display,
) -> Result<(), RpcError> {
    match value {
        Some(value) => {
            let hint = format!("leave out `{field}`");
            Err(refuse(field, value, why, hint))
        }
        None => Ok(()),
    }
}

pub(super) fn name(field: &str, text: &str) -> Result<(), RpcError> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._:/-".contains(c);
    if text.is_empty() || text.len() > MAX_NAME_LENGTH || !text.chars().all(good) {
        let hint = format!("use 1 to {MAX_NAME_LENGTH} characters of A-Z a-z 0-9 . _ : / -");
        return Err(refuse(
            field,
            format!("\"{}\"", text.escape_debug()),
            "not a name",
            hint,
        ));
    }
    Ok(())
}

/// As the kernel's `dev_valid_name` (net/core/dev.c).
pub(super) fn interface_name(field: &str, text: &str) -> Result<(), RpcError> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text.is_empty()
        || text.len() > MAX_INTERFACE_LENGTH
        || text == "."
        || text == ".."
        || text.chars().any(bad)
    {
        let hint = format!("use 1 to {MAX_INTERFACE_LENGTH} bytes without slash, colon and spaces");
        return Err(refuse(
            field,
            format!("\"{}\"", text.escape_debug()),
            "not an interface name",
            hint,
        ));
    }
    Ok(())
}

pub(super) fn absolute_path(field: &str, text: &str) -> Result<(), RpcError> {
    if !text.starts_with('/') || text.len() > MAX_TEXT_LENGTH || text.chars().any(char::is_control)
    {
        return Err(refuse(
            field,
            format!("\"{}\"", text.escape_debug()),
            "not an absolute path",
            "begin it with /",
        ));
    }
    Ok(())
}

pub(super) fn vrf(id: u32) -> Result<(), RpcError> {
    vrf_in("vrf", id)
}

pub(super) fn vrf_in(field: &str, id: u32) -> Result<(), RpcError> {
    if id > MAX_VRF {
        let hint = format!("choose 0 to {MAX_VRF}");
        Err(refuse(field, id, "out of range", hint))
    } else {
        Ok(())
    }
}

pub(super) fn vlan(field: &str, id: u16) -> Result<(), RpcError> {
    match (1..=MAX_VLAN).contains(&id) {
        true => Ok(()),
        false => Err(refuse(
            field,
            id,
            "not a VLAN",
            format!("choose 1 to {MAX_VLAN}"),
        )),
    }
}

pub(super) fn unicast(mac: MacAddr) -> Result<(), RpcError> {
    match mac.is_unicast() {
        true => Ok(()),
        false => Err(refuse(
            "mac",
            mac,
            "not a station's address",
            "give a unicast address other than zero",
        )),
    }
}

pub(super) fn station(mac: MacAddr, bounds: &Bounds) -> Result<(), RpcError> {
    match mac == bounds.gateway.mac {
        true => Err(refuse(
            "mac",
            mac,
            "the switch's own gateway address",
            "choose another",
        )),
        false => unicast(mac),
    }
}

pub(super) fn prefix(field: &str, net: &IpNet) -> Result<(), RpcError> {
    if net.addr() != net.network() {
        return Err(refuse(
            field,
            net,
            "bits beyond the prefix length are set",
            format!("write {}", net.trunc()),
        ));
    }
    mapped(field, net.addr())
}

/// An address that one host can have and that is more than a node's own.
pub(super) fn host_address(field: &str, address: IpAddr) -> Result<(), RpcError> {
    let what = match address {
        _ if address.is_unspecified() => "unspecified",
        _ if address.is_loopback() => "loopback",
        _ if address.is_multicast() => "multicast",
        IpAddr::V4(a) if a.is_broadcast() => "broadcast",
        IpAddr::V4(a) if a.octets()[0] == 0 || a.octets()[0] >= 240 => "reserved",
        _ => return mapped(field, address),
    };
    Err(refuse(field, address, what, "give the address of a host"))
}

/// IPv4 in IPv6's clothes never appears on a wire (RFC 4291 section 2.5.5.2).
fn mapped(field: &str, address: IpAddr) -> Result<(), RpcError> {
    match address {
        IpAddr::V6(a) => match a.to_ipv4_mapped() {
            Some(v4) => Err(refuse(
                field,
                address,
                "an IPv4-mapped address",
                format!("write {v4}"),
            )),
            None => Ok(()),
        },
        IpAddr::V4(_) => Ok(()),
    }
}

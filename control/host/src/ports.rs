// SPDX-License-Identifier: Apache-2.0
//! Which TCP and UDP ports of the calling thread's network namespace are in use, or may come to be by themselves.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use crate::error::{Error, Result};
use crate::sysctl::{self, Key};

/// A socket with a local port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Its own address and port.
    pub local: SocketAddr,
}

/// The sockets whose local port is in a range.
///
/// # Errors
/// [`Error::Io`] without `/proc`, [`Error::Answer`] for a line of another shape.
pub fn held(ports: &RangeInclusive<u16>) -> Result<Vec<Held>> {
    let in_range = |(held, _): &(Held, bool)| ports.contains(&held.local.port());
    let all = sockets()?.into_iter().filter(in_range);
    Ok(all.map(|(held, _)| held).collect())
}

/// The sockets that hear from whoever sends to their local port.
///
/// # Errors
/// As [`held`].
pub fn waiting() -> Result<Vec<Held>> {
    let all = sockets()?.into_iter().filter(|(_, waits)| *waits);
    Ok(all.map(|(held, _)| held).collect())
}

/// States of a TCP socket that listens and of a UDP socket that is not connected (`include/net/tcp_states.h`).
const WAITS: [(&str, &str); 2] = [("tcp", "0A"), ("udp", "07")];

/// All sockets, and whether they wait for anybody (`/proc/net/tcp` and its like, `net/ipv4/tcp_ipv4.c`).
fn sockets() -> Result<Vec<(Held, bool)>> {
    let mut all = Vec::new();
    for (file, protocol) in [
        ("tcp", "tcp"),
        ("tcp6", "tcp"),
        ("udp", "udp"),
        ("udp6", "udp"),
    ] {
        let path = format!("/proc/thread-self/net/{file}");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // A kernel without IPv6.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && file.ends_with('6') => continue,
            Err(source) => return Err(Error::io(format_args!("reading {path}"), source)),
        };
        for line in text.lines().skip(1) {
            let mut words = line.split_ascii_whitespace().skip(1);
            let (own, state) = (words.next().and_then(local), words.nth(1));
            let (Some(local), Some(state)) = (own, state) else {
                let (what, line) = (format_args!("reading {path}"), format!("{line:?}"));
                return Err(Error::answer(what, line));
            };
            let waits = WAITS.contains(&(protocol, state));
            all.push((Held { protocol, local }, waits));
        }
    }
    Ok(all)
}

/// `0100007F:1F90`: the words of the address in host byte order, then the port.
fn local(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    if !address.len().is_multiple_of(8) {
        return None;
    }
    let words: Option<Vec<u32>> = address
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok())
        .collect();
    let address: IpAddr = match words?[..] {
        [a] => Ipv4Addr::from(a.to_ne_bytes()).into(),
        [a, b, c, d] => {
            let bytes: Vec<u8> = [a, b, c, d]
                .into_iter()
                .flat_map(u32::to_ne_bytes)
                .collect();
            Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(
        address,
        u16::from_str_radix(port, 16).ok()?,
    ))
}

/// The ports of a range that the kernel may give to a socket that asks for any (`net.ipv4.ip_local_port_range` without
/// `net.ipv4.ip_local_reserved_ports`; of IPv6, too).
///
/// # Errors
/// [`Error::Io`] when one of them cannot be read, [`Error::Answer`] for what is none.
pub fn ephemeral(ports: &RangeInclusive<u16>) -> Result<Vec<u16>> {
    let key = |name: &str| Key::new(&["net", "ipv4", name]);
    let wrong =
        |what: &Key, text: &str| Error::answer(format_args!("reading {what}"), format!("{text:?}"));
    let range = key("ip_local_port_range")?;
    let text = sysctl::get(&range)?;
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u16>);
    let (Some(Ok(first)), Some(Ok(last))) = (numbers.next(), numbers.next()) else {
        return Err(wrong(&range, &text));
    };
    let list = key("ip_local_reserved_ports")?;
    let text = sysctl::get(&list)?;
    let reserved = ranges(&text).ok_or_else(|| wrong(&list, &text))?;
    let may =
        |port: &u16| (first..=last).contains(port) && !reserved.iter().any(|r| r.contains(port));
    Ok(ports.clone().filter(may).collect())
}

/// `80,8000-8099`.
fn ranges(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
    let parts = text.trim().split(',').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_words_in_host_byte_order() {
        let port = 0x1f90;
        for address in ["127.0.0.1", "10.1.2.3", "::", "2001:db8::1"] {
            let ip: IpAddr = address.parse().unwrap();
            let bytes = match ip {
                IpAddr::V4(a) => a.octets().to_vec(),
                IpAddr::V6(a) => a.octets().to_vec(),
            };
            let words = bytes.as_chunks::<4>().0;
            let text: String = words
                .iter()
                .map(|w| format!("{:08X}", u32::from_ne_bytes(*w)))
                .collect();
            assert_eq!(
                local(&format!("{text}:1F90")),
                Some(SocketAddr::new(ip, port))
            );
        }
        for bad in [
            "",
            "0100007F",
            "0100007F:",
            "01007F:1F90",
            "0100007F0100007F:1F90",
            "X:1",
        ] {
            assert_eq!(local(bad), None, "{bad}");
        }
    }

    #[test]
    fn reserved_ports_are_a_list_of_ports_and_ranges() {
        assert_eq!(ranges("\n"), Some(vec![]));
        assert_eq!(ranges("80,8000-8099\n"), Some(vec![80..=80, 8000..=8099]));
        assert_eq!(ranges("80,x"), None);
    }

    #[test]
    fn a_listening_socket_holds_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let held = held(&(local.port()..=local.port())).unwrap();
        let own = Held {
            protocol: "tcp",
            local,
        };
        assert!(held.contains(&own), "{held:?}");
        assert!(waiting().unwrap().contains(&own));
        // An end of a connection waits for nobody else.
        let client = std::net::TcpStream::connect(local).unwrap();
        let local = client.local_addr().unwrap();
        assert!(!waiting().unwrap().contains(&Held { local, ..own }));
        assert_eq!(
            ephemeral(&(local.port()..=local.port())).unwrap(),
            [local.port()]
        );
    }
}

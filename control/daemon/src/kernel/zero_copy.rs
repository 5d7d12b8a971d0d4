// SPDX-License-Identifier: Apache-2.0
//! Whether queues of a NIC may be in zero-copy mode: whatever the host receives by them hangs on the worker that serves the port.

use podswitch_datapath::port::xdp::{MAX_CHUNK_MTU, XdpError};
use podswitch_host::ethtool::Ethtool;
use rustix::io::Errno;

use super::nic::Found;
use super::{Kernel, KernelError};

impl Kernel {
    /// Looks whether a NIC has these queues and keeps them for the switch: its RSS table leads nothing there. With `shared` it need not. Changes nothing.
    ///
    /// # Errors
    /// [`KernelError::ZeroCopy`], which says what to do; [`KernelError::Host`] when the kernel does not tell.
    pub fn check_zero_copy(found: &Found, queues: &[u32], shared: bool) -> Result<(), KernelError> {
        let name = found.link.name.as_str();
        let refused = |what: String, hint: String| {
            let name = name.to_owned();
            Err(KernelError::ZeroCopy { name, what, hint })
        };
        if queues.is_empty() {
            return Ok(());
        }
        if let Some(queue) = queues.iter().find(|q| **q >= found.queues) {
            let most = found.queues - 1;
            return refused(
                format!("has no queue {queue}"),
                format!(
                    "name some of 0 to {most}, or give it more queues (ethtool -L {name} combined NUMBER)"
                ),
            );
        }
        if found.link.mtu > MAX_CHUNK_MTU {
            return refused(
                format!(
                    "has MTU {}: in zero-copy mode it may be {MAX_CHUNK_MTU} at most",
                    found.link.mtu
                ),
                "lower it, or have every queue copied".into(),
            );
        }
        if shared {
            return Ok(());
        }
        let ethtool = Ethtool::open()?;
        let fed = match ethtool.rss_queues(name) {
            Ok(fed) => fed,
            Err(e) if e.is_unsupported() => {
                return refused(
                    format!(
                        "is driven by {}, which does not say which queues it spreads packets to (RSS)",
                        driver(&ethtool, name)
                    ),
                    "set `zero_copy_shared` if what the host receives by these queues may hang on podswitchd".into(),
                );
            }
            Err(e) => return Err(e.into()),
        };
        match queues.iter().find(|q| fed.contains(q)) {
            None => Ok(()),
            Some(queue) => refused(
                format!("spreads the host's packets to queue {queue} too (RSS)"),
                how_to_keep(name, queues, found.queues),
            ),
        }
    }

    /// Why queues were refused that were to be in zero-copy mode, if it is that.
    pub fn zero_copy_refused(found: &Found, error: &XdpError) -> Option<KernelError> {
        // EINVAL: the queue is there, and its driver cannot.
        let cannot = [Errno::OPNOTSUPP, Errno::INVAL].map(Errno::raw_os_error);
        error.errno().filter(|e| cannot.contains(e))?;
        let name = found.link.name.clone();
        let driver = Ethtool::open().map_or_else(|_| "?".into(), |e| driver(&e, &name));
        Some(KernelError::ZeroCopy {
            what: format!("is driven by {driver}, which has no zero-copy mode there ({error})"),
            hint: "leave `zero_copy_queues` out: then every queue is copied".into(),
            name,
        })
    }
}

fn driver(ethtool: &Ethtool, interface: &str) -> String {
    ethtool
        .driver(interface)
        .map_or_else(|_| "a driver without a name".into(), |d| d.name)
}

/// The command that has RSS spread packets to all other queues alone.
fn how_to_keep(interface: &str, kept: &[u32], queues: u32) -> String {
    let shared =
        "set `zero_copy_shared` if what the host receives by these queues may hang on podswitchd";
    if kept.len() >= queues as usize {
        return format!("leave one of the queues to the host, or {shared}");
    }
    let weights: Vec<&str> = (0..queues)
        .map(|queue| if kept.contains(&queue) { "0" } else { "1" })
        .collect();
    format!(
        "keep it for the switch: ethtool -X {interface} weight {}; or {shared}",
        weights.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_leaves_the_other_queues_to_the_host() {
        let hint = how_to_keep("eth0", &[3, 1], 4);
        assert!(
            hint.contains("ethtool -X eth0 weight 1 0 1 0; or"),
            "{hint}"
        );
        let hint = how_to_keep("eth0", &[0, 1], 2);
        assert!(hint.starts_with("leave one of the queues"), "{hint}");
    }
}

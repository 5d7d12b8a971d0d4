// SPDX-License-Identifier: Apache-2.0
//! Counters the kernel shows as files only. Those of interfaces come with [`Link::stats`](crate::Link::stats).

use std::fs;

use crate::error::{Error, Result};

/// One CPU's receive backlog (`/proc/net/softnet_stat`, `net/core/net-procfs.c`, `softnet_seq_show`). The counters are
/// 32 bits wide and wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Softnet {
    /// The CPU.
    pub cpu: u32,
    /// Frames processed.
    pub processed: u32,
    /// Frames dropped because the backlog was full (`net.core.netdev_max_backlog`).
    pub dropped: u32,
    /// Times the receive budget or its time ran out with work left.
    pub time_squeeze: u32,
    /// Wake-ups by another CPU (RPS).
    pub received_rps: u32,
    /// Frames dropped by the flow limit.
    pub flow_limit: u32,
}

/// The receive backlog of every online CPU; the same in every network namespace.
///
/// # Errors
/// [`Error::Io`] without `/proc`, [`Error::Answer`] for a line of another shape.
pub fn softnet() -> Result<Vec<Softnet>> {
    // Not /proc/net: that is the main thread's namespace, which may be gone.
    let path = "/proc/thread-self/net/softnet_stat";
    let text = fs::read_to_string(path)
        .map_err(|source| Error::io(format_args!("reading {path}"), source))?;
    parse_softnet(&text)
        .ok_or_else(|| Error::answer(format_args!("reading {path}"), format!("{text:?}")))
}

fn parse_softnet(text: &str) -> Option<Vec<Softnet>> {
    text.lines()
        .enumerate()
        .map(|(line, text)| {
            let columns: Vec<u32> = text
                .split_ascii_whitespace()
                .map(|c| u32::from_str_radix(c, 16))
                .collect::<Result<_, _>>()
                .ok()?;
            Some(Softnet {
                // Older kernels do not say which CPU it is; lines are of online CPUs in order.
                cpu: columns.get(12).copied().or(line.try_into().ok())?,
                processed: *columns.first()?,
                dropped: *columns.get(1)?,
                time_squeeze: *columns.get(2)?,
                received_rps: columns.get(9).copied().unwrap_or(0),
                flow_limit: columns.get(10).copied().unwrap_or(0),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_hexadecimal_and_the_cpu_is_the_thirteenth() {
        let text = "0000010a 00000002 00000003 00000000 00000000 00000000 00000000 00000000 00000000 00000004 00000005 00000000 00000007 00000000 00000000\n";
        let expected = Softnet {
            cpu: 7,
            processed: 0x10a,
            dropped: 2,
            time_squeeze: 3,
            received_rps: 4,
            flow_limit: 5,
        };
        assert_eq!(parse_softnet(text), Some(vec![expected]));
    }

    #[test]
    fn other_shapes_are_refused() {
        for bad in ["x", "1 2", "00000001 zz 00000003\n", "\n"] {
            assert_eq!(parse_softnet(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn this_kernel_has_a_line_for_each_online_cpu() {
        let cpus = softnet().unwrap();
        assert!(!cpus.is_empty());
        assert!(cpus.windows(2).all(|w| w[0].cpu < w[1].cpu));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Events, a line each.

use std::net::IpAddr;

use podswitch_api::method::{DenyEvent, WhyParty};

use super::objects::joined;

/// Milliseconds of a day.
const DAY: u64 = 86_400_000;

pub(crate) fn events(events: &[DenyEvent]) -> String {
    events.iter().map(line).collect()
}

fn line(e: &DenyEvent) -> String {
    let direction = e.direction.name();
    let mut text = format!(
        "{}  {}  {}  {} -> {}",
        time(e.time_ms),
        e.reason,
        e.protocol,
        party(&e.from, e.source_port),
        party(&e.to, e.port),
    );
    if let Some(group) = e.group {
        text += &format!("  group {group}");
    }
    if let Some(policy) = &e.policy {
        text += &format!("  by {policy}");
    } else if let Some(rule) = &e.rule {
        text += &format!("  by {direction} rule {rule} of the port");
    } else if !e.isolated_by.is_empty() {
        text += &format!("  {direction} isolated by {}", joined(&e.isolated_by));
    }
    text + "\n"
}

fn party(p: &WhyParty, port: Option<u16>) -> String {
    let end = match (p.address, port) {
        (address, None) => address.to_string(),
        (IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
        (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
    };
    match (&p.pod, &p.port) {
        (Some(pod), _) => format!("{pod} ({end})"),
        (None, Some(port)) => format!("port {port} ({end})"),
        (None, None) => end,
    }
}

/// Milliseconds since 1970 as RFC 3339 writes them, in UTC.
fn time(ms: u64) -> String {
    let (year, month, day) = date(ms / DAY);
    let of_day = ms % DAY;
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1000 % 60, of_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Year, month and day of a number of days after 1970-01-01, by the Gregorian calendar.
fn date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    loop {
        let length = 365 + u64::from(is_leap(year));
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let mut month = 1;
    loop {
        let length = match month {
            2 => 28 + u64::from(is_leap(year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if days < length {
            return (year, month, days + 1);
        }
        days -= length;
        month += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_written_as_rfc_3339_says() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_764_318_663_123, "2025-11-28T08:31:03.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(time(ms), text);
        }
    }
}

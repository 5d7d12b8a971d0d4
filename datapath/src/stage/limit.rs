// SPDX-License-Identifier: Apache-2.0
//! Rate limits: a token bucket in one word.

use super::Now;
use crate::ids::{MAX_PORTS, PortId};

/// So many events a second, and so many at once after a quiet time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Events a second in the long run; 0 lets nothing through, [`Rate::UNLIMITED`] everything.
    pub per_second: u32,
    /// Events at once; counted as 1 when 0.
    pub burst: u32,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Rate = Rate {
        per_second: u32::MAX,
        burst: 1,
    };
}

/// A token bucket, kept as the time at which it will be full again (the generic cell rate algorithm, ITU-T I.371).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct TokenBucket {
    full_at: u64,
}

impl TokenBucket {
    /// Takes a token if there is one.
    pub(super) fn take(&mut self, rate: Rate, now: Now) -> bool {
        if rate == Rate::UNLIMITED {
            return true;
        }
        if rate.per_second == 0 {
            return false;
        }
        let interval = 1_000_000_000 / u64::from(rate.per_second);
        let depth = interval * u64::from(rate.burst.max(1));
        let after = self.full_at.max(now.0).saturating_add(interval);
        let allowed = after - now.0 <= depth;
        if allowed {
            self.full_at = after;
        }
        allowed
    }
}

/// Limits the ICMP errors a worker sends (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f), port by port, so that no
/// pod can use up the others' share.
#[derive(Debug)]
pub struct RateLimiter {
    rate: Rate,
    ports: Box<[TokenBucket]>,
}

impl RateLimiter {
    /// A limiter that lets `rate` of errors go to each port.
    pub fn new(rate: Rate) -> RateLimiter {
        RateLimiter {
            rate,
            ports: vec![TokenBucket::default(); MAX_PORTS].into_boxed_slice(),
        }
    }

    /// Whether an error may go to `port` now.
    pub(crate) fn allow(&mut self, port: PortId, now: Now) -> bool {
        self.ports
            .get_mut(port.index())
            .is_some_and(|bucket| bucket.take(self.rate, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn taken(bucket: &mut TokenBucket, rate: Rate, now: u64, tries: u32) -> u32 {
        (0..tries).filter(|_| bucket.take(rate, Now(now))).count() as u32
    }

    #[test]
    fn burst_then_rate() {
        let rate = Rate {
            per_second: 10,
            burst: 4,
        };
        let mut b = TokenBucket::default();
        assert_eq!(taken(&mut b, rate, 5 * SECOND, 100), 4);
        assert_eq!(taken(&mut b, rate, 5 * SECOND + SECOND / 10, 100), 1);
        assert_eq!(
            taken(&mut b, rate, 6 * SECOND, 100),
            4,
            "no more than the burst"
        );
        let spread = (0..1000).map(|i| taken(&mut b, rate, 7 * SECOND + i * SECOND / 100, 1));
        assert!((100..=104).contains(&spread.sum::<u32>()), "ten seconds");
    }

    #[test]
    fn none_and_all() {
        let mut b = TokenBucket::default();
        let none = Rate {
            per_second: 0,
            burst: 9,
        };
        assert_eq!(taken(&mut b, none, SECOND, 10), 0);
        assert_eq!(taken(&mut b, Rate::UNLIMITED, SECOND, 10), 10);
    }

    #[test]
    fn ports_have_their_own_share() {
        let mut l = RateLimiter::new(Rate {
            per_second: 1,
            burst: 1,
        });
        assert!(l.allow(PortId(1), Now(SECOND)));
        assert!(!l.allow(PortId(1), Now(SECOND)));
        assert!(l.allow(PortId(2), Now(SECOND)));
        assert!(!l.allow(PortId(u16::MAX), Now(SECOND)), "no such port");
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Who is served next: deficit round robin by cycles (Shreedhar and Varghese, 1996).
//!
//! Everything a worker receives from, its ports and its peers, has a balance of cycles. A round adds a quantum to each,
//! up to [`SAVED`]; who has a positive balance is served one burst and pays what it took. What a burst costs is known only
//! afterwards, so a balance may become a debt, which is worked off in rounds without service. Nobody waits for a debt
//! that nobody else is in front of: a round that served none is followed by as many as the smallest debt needs, at once.
//!
//! What a port's frames cost on other workers it pays at home, with the next step of ageing.
#![forbid(unsafe_code)]

/// Quanta that who needs little saves for when it has something, so that it then is served at once.
const SAVED: i64 = 64;
/// Quanta that one service costs at most: a worker that lost its core in the middle charges nobody for that.
const MOST_CHARGED: i64 = 2048;

/// A balance of cycles.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Balance(i64);

impl Balance {
    /// Whether it may not be served.
    #[inline]
    pub(crate) fn is_debt(self) -> bool {
        self.0 <= 0
    }
}

/// How balances change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Quantum(i64);

impl Quantum {
    pub(crate) fn new(cycles: u64) -> Quantum {
        Quantum(
            i64::try_from(cycles)
                .unwrap_or(i64::MAX / 8192)
                .clamp(1, i64::MAX / 8192),
        )
    }

    /// Begins a round for one balance, `rounds` at once; true when it may be served.
    #[inline]
    pub(crate) fn begin(self, balance: &mut Balance, rounds: i64) -> bool {
        balance.0 = balance
            .0
            .saturating_add(self.0.saturating_mul(rounds))
            .min(self.0 * SAVED);
        balance.0 > 0
    }

    /// Takes what a service cost and returns how much that was.
    #[inline]
    pub(crate) fn charge(self, balance: &mut Balance, cycles: u64) -> u64 {
        let most = self.0 * MOST_CHARGED;
        let cost = i64::try_from(cycles).unwrap_or(most).min(most);
        balance.0 -= cost;
        cost as u64
    }

    /// Rounds until this balance may be served, at least one.
    #[inline]
    pub(crate) fn rounds_left(self, balance: Balance) -> i64 {
        (1 - balance.0).div_euclid(self.0) + i64::from((1 - balance.0).rem_euclid(self.0) > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: Quantum = Quantum(1000);

    /// Serves sources that always have work at these costs a burst, for `rounds`, and returns the cycles each got and
    /// how often.
    fn run(costs: &[u64], rounds: usize) -> Vec<(u64, u64)> {
        let mut balances = vec![Balance::default(); costs.len()];
        let mut got = vec![(0, 0); costs.len()];
        let mut pass = |balances: &mut [Balance], rounds| {
            let mut served = false;
            for (i, balance) in balances.iter_mut().enumerate() {
                if Q.begin(balance, rounds) {
                    got[i].0 += Q.charge(balance, costs[i]);
                    got[i].1 += 1;
                    served = true;
                }
            }
            served
        };
        for _ in 0..rounds {
            if !pass(&mut balances, 1) {
                let nearest = balances.iter().map(|b| Q.rounds_left(*b)).min();
                assert!(
                    pass(&mut balances, nearest.unwrap()),
                    "nobody after the smallest debt"
                );
            }
        }
        got
    }

    #[test]
    fn cycles_are_shared_evenly_whatever_a_burst_costs() {
        let got = run(&[200_000, 60_000, 5_000, 9_999], 200_000);
        let least = got.iter().map(|g| g.0).min().unwrap();
        let most = got.iter().map(|g| g.0).max().unwrap();
        assert!(most - least < least / 100, "{got:?}");
    }

    #[test]
    fn who_needs_little_is_served_every_round() {
        let got = run(&[900, 64_000, 64_000], 10_000);
        assert_eq!(got[0].1, 10_000, "{got:?}");
    }

    #[test]
    fn who_was_quiet_is_served_at_once() {
        let mut balance = Balance::default();
        for _ in 0..100 {
            Q.begin(&mut balance, 1);
        }
        for _ in 0..21 {
            assert!(Q.begin(&mut balance, 1));
            Q.charge(&mut balance, 4_000);
        }
    }

    #[test]
    fn one_alone_is_served_all_the_time() {
        let got = run(&[50_000], 1000);
        assert_eq!(got[0].1, 1000);
    }

    #[test]
    fn a_lost_core_is_not_charged_without_bound() {
        let mut balance = Balance::default();
        Q.charge(&mut balance, u64::MAX);
        assert_eq!(balance, Balance(-2_048_000));
        assert_eq!(Q.rounds_left(balance), 2049);
        assert!(!Q.begin(&mut balance, 2048));
        assert!(Q.begin(&mut balance, 1));
        assert!(Q.begin(&mut balance, i64::MAX));
        assert_eq!(balance, Balance(64_000));
        assert_eq!(Q.rounds_left(Balance(0)), 1);
        assert_eq!(Q.rounds_left(Balance(-1000)), 2);
    }
}

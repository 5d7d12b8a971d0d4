// SPDX-License-Identifier: Apache-2.0
//! Medians, quantiles, and confidence intervals by resampling.

use serde::Serialize;

/// How often paired samples are drawn again for a confidence interval.
const RESAMPLES: usize = 10_000;

/// Pseudo-random numbers (xorshift64, Marsaglia 2003): the same seed gives the same ones.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed; 0 is as good as any.
    pub fn new(seed: u64) -> Random {
        Random(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `n`, which is at least 1 and small against 2^64.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Puts items into random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// A value and the interval that covers it with 95 % confidence.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Estimate {
    /// Median.
    pub median: f64,
    /// 2.5th percentile of the medians of resampled data.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
}

/// The value below which a share of the samples lies (linear between neighbours); NaN without samples.
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    of_sorted(&sorted, share)
}

fn of_sorted(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let at = share.clamp(0.0, 1.0) * last as f64;
    let (below, rest) = (at as usize, at.fract());
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * rest
}

/// The middle sample.
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The median with its confidence interval (percentile bootstrap). The same samples give the same interval.
pub fn estimate(samples: &[f64]) -> Estimate {
    let mut random = Random::new(0x5eed);
    let mut draw = || samples[random.below(samples.len().max(1))];
    let mut medians = Vec::new();
    if !samples.is_empty() {
        let mut again = vec![0.0; samples.len()];
        for _ in 0..RESAMPLES {
            again.fill_with(&mut draw);
            again.sort_by(f64::total_cmp);
            medians.push(of_sorted(&again, 0.5));
        }
    }
    Estimate {
        median: median(samples),
        low: quantile(&medians, 0.025),
        high: quantile(&medians, 0.975),
    }
}

/// Samples of two things, taken in rounds of A B B A: a drift that is steady over a round falls on both alike.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rounds {
    /// Of the first thing, two a round.
    pub a: Vec<f64>,
    /// Of the second thing, two a round.
    pub b: Vec<f64>,
}

impl Rounds {
    /// Adds a round, of what `sample` says of the first thing (`true`) and the second.
    pub fn take(&mut self, mut sample: impl FnMut(bool) -> f64) {
        for first in [true, false, false, true] {
            let value = sample(first);
            match first {
                true => self.a.push(value),
                false => self.b.push(value),
            }
        }
    }
}

/// Samples of several things in rounds of A B C C B A, as [`Rounds`] of two: `sample` measures one of them, by number.
pub fn rounds<const N: usize>(
    rounds: usize,
    mut sample: impl FnMut(usize) -> f64,
) -> [Vec<f64>; N] {
    let mut samples = std::array::from_fn(|_| Vec::with_capacity(2 * rounds));
    for _ in 0..rounds {
        for n in (0..N).chain((0..N).rev()) {
            samples[n].push(sample(n));
        }
    }
    samples
}

/// Means of the two samples of each round.
pub fn round_means(samples: &[f64]) -> Vec<f64> {
    samples
        .chunks_exact(2)
        .map(|round| (round[0] + round[1]) / 2.0)
        .collect()
}

/// What `combine` makes of the means of each round.
pub fn by_round(of: &[f64], to: &[f64], combine: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let pairs = round_means(of).into_iter().zip(round_means(to));
    pairs.map(|(of, to)| combine(of, to)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let samples = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(median(&samples), 2.5);
        assert_eq!(quantile(&samples, 0.0), 1.0);
        assert_eq!(quantile(&samples, 1.0), 4.0);
        assert_eq!(quantile(&samples, 0.25), 1.75);
        assert_eq!(median(&[7.0]), 7.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_interval_covers_the_median_and_narrows() {
        let noise = |n: usize| -> Vec<f64> {
            (0..n)
                .map(|i| 100.0 + ((i * 7919) % 101) as f64 / 10.0)
                .collect()
        };
        let (few, many) = (estimate(&noise(20)), estimate(&noise(1000)));
        for e in [few, many] {
            assert!(e.low <= e.median && e.median <= e.high, "{e:?}");
        }
        assert!(many.high - many.low < few.high - few.low);
        assert_eq!(few, estimate(&noise(20)));
        assert!(estimate(&[]).median.is_nan());
    }

    #[test]
    fn things_are_measured_there_and_back() {
        let mut order = Vec::new();
        let samples: [Vec<f64>; 3] = rounds(2, |n| {
            order.push(n);
            n as f64
        });
        assert_eq!(order, [0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0]);
        assert_eq!(samples, [vec![0.0; 4], vec![1.0; 4], vec![2.0; 4]]);
    }

    #[test]
    fn a_steady_drift_cancels_within_a_round() {
        let mut rounds = Rounds::default();
        let mut time = 0.0;
        for _ in 0..3 {
            // The second thing takes twice as long; all takes longer with time.
            rounds.take(|first| {
                time += 1.0;
                time + if first { 100.0 } else { 200.0 }
            });
        }
        assert_eq!((rounds.a.len(), rounds.b.len()), (6, 6));
        let differences = by_round(&rounds.b, &rounds.a, |b, a| b - a);
        assert_eq!(differences, [100.0, 100.0, 100.0]);
    }
}

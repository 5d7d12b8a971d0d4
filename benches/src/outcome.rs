// SPDX-License-Identifier: Apache-2.0
//! What a benchmark has found.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::stats::{self, Estimate, Rounds};

/// The findings of one benchmark.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Name, as the command line takes it.
    pub name: String,
    /// Title.
    pub title: String,
    /// What was measured, and how.
    pub method: String,
    /// Samples that were taken.
    pub series: Vec<Series>,
    /// Series against each other, and other figures with an interval.
    pub comparisons: Vec<Comparison>,
    /// Times of which the tail matters.
    pub distributions: Vec<Distribution>,
    /// Single figures.
    pub figures: Vec<Figure>,
    /// Why the figures do not say what they should, if something went wrong.
    pub problem: Option<String>,
}

/// Samples of one thing.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// What.
    pub label: String,
    /// Unit of the samples.
    pub unit: String,
    /// Every sample, in the order it was taken.
    pub samples: Vec<f64>,
}

/// Something computed from each round of two interleaved series.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What of what.
    pub label: String,
    /// "ratio", or a unit.
    pub unit: String,
    /// Median over the rounds, and its 95 % confidence interval.
    pub estimate: Estimate,
    /// One value a round.
    pub samples: Vec<f64>,
}

/// Times, each of one event.
#[derive(Clone, Debug, Serialize)]
pub struct Distribution {
    /// Every value, in the order it was taken.
    #[serde(flatten)]
    pub series: Series,
    /// Percentile and value, as an HDR histogram of three significant digits gives them.
    pub percentiles: Vec<(f64, f64)>,
}

/// A figure.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What.
    pub label: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: String,
}

/// What is shown of a distribution.
const PERCENTILES: [f64; 6] = [0.0, 50.0, 90.0, 99.0, 99.9, 100.0];
/// Parts of a unit that the histogram counts in.
const RESOLUTION: f64 = 1000.0;

impl Outcome {
    /// Without findings so far. Line breaks in `method` are not kept.
    pub fn new(name: &str, title: &str, method: &str) -> Outcome {
        Outcome {
            name: name.into(),
            title: title.into(),
            method: method.split_whitespace().collect::<Vec<_>>().join(" "),
            series: Vec::new(),
            comparisons: Vec::new(),
            distributions: Vec::new(),
            figures: Vec::new(),
            problem: None,
        }
    }

    /// Adds samples.
    pub fn add_series(&mut self, label: &str, unit: &str, samples: Vec<f64>) {
        self.series.push(series(label, unit, samples));
    }

    /// Adds two interleaved series of `what` (nothing when there is but one thing), and the ratio of the first to the second
    /// in each round.
    pub fn add_rounds(&mut self, what: &str, (of, to): (&str, &str), unit: &str, rounds: Rounds) {
        let label = |side: &str| match what {
            "" => side.to_owned(),
            what => format!("{what}: {side}"),
        };
        let ratios = stats::by_round(&rounds.a, &rounds.b, |a, b| a / b);
        self.add_comparison(&label(&format!("{of} / {to}")), "ratio", ratios);
        self.add_series(&label(of), unit, rounds.a);
        self.add_series(&label(to), unit, rounds.b);
    }

    /// Adds what was computed from each round.
    pub fn add_comparison(&mut self, label: &str, unit: &str, samples: Vec<f64>) {
        self.comparisons.push(Comparison {
            label: label.into(),
            unit: unit.into(),
            estimate: stats::estimate(&samples),
            samples,
        });
    }

    /// Adds times (or other values of 0 and more).
    pub fn add_distribution(&mut self, label: &str, unit: &str, samples: Vec<f64>) {
        let mut histogram = Histogram::<u64>::new(3).expect("three digits are allowed");
        for sample in &samples {
            let value = (sample * RESOLUTION).clamp(0.0, 1e15) as u64;
            histogram.record(value).expect("the histogram grows");
        }
        let value = |p: f64| histogram.value_at_percentile(p) as f64 / RESOLUTION;
        let percentiles = match samples.is_empty() {
            true => Vec::new(),
            false => PERCENTILES.iter().map(|&p| (p, value(p))).collect(),
        };
        self.distributions.push(Distribution {
            series: series(label, unit, samples),
            percentiles,
        });
    }

    /// Adds a figure.
    pub fn add_figure(&mut self, label: &str, value: f64, unit: &str) {
        self.figures.push(Figure {
            label: label.into(),
            value,
            unit: unit.into(),
        });
    }

    /// As a terminal shows it.
    pub fn text(&self) -> String {
        let mut text = format!("{} ({})\n", self.title, self.name);
        if let Some(problem) = &self.problem {
            text += &format!("  NOT TO BE QUOTED: {problem}\n");
        }
        for s in &self.series {
            let [low, middle, high] = [0.25, 0.5, 0.75].map(|q| stats::quantile(&s.samples, q));
            text += &format!(
                "  {:<58} {:>9} {} (half of {} samples within {} and {})\n",
                s.label,
                number(middle),
                s.unit,
                s.samples.len(),
                number(low),
                number(high)
            );
        }
        for c in &self.comparisons {
            let Estimate { median, low, high } = c.estimate;
            text += &format!(
                "  {:<58} {:>9} {} (95 %: {} to {}, {} rounds)\n",
                c.label,
                number(median),
                c.unit,
                number(low),
                number(high),
                c.samples.len()
            );
        }
        for d in &self.distributions {
            text += &format!("  {:<58}", d.series.label);
            for (percentile, value) in &d.percentiles {
                text += &format!(" {}:{}", percentile_name(*percentile), number(*value));
            }
            text += &format!(" {} (n={})\n", d.series.unit, d.series.samples.len());
        }
        for f in &self.figures {
            text += &format!("  {:<58} {:>9} {}\n", f.label, number(f.value), f.unit);
        }
        text
    }
}

fn series(label: &str, unit: &str, samples: Vec<f64>) -> Series {
    Series {
        label: label.into(),
        unit: unit.into(),
        samples,
    }
}

/// `min`, `p50`, `max`.
pub fn percentile_name(percentile: f64) -> String {
    match percentile {
        p if p <= 0.0 => "min".into(),
        p if p >= 100.0 => "max".into(),
        p => format!("p{p}"),
    }
}

/// A number with about four significant digits.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 10.0 => format!("{value:.2}"),
        v if v >= 0.1 => format!("{value:.3}"),
        0.0 => "0".into(),
        _ => format!("{value:.5}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_gives_one_ratio() {
        let mut outcome = Outcome::new("n", "t", "several\n   lines");
        let rounds = Rounds {
            a: vec![1.0, 3.0, 8.0, 8.0],
            b: vec![4.0, 4.0, 2.0, 2.0],
        };
        outcome.add_rounds("w", ("x", "y"), "s", rounds);
        assert_eq!(outcome.comparisons[0].samples, [0.5, 4.0]);
        assert_eq!(outcome.series[0].samples.len(), 4);
        assert_eq!(outcome.method, "several lines");
        assert!(outcome.text().contains("w: x / y"));
    }

    #[test]
    fn percentiles_are_of_the_values() {
        let mut outcome = Outcome::new("n", "t", "m");
        outcome.add_distribution("d", "us", (0..=1000).map(f64::from).collect());
        outcome.add_distribution("none", "us", Vec::new());
        for (percentile, value) in &outcome.distributions[0].percentiles {
            let exact = percentile * 10.0;
            assert!(
                (value - exact).abs() <= exact / 500.0,
                "{percentile}: {value}"
            );
        }
        assert!(outcome.distributions[1].percentiles.is_empty());
    }

    #[test]
    fn numbers_keep_four_digits() {
        let shown = [0.0, 0.0123, 0.9712, 42.0, 123.45, 12345.6].map(number);
        assert_eq!(shown, ["0", "0.01230", "0.971", "42.00", "123.5", "12346"]);
    }
}

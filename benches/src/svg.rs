// SPDX-License-Identifier: Apache-2.0
//! Plots, as SVG that needs nothing else.

use crate::outcome::{Comparison, Series, number};
use crate::stats::quantile;

const WIDTH: f64 = 920.0;
const LEFT: f64 = 360.0;
const RIGHT: f64 = 20.0;
const ROW: f64 = 34.0;
const AXIS: f64 = 40.0;

/// Text for XML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// A horizontal axis with round ticks.
struct Scale {
    low: f64,
    high: f64,
    step: f64,
    /// Values are decimal logarithms.
    logarithmic: bool,
}

impl Scale {
    /// Of decimal logarithms: whole decades.
    fn decades(logs: impl Iterator<Item = f64>) -> Scale {
        let (low, high) = logs.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        Scale {
            low: low.floor(),
            high: high.ceil().max(low.floor() + 1.0),
            step: 1.0,
            logarithmic: true,
        }
    }

    fn new(values: impl Iterator<Item = f64>) -> Scale {
        let (low, high) = values
            .filter(|v| v.is_finite())
            .fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            return Scale {
                low: 0.0,
                high: 1.0,
                step: 0.25,
                logarithmic: false,
            };
        }
        let span = (high - low).max(high.abs() * 0.01).max(1e-9);
        let rough = span / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|m| m * power)
            .into_iter()
            .find(|s| *s >= rough)
            .unwrap_or(10.0 * power);
        Scale {
            low: (low / step).floor() * step,
            high: (high / step).floor() * step + step,
            step,
            logarithmic: false,
        }
    }

    fn x(&self, value: f64) -> f64 {
        let share = (value - self.low) / (self.high - self.low);
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn axis(&self, height: f64, unit: &str) -> String {
        let mut svg = String::new();
        let mut tick = self.low;
        while tick <= self.high + self.step / 2.0 {
            let x = self.x(tick);
            svg += &format!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{height:.1}\"/>\
                 <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                height + 14.0,
                match self.logarithmic {
                    true => number(10f64.powf(tick)),
                    false => tidy(tick, self.step),
                }
            );
            tick += self.step;
        }
        svg + &format!(
            "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            height + 30.0,
            escape(unit)
        )
    }
}

/// A tick with as many decimals as its step needs.
fn tidy(value: f64, step: f64) -> String {
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    format!("{value:.decimals$}")
}

fn frame(rows: usize, scale: &Scale, unit: &str, body: &str) -> String {
    svg(rows as f64 * ROW, scale, unit, body)
}

fn svg(height: f64, scale: &Scale, unit: &str, body: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\">{}{body}</svg>",
        height + AXIS,
        scale.axis(height, unit)
    )
}

fn row_label(row: usize, label: &str) -> String {
    let y = (row as f64 + 0.5) * ROW + 4.0;
    format!(
        "<text class=\"label\" x=\"{:.0}\" y=\"{y:.1}\">{}</text>",
        LEFT - 12.0,
        escape(label)
    )
}

/// Most dots of a row; evenly chosen ones stand for more.
const DOTS: usize = 400;

/// Dots for samples, spread over a row so that equal ones do not hide each other.
fn dots(samples: &[f64], top: f64, scale: &Scale) -> String {
    let every = samples.len().div_ceil(DOTS).max(1);
    let mut svg = String::new();
    for (i, sample) in samples.iter().step_by(every).enumerate() {
        if sample.is_finite() {
            let y = top + ROW * (0.22 + 0.56 * ((i * 7) % 11) as f64 / 10.0);
            svg += &format!(
                "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"1.8\"/>",
                scale.x(*sample)
            );
        }
    }
    svg
}

/// Samples as dots, with a box around the middle half and a line at the median; one row a series, all of one unit.
pub fn strips(series: &[&Series]) -> String {
    let Some(first) = series.first() else {
        return String::new();
    };
    let scale = Scale::new(series.iter().flat_map(|s| s.samples.iter().copied()));
    let mut body = String::new();
    for (row, s) in series.iter().enumerate() {
        let top = row as f64 * ROW;
        body += &row_label(row, &s.label);
        body += &dots(&s.samples, top, &scale);
        let [low, middle, high] = [0.25, 0.5, 0.75].map(|q| quantile(&s.samples, q));
        if middle.is_finite() {
            let (x, width) = (scale.x(low), scale.x(high) - scale.x(low));
            body += &format!(
                "<rect class=\"half\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
                top + ROW * 0.15,
                ROW * 0.7
            );
            body += &line(scale.x(middle), top, &number(middle));
        }
    }
    frame(series.len(), &scale, &first.unit, &body)
}

/// The value of every round as a dot, with the confidence interval of the median as a bar; all of one unit.
pub fn intervals(comparisons: &[&Comparison]) -> String {
    let Some(first) = comparisons.first() else {
        return String::new();
    };
    let all = comparisons.iter().flat_map(|c| c.samples.iter().copied());
    // What no difference looks like.
    let none = if first.unit == "ratio" { 1.0 } else { 0.0 };
    let scale = Scale::new(all.chain([none]));
    let mut body = format!(
        "<line class=\"one\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"0\" y2=\"{1:.1}\"/>",
        scale.x(none),
        comparisons.len() as f64 * ROW
    );
    for (row, c) in comparisons.iter().enumerate() {
        let top = row as f64 * ROW;
        body += &row_label(row, &c.label);
        body += &dots(&c.samples, top, &scale);
        let e = c.estimate;
        if e.median.is_finite() {
            let (x, width) = (scale.x(e.low), scale.x(e.high) - scale.x(e.low));
            body += &format!(
                "<rect class=\"interval\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"6\"/>",
                top + ROW / 2.0 - 3.0
            );
            body += &line(scale.x(e.median), top, &number(e.median));
        }
    }
    frame(comparisons.len(), &scale, &first.unit, &body)
}

const CURVES: [&str; 6] = [
    "#3b76b8", "#c4622d", "#3d8f5a", "#8a4fa3", "#8a7a1f", "#4a5568",
];
const CURVE_HEIGHT: f64 = 200.0;

/// Which share of the values lies below, over a logarithmic axis; one curve a series.
pub fn cumulative(series: &[&Series]) -> String {
    let Some(first) = series.first() else {
        return String::new();
    };
    let logs = |s: &Series| -> Vec<f64> {
        let positive = s.samples.iter().filter(|v| **v > 0.0);
        let mut logs: Vec<f64> = positive.map(|v| v.log10()).collect();
        logs.sort_by(f64::total_cmp);
        logs
    };
    let scale = Scale::decades(series.iter().flat_map(|s| logs(s)));
    let mut body = String::new();
    for (i, s) in series.iter().enumerate() {
        let (logs, colour) = (logs(s), CURVES[i % CURVES.len()]);
        let points: Vec<String> = (0..=CURVE_POINTS)
            .filter(|_| !logs.is_empty())
            .map(|p| p as f64 / CURVE_POINTS as f64)
            .map(|share| {
                let x = scale.x(quantile(&logs, share));
                format!("{x:.1},{:.1}", CURVE_HEIGHT * (1.0 - share))
            })
            .collect();
        let y = 16.0 + 16.0 * i as f64;
        body += &format!(
            "<polyline class=\"curve\" stroke=\"{colour}\" points=\"{}\"/>\
             <text class=\"label\" style=\"fill:{colour}\" x=\"{:.0}\" y=\"{y:.0}\">{}</text>",
            points.join(" "),
            LEFT - 12.0,
            escape(&s.label)
        );
    }
    svg(CURVE_HEIGHT, &scale, &first.unit, &body)
}

/// Points of a curve.
const CURVE_POINTS: usize = 200;

/// The mark of a median.
fn line(x: f64, top: f64, title: &str) -> String {
    format!(
        "<line class=\"median\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"><title>{}</title></line>",
        top + ROW * 0.1,
        top + ROW * 0.9,
        escape(title)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(label: &str, samples: &[f64]) -> Series {
        Series {
            label: label.into(),
            unit: "cycles".into(),
            samples: samples.to_vec(),
        }
    }

    #[test]
    fn every_sample_is_drawn_inside_the_plot() {
        let a = series("a <&> \"b\"", &[1.0, 2.0, 1000.0]);
        let b = series("b", &[5.0, f64::NAN]);
        let svg = strips(&[&a, &b]);
        assert_eq!(svg.matches("<circle").count(), 4);
        assert!(svg.contains("a &lt;&amp;&gt; &quot;b&quot;"));
        for x in svg.split("cx=\"").skip(1) {
            let x: f64 = x.split('"').next().unwrap().parse().unwrap();
            assert!((LEFT..=WIDTH).contains(&x), "{x}");
        }
        let many = series("many", &vec![1.0; 10_000]);
        assert!(strips(&[&many]).matches("<circle").count() <= DOTS);
    }

    #[test]
    fn a_curve_rises_over_decades() {
        let times = series("times", &[0.0, 3.0, 20.0, 500.0]);
        let svg = cumulative(&[&times, &series("none", &[])]);
        assert_eq!(svg.matches("<polyline").count(), 2);
        let points = svg
            .split("points=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        let xs: Vec<f64> = points
            .split(' ')
            .map(|p| p.split(',').next().unwrap().parse().unwrap())
            .collect();
        assert!(xs.is_sorted() && xs.len() == CURVE_POINTS + 1, "{xs:?}");
        for tick in [">1.000<", ">1000<"] {
            assert!(svg.contains(tick), "{tick}");
        }
    }

    #[test]
    fn nothing_to_draw_draws_nothing() {
        assert_eq!(strips(&[]), "");
        assert_eq!(intervals(&[]), "");
        assert_eq!(cumulative(&[]), "");
        assert!(strips(&[&series("none", &[])]).starts_with("<svg"));
    }

    #[test]
    fn ticks_are_round() {
        let scale = Scale::new([97.3, 131.8].into_iter());
        assert_eq!((scale.low, scale.high, scale.step), (90.0, 140.0, 10.0));
        let scale = Scale::new([0.971, 0.993].into_iter());
        assert_eq!(tidy(scale.low, scale.step), "0.970");
        let same = Scale::new([5.0, 5.0].into_iter());
        assert!(same.low <= 5.0 && same.high > 5.0);
    }
}

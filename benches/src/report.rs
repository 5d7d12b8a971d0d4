// SPDX-License-Identifier: Apache-2.0
//! All outcomes as JSON and as one HTML page.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::machine::Machine;
use crate::outcome::{Outcome, Series, number, percentile_name};
use crate::stats::{estimate, quantile};
use crate::svg::{self, escape};

/// A run of benchmarks.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// Whether the run was a short one, for trying the benches rather than the switch.
    pub quick: bool,
    /// What was found.
    pub outcomes: Vec<Outcome>,
    /// Benchmarks that failed, and why.
    pub failures: BTreeMap<String, String>,
}

impl Report {
    /// Writes `report.json` and `report.html` into a directory, which is made if it is missing.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("report.json"), serde_json::to_vec_pretty(self)?)?;
        fs::write(dir.join("report.html"), self.html())
    }

    fn html(&self) -> String {
        let m = &self.machine;
        let mut body = format!("<h1>podswitch {}</h1>", escape(&m.version));
        if self.quick {
            body += "<p class=\"warn\">A quick run, for trying the benchmarks: its figures mean little.</p>";
        }
        body += "<table class=\"facts\">";
        let caches: Vec<String> = m.caches.iter().map(|(k, v)| format!("{k} {v}")).collect();
        let virtual_machine = if m.virtual_machine {
            ", a virtual machine"
        } else {
            ""
        };
        for (name, value) in [
            ("Processor", format!("{}{virtual_machine}", m.cpu)),
            ("Cores", m.cores.len().to_string()),
            ("Caches", caches.join(", ")),
            (
                "Time-stamp counter",
                format!("{:.4} GHz", m.tsc_hertz as f64 / 1e9),
            ),
            ("Memory", format!("{} MiB", m.memory_kb >> 10)),
            ("Kernel", format!("{} {}", m.kernel, m.kernel_parameters)),
            (
                "Compiler",
                format!("{}, {}, RUSTFLAGS \"{}\"", m.rustc, m.profile, m.rustflags),
            ),
            ("Load at the start", number(m.load)),
        ] {
            body += &format!("<tr><td>{name}</td><td>{}</td></tr>", escape(&value));
        }
        body += "</table>";
        for (name, why) in &self.failures {
            body += &format!(
                "<p class=\"warn\">{} failed: {}</p>",
                escape(name),
                escape(why)
            );
        }
        for outcome in &self.outcomes {
            body += &section(outcome);
        }
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>podswitch benchmarks</title>\
             <style>{STYLE}</style></head><body>{body}</body></html>\n"
        )
    }
}

fn section(outcome: &Outcome) -> String {
    let mut html = format!(
        "<section id=\"{}\"><h2>{}</h2><p>{}</p>",
        escape(&outcome.name),
        escape(&outcome.title),
        escape(&outcome.method)
    );
    if let Some(problem) = &outcome.problem {
        html += &format!(
            "<p class=\"warn\">Not to be quoted: {}.</p>",
            escape(problem)
        );
    }
    let mut by_unit: BTreeMap<&str, Vec<&Series>> = BTreeMap::new();
    for series in &outcome.series {
        by_unit.entry(&series.unit).or_default().push(series);
    }
    for series in by_unit.values() {
        html += &svg::strips(series);
    }
    let mut by_unit: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for comparison in &outcome.comparisons {
        by_unit
            .entry(&comparison.unit)
            .or_default()
            .push(comparison);
    }
    for comparisons in by_unit.values() {
        html += &svg::intervals(comparisons);
    }
    let distributions: Vec<&Series> = outcome.distributions.iter().map(|d| &d.series).collect();
    html += &svg::cumulative(&distributions);
    html += &table(outcome);
    html + "</section>"
}

fn table(outcome: &Outcome) -> String {
    let mut rows = String::new();
    for s in &outcome.series {
        let e = estimate(&s.samples);
        rows += &row(&s.label, e, &s.samples, &s.unit);
    }
    for c in &outcome.comparisons {
        rows += &row(&c.label, c.estimate, &c.samples, &c.unit);
    }
    for f in &outcome.figures {
        rows += &format!(
            "<tr><td>{}</td><td>{}</td><td></td><td></td><td>{}</td><td></td></tr>",
            escape(&f.label),
            number(f.value),
            escape(&f.unit)
        );
    }
    let mut html = String::new();
    if !rows.is_empty() {
        html += &format!(
            "<table><tr><th></th><th>median</th><th>95 % of it</th><th>middle half</th><th>unit</th><th>samples</th></tr>{rows}</table>"
        );
    }
    html + &percentiles(outcome)
}

fn row(label: &str, e: crate::stats::Estimate, samples: &[f64], unit: &str) -> String {
    let [low, high] = [0.25, 0.75].map(|q| quantile(samples, q));
    format!(
        "<tr><td>{}</td><td>{}</td><td>{} – {}</td><td>{} – {}</td><td>{}</td><td>{}</td></tr>",
        escape(label),
        number(e.median),
        number(e.low),
        number(e.high),
        number(low),
        number(high),
        escape(unit),
        samples.len()
    )
}

fn percentiles(outcome: &Outcome) -> String {
    let Some(first) = outcome.distributions.first() else {
        return String::new();
    };
    let mut html = "<table><tr><th></th>".to_owned();
    for (percentile, _) in &first.percentiles {
        html += &format!("<th>{}</th>", percentile_name(*percentile));
    }
    html += "<th>unit</th><th>samples</th></tr>";
    for d in &outcome.distributions {
        html += &format!("<tr><td>{}</td>", escape(&d.series.label));
        for (_, value) in &d.percentiles {
            html += &format!("<td>{}</td>", number(*value));
        }
        html += &format!(
            "<td>{}</td><td>{}</td></tr>",
            escape(&d.series.unit),
            d.series.samples.len()
        );
    }
    html + "</table>"
}

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#1c2430}\
 h2{margin-top:2.2em}svg{width:100%;margin:.6em 0}circle{fill:#3b76b8;fill-opacity:.45}\
 .half{fill:#3b76b8;fill-opacity:.13;stroke:#3b76b8;stroke-opacity:.5}.interval{fill:#c4622d;fill-opacity:.6}\
 .median{stroke:#b0321e;stroke-width:2}.one{stroke:#444;stroke-dasharray:4 3}.grid{stroke:#e2e6ec}\
 .curve{fill:none;stroke-width:1.6}.warn{background:#fdeccb;padding:.5em .8em}\
 .tick{font-size:11px;fill:#5a6676;text-anchor:middle}.label{font-size:11.5px;text-anchor:end;fill:#1c2430}\
 table{border-collapse:collapse;font-size:13.5px;width:100%;margin:.8em 0}td,th{border-bottom:1px solid #e2e6ec;padding:.3em .6em;text-align:right}\
 td:first-child,th:first-child,.facts td{text-align:left}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Rounds;

    #[test]
    fn a_report_is_json_and_a_page_that_needs_nothing_else() {
        let mut outcome = Outcome::new("x", "X & Y", "how\n   it was done");
        let rounds = Rounds {
            a: vec![1.0, 3.0],
            b: vec![2.0, 2.0],
        };
        outcome.add_rounds("", ("a", "b"), "cycles", rounds);
        outcome.add_distribution("times", "us", vec![1.0, 2.0, 300.0]);
        outcome.add_figure("ports", 2.0, "");
        let report = Report {
            machine: Machine::this(),
            quick: true,
            outcomes: vec![outcome],
            failures: [("y".to_owned(), "no <veth>".to_owned())].into(),
        };
        let dir = std::env::temp_dir().join(format!("ps-report-{}", std::process::id()));
        report.write(&dir).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.join("report.json")).unwrap()).unwrap();
        let html = fs::read_to_string(dir.join("report.html")).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        let x = &json["outcomes"][0];
        assert_eq!(x["series"][0]["samples"], serde_json::json!([1.0, 3.0]));
        assert_eq!(x["comparisons"][0]["estimate"]["median"], 1.0);
        assert_eq!(x["distributions"][0]["samples"][2], 300.0);
        assert_eq!(x["method"], "how it was done");
        assert!(html.contains("X &amp; Y") && html.contains("no &lt;veth&gt;"));
        assert_eq!(html.matches("<svg").count(), 3);
        for foreign in ["http", "<script", "@import", "url("] {
            assert!(!html.contains(foreign), "{foreign}");
        }
    }
}

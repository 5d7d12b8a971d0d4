// SPDX-License-Identifier: Apache-2.0
//! What `cargo bench` (criterion) has left in its folder, for the report.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::outcome::Outcome;

/// The samples under a folder such as `target/criterion`; none when there are none.
pub fn outcome(dir: &Path) -> Option<Outcome> {
    let mut outcome = Outcome::new(
        "criterion",
        "Criterion benchmarks of the frame path",
        "The same pipelines and loads as frame-path, by `cargo bench -p podswitch-benches`: nanoseconds a packet of each of
         criterion's samples. Not interleaved: the ratios above are the ones to quote.",
    );
    let mut found = samples(dir, "");
    found.sort_by(|a, b| a.0.cmp(&b.0));
    for (label, samples) in found {
        outcome.add_series(&label, "ns a packet", samples);
    }
    (!outcome.series.is_empty()).then_some(outcome)
}

/// Label and samples of each `new/sample.json` below a folder.
fn samples(dir: &Path, label: &str) -> Vec<(String, Vec<f64>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (
            entry.path(),
            entry.file_name().to_string_lossy().into_owned(),
        );
        if !path.is_dir() {
            continue;
        }
        if name != "new" {
            let label = if label.is_empty() {
                name
            } else {
                format!("{label}: {name}")
            };
            found.extend(samples(&path, &label));
        } else if let Some(samples) = read(&path) {
            found.push((title(&path).unwrap_or_else(|| label.to_owned()), samples));
        }
    }
    found
}

fn json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The name in full; the folder's has no commas and slashes.
fn title(new: &Path) -> Option<String> {
    Some(
        json(&new.join("benchmark.json"))?["full_id"]
            .as_str()?
            .to_owned(),
    )
}

/// Nanoseconds an iteration of each sample.
fn read(new: &Path) -> Option<Vec<f64>> {
    let value = json(&new.join("sample.json"))?;
    let list = |name: &str| -> Option<Vec<f64>> {
        value[name].as_array()?.iter().map(Value::as_f64).collect()
    };
    let (iterations, times) = (list("iters")?, list("times")?);
    Some(times.iter().zip(&iterations).map(|(t, i)| t / i).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_times_over_iterations() {
        let dir = std::env::temp_dir().join(format!("ps-criterion-{}", std::process::id()));
        let new = dir.join("group").join("bench").join("new");
        fs::create_dir_all(&new).unwrap();
        fs::write(
            new.join("sample.json"),
            r#"{"iters": [2.0, 4.0], "times": [10.0, 12.0]}"#,
        )
        .unwrap();
        let outcome = outcome(&dir);
        fs::remove_dir_all(&dir).unwrap();
        let series = &outcome.unwrap().series;
        assert_eq!(
            (series[0].label.as_str(), &series[0].samples[..]),
            ("group: bench", &[5.0, 3.0][..])
        );
        assert!(super::outcome(&dir).is_none());
    }
}

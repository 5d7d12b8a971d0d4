// SPDX-License-Identifier: Apache-2.0
//! Runs the benchmarks; `scripts/bench` builds it, calls it and cleans up after it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use clap::Parser;
use podswitch_benches::machine::Machine;
use podswitch_benches::report::Report;
use podswitch_benches::{ALL, Bench, Settings, criterion};

/// Benchmarks of podswitch. Needs root, and release builds of the programs.
#[derive(Debug, Parser)]
#[command(name = "podswitch-bench", version)]
struct Arguments {
    /// Names the benchmarks and ends
    #[arg(long)]
    list: bool,
    /// Runs only this one (may be given more than once)
    #[arg(long, value_name = "NAME", value_parser = ALL.iter().map(|b| b.name).collect::<Vec<_>>())]
    only: Vec<String>,
    /// Runs none of them: a report of --criterion alone
    #[arg(long, conflicts_with = "only")]
    none: bool,
    /// Measures shortly: to try the benchmarks, not to quote
    #[arg(long)]
    quick: bool,
    /// Folder for report.json and report.html
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// Results of the criterion benchmarks to put into the report
    #[arg(long, value_name = "DIR")]
    criterion: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for bench in ALL {
            println!("{:<14} {}", bench.name, bench.about);
        }
        return ExitCode::SUCCESS;
    }
    let wanted = |b: &&Bench| match &arguments.only[..] {
        [] => !arguments.none,
        only => only.iter().any(|o| o == b.name),
    };
    let mut report = Report {
        machine: Machine::this(),
        quick: arguments.quick,
        outcomes: Vec::new(),
        failures: BTreeMap::new(),
    };
    let settings = Settings {
        quick: arguments.quick,
    };
    for bench in ALL.iter().filter(wanted) {
        eprintln!("== {}", bench.name);
        let start = Instant::now();
        // On a thread of its own: benchmarks keep theirs to one core.
        let run = bench.run;
        match thread::spawn(move || run(settings)).join() {
            Ok(outcome) => {
                println!("{}", outcome.text());
                report.outcomes.push(outcome);
            }
            Err(cause) => {
                let why = message(cause.as_ref());
                eprintln!("== {} failed", bench.name);
                report.failures.insert(bench.name.into(), why);
            }
        }
        eprintln!(
            "== {} took {:.1} s",
            bench.name,
            start.elapsed().as_secs_f64()
        );
    }
    if let Some(dir) = &arguments.criterion {
        report.outcomes.extend(criterion::outcome(dir));
    }
    if let Err(error) = report.write(&arguments.out) {
        eprintln!(
            "error: the report cannot be written to {}: {error}",
            arguments.out.display()
        );
        return ExitCode::FAILURE;
    }
    println!("{}", arguments.out.join("report.html").display());
    let problems = report.outcomes.iter().any(|o| o.problem.is_some());
    match report.failures.is_empty() && !problems {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// What a panic said.
fn message(cause: &(dyn std::any::Any + Send)) -> String {
    let text = cause.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let text = text.or_else(|| cause.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "for a reason it did not say".into())
}

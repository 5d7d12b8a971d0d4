// SPDX-License-Identifier: Apache-2.0
//! Compiles the programs in `bpf/` for the kernel's BPF machine.

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Objects: each with its source, and what is defined for it.
const PROGRAMS: [(&str, &str, &[&str]); 4] = [
    ("pod", "pod", &[]),
    ("nic", "nic", &[]),
    ("nic_tap", "nic", &["-DTAP"]),
    ("host", "host", &[]),
];

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    for (name, source, defined) in PROGRAMS {
        if let Err(why) = compile(name, source, defined, Path::new(&out)) {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn compile(name: &str, source: &str, defined: &[&str], out: &Path) -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let source = format!("{source}.bpf.c");
    // Run in bpf/ with a relative source name, so that the object is the same wherever the project lies.
    let status = Command::new(&clang)
        .current_dir("bpf")
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g"])
        .args(["-Wall", "-Wextra", "-Werror", "-fdebug-compilation-dir=."])
        .args(defined)
        .args(["-c", &source, "-o"])
        .arg(out.join(format!("{name}.bpf.o")))
        .status()
        .map_err(|e| {
            format!(
                "cannot run `{clang}` to compile datapath/bpf/{source}: {e}. \
                 Install the package `clang` (11 or later), or name the compiler in the environment variable CLANG."
            )
        })?;
    if status.success() {
        Ok(())
    } else {
        Err(format!(
            "`{clang}` failed on datapath/bpf/{source} ({status})"
        ))
    }
}

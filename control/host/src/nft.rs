// SPDX-License-Identifier: Apache-2.0
//! nftables, by its own program `nft` (nft(8)): it is there where somebody wants the host to masquerade, and its language is what an
//! operator reads. It works in the network namespace of the calling thread.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use crate::error::{Error, Result};

/// Carries out a script, whole or not at all.
///
/// # Errors
/// [`Error::Io`] when there is no such program; [`Error::Answer`] with what it said when it refuses.
pub fn apply(script: &str) -> Result<()> {
    let what = "changing the host's nftables";
    let output = run(&["-f", "-"], script).map_err(|source| Error::io(program(what), source))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::answer(what, said(&output))),
    }
}

/// Whether there is a table of the family `inet` of this name; there is none where there is no `nft`.
///
/// # Errors
/// When `nft` cannot be run.
pub fn has_table(name: &str) -> Result<bool> {
    match run(&["list", "table", "inet", name], "") {
        Ok(output) => Ok(output.status.success()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::io(program("listing a table"), source)),
    }
}

/// Deletes a table of the family `inet`; whether it was there.
///
/// # Errors
/// As [`apply`].
pub fn delete_table(name: &str) -> Result<bool> {
    if !has_table(name)? {
        return Ok(false);
    }
    apply(&format!("delete table inet {name}\n")).map(|()| true)
}

/// Chains that drop what is forwarded unless a rule of theirs accepts it: no table of ours can overrule them.
///
/// # Errors
/// When `nft` cannot be run.
pub fn forward_droppers() -> Result<Vec<String>> {
    match run(&["list", "chains"], "") {
        Ok(output) => Ok(droppers(&String::from_utf8_lossy(&output.stdout))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::io(program("listing chains"), source)),
    }
}

fn droppers(listing: &str) -> Vec<String> {
    let (mut table, mut chain, mut found) = ("", "", Vec::new());
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches([' ', '{']);
        } else if let Some(name) = line.strip_prefix("chain ") {
            chain = name.trim_end_matches([' ', '{']);
        } else if line.contains("hook forward ") && line.contains("policy drop;") {
            found.push(format!("{table} {chain}"));
        }
    }
    found
}

fn program(what: &str) -> String {
    format!("{what} with nft (of the package nftables)")
}

fn run(arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends before it has read everything says why on its own.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

/// The first line that tells something.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|l| !l.trim().is_empty());
    line.unwrap_or("nft says nothing").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_that_drop_are_named() {
        let listing = "table inet podswitch {\n\tchain postrouting {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\t}\n}\n\
            table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n\
            \tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n\tchain own {\n\t}\n}\n\
            table inet fw {\n\tchain forward {\n\t\ttype filter hook forward priority 0; policy accept;\n\t}\n}\n";
        assert_eq!(droppers(listing), ["ip filter FORWARD"]);
    }
}

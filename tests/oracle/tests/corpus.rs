// SPDX-License-Identifier: Apache-2.0
//! Policies as people write them: they are read, and mean what the oracle says, over pods that match their selectors.
//! `PODSWITCH_POLICIES=folder` takes the manifests of a folder instead of those in `corpus`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use podswitch_oracle::compare::compare;
use podswitch_oracle::corpus::{cluster, files, is_policy, manifests};
use podswitch_oracle::generate::{Aim, Change, Rng};
use podswitch_oracle::node::{Node, readable};
use serde_json::Value;

fn folder() -> PathBuf {
    match std::env::var_os("PODSWITCH_POLICIES") {
        Some(folder) => folder.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus"),
    }
}

/// Whether a policy can be read; those of the corpus all can.
fn is_read(path: &str, policy: &Value) -> bool {
    let Err(e) = readable(policy) else {
        return true;
    };
    assert!(
        std::env::var_os("PODSWITCH_POLICIES").is_some(),
        "{path}: {e}"
    );
    println!("{path}: {e}");
    false
}

/// Policies by file; what is in the files besides is left out.
fn corpus() -> Vec<(String, Vec<Value>)> {
    let mut all = Vec::new();
    for (path, text) in files(&folder()).unwrap() {
        let mut policies = match manifests(&text) {
            Ok(manifests) => manifests,
            Err(e) => panic!("{path}: {e}"),
        };
        policies.retain(is_policy);
        policies.retain(|policy| is_read(&path, policy));
        if !policies.is_empty() {
            all.push((path, policies));
        }
    }
    all
}

fn agree(what: &str, policies: &[Value], clusters: u64, packets: usize) -> usize {
    let mut compared = 0;
    for seed in 0..clusters {
        let rng = &mut Rng::new(seed);
        let cluster = cluster(rng, policies);
        let mut node = Node::default();
        if let Err(e) = node.apply(&Change::all(&cluster)) {
            panic!("{what}: {e}");
        }
        let aim = Aim::at(&cluster);
        for _ in 0..packets {
            match compare(&cluster, &node, &aim.packet(rng)) {
                Ok(ends) => compared += ends,
                Err(e) => panic!("{what}, cluster {seed}: {e}\n{policies:?}"),
            }
        }
    }
    compared
}

#[test]
fn each_file_agrees() {
    let corpus = corpus();
    let mut compared = 0;
    for (path, policies) in &corpus {
        compared += agree(path, policies, 4, 100);
    }
    let count: usize = corpus.iter().map(|(_, policies)| policies.len()).sum();
    println!(
        "{count} policies of {} files, {compared} ends compared",
        corpus.len()
    );
    assert!(corpus.len() >= 3 && compared > corpus.len() * 100);
}

#[test]
fn all_files_agree_together() {
    let all: Vec<Value> = corpus()
        .into_iter()
        .flat_map(|(_, policies)| policies)
        .collect();
    agree("all files", &all, 6, 400);
}

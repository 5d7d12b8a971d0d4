// SPDX-License-Identifier: Apache-2.0
//! A container image made on the spot: one static program that waits for ever.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::programs::{compile_static, run};
use crate::wait::HUNG;

const PAUSE: &str = "fn main() { loop { std::thread::park(); } }\n";

/// Builds the image as an archive that `ctr images import` reads (the layout of `docker save`), named `reference`.
///
/// # Panics
/// If rustc, tar or sha256sum fail.
#[track_caller]
pub fn pause_image(dir: &Path, reference: &str) -> PathBuf {
    let root = dir.join("rootfs");
    std::fs::create_dir_all(&root).expect("a folder for the image");
    compile_static(dir, PAUSE, &root.join("pause"));

    let layer = dir.join("layer.tar");
    tar(&layer, &root, &["."]);
    let config = json!({
        "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))]},
        "history": [{"created_by": "podswitch tests"}],
    });
    std::fs::write(dir.join("config.json"), config.to_string()).expect("the image's configuration");
    let manifest =
        json!([{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]);
    std::fs::write(dir.join("manifest.json"), manifest.to_string()).expect("the image's manifest");

    let image = dir.join("image.tar");
    tar(&image, dir, &["manifest.json", "config.json", "layer.tar"]);
    image
}

fn tar(archive: &Path, dir: &Path, members: &[&str]) {
    let mut command = Command::new("tar");
    command
        .arg("-cf")
        .arg(archive)
        .arg("-C")
        .arg(dir)
        .args(["--owner=0", "--group=0"])
        .args(members);
    run(&mut command, b"", HUNG).success("tar");
}

fn sha256(file: &Path) -> String {
    let text = run(Command::new("sha256sum").arg(file), b"", HUNG).success("sha256sum");
    text.split_whitespace().next().expect("a digest").to_owned()
}

// SPDX-License-Identifier: Apache-2.0
//! `scripts/image`: the layout is whole, and the same programs make the same image.

use std::path::Path;
use std::process::Command;

use podswitch_tests::HUNG;
use podswitch_tests::programs::{bin_dir, repository, run};
use serde_json::Value;

/// Builds it of the programs under test; its bytes, and its parts below a folder.
fn build(folder: &Path) -> Vec<u8> {
    let mut command = Command::new(repository().join("scripts/image"));
    command.arg("--tag").arg("registry.test/podswitch:1");
    command.arg("--programs").arg(bin_dir());
    command.arg("--out").arg(folder);
    run(&mut command, b"", HUNG).success("scripts/image");
    let archive = folder.join("podswitch.tar");
    unpack(&archive, folder);
    std::fs::read(archive).expect("the image")
}

fn unpack(archive: &Path, folder: &Path) {
    let mut command = Command::new("tar");
    command.arg("-xf").arg(archive).arg("-C").arg(folder);
    run(&mut command, b"", HUNG).success("tar");
}

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The file of a descriptor, whose digest and size it has.
fn blob(folder: &Path, descriptor: &Value) -> std::path::PathBuf {
    let digest = descriptor["digest"].as_str().expect("a digest");
    let name = digest.strip_prefix("sha256:").expect("of SHA-256");
    let path = folder.join("blobs/sha256").join(name);
    let size = std::fs::metadata(&path).expect("a blob").len();
    assert_eq!(Some(size), descriptor["size"].as_u64(), "{descriptor}");
    let sum = run(Command::new("sha256sum").arg(&path), b"", HUNG).success("sha256sum");
    assert!(sum.starts_with(name), "{sum} {name}");
    path
}

#[test]
fn an_image_is_whole_and_the_same_again() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let [one, two] = folders.each_ref().map(|f| build(f.path()));
    assert!(one == two, "two images of the same programs differ");
    let folder = folders[0].path();
    assert_eq!(
        json(&folder.join("oci-layout"))["imageLayoutVersion"],
        "1.0.0"
    );
    let index = json(&folder.join("index.json"));
    let descriptor = &index["manifests"][0];
    let name = &descriptor["annotations"]["io.containerd.image.name"];
    assert_eq!(name, "registry.test/podswitch:1");
    let manifest = json(&blob(folder, descriptor));
    let config = json(&blob(folder, &manifest["config"]));
    assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/podswitchd");
    let layer = blob(folder, &manifest["layers"][0]);
    let root = folder.join("root");
    std::fs::create_dir(&root).expect("a folder");
    unpack(&layer, &root);
    for program in ["podswitchd", "podswitchctl", "podswitch-cni"] {
        assert!(root.join("usr/bin").join(program).is_file(), "{program}");
    }

    let bill = json(&folder.join("podswitch.cdx.json"));
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let digest = descriptor["digest"].as_str().expect("a digest");
    let of = bill["metadata"]["component"]["hashes"][0]["content"].as_str();
    assert_eq!(of, digest.strip_prefix("sha256:"));
    let components = bill["components"].as_array().expect("components");
    let has = |name: &str| components.iter().any(|c| c["name"] == name);
    assert!(has("podswitch-datapath") && has("redb") && has("serde_json"));
    assert!(
        !has("proptest") && !has("criterion"),
        "what tests alone use is not in it"
    );
    assert!(
        components.iter().all(|c| c["licenses"].is_array()),
        "{bill}"
    );
}

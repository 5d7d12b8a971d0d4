// SPDX-License-Identifier: Apache-2.0
//! The documents' links lead somewhere.

use std::path::{Path, PathBuf};

use podswitch_tests::programs::repository;

/// Markdown files of the repository, without what building leaves there.
fn documents(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && !["target", ".git"].contains(&name.to_string_lossy().as_ref()) {
            documents(&path, found);
        } else if path.extension().is_some_and(|e| e == "md") {
            found.push(path);
        }
    }
}

/// Targets of inline links, `](target)`.
fn links(text: &str) -> Vec<&str> {
    let starts = text.match_indices("](").map(|(at, _)| &text[at + 2..]);
    starts
        .filter_map(|rest| rest.split([')', ' ', '\n']).next())
        .collect()
}

#[test]
fn relative_links_lead_to_files() {
    let mut found = Vec::new();
    documents(&repository(), &mut found);
    assert!(!found.is_empty());
    let mut broken = Vec::new();
    for document in found {
        let text = std::fs::read_to_string(&document).expect("a document");
        for link in links(&text) {
            let path = link.split('#').next().unwrap_or_default();
            let elsewhere = link.contains("://") || link.starts_with("mailto:");
            let folder = document.parent().expect("a document lies in a folder");
            if !elsewhere && !path.is_empty() && !folder.join(path).exists() {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn links_are_found() {
    assert_eq!(
        links("a [b](c.md#d) and ![e](f.png \"g\")"),
        ["c.md#d", "f.png"]
    );
}

// SPDX-License-Identifier: Apache-2.0
//! An archive that Linux takes for its first root file system (Documentation/driver-api/early-userspace/buffer-format.rst, "newc").

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::run;
use crate::wait::HUNG;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
/// Lets the kernel open a console before anything is mounted: a character device, major 5, minor 1.
const CONSOLE: (u32, [u32; 2]) = (0o020_600, [5, 1]);

/// Files by their paths without the leading slash; folders above them come by themselves.
#[derive(Debug, Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    there: BTreeSet<PathBuf>,
}

impl Initramfs {
    /// One with the folders and the console that every system needs.
    pub fn new() -> Initramfs {
        let mut archive = Initramfs::default();
        for folder in ["dev", "proc", "sys", "run", "tmp", "root", "etc", "var/lib"] {
            archive.folder(Path::new(folder));
        }
        let (mode, device) = CONSOLE;
        archive.entry(Path::new("dev/console"), mode, device, b"");
        archive
    }

    /// A folder, with those above it.
    fn folder(&mut self, path: &Path) {
        let mut above: Vec<&Path> = path.ancestors().collect();
        above.reverse();
        for folder in above.into_iter().skip(1) {
            if self.there.insert(folder.to_owned()) {
                self.entry(folder, DIRECTORY, [0; 2], b"");
            }
        }
    }

    /// A file that may be executed.
    pub fn file(&mut self, path: impl AsRef<Path>, content: &[u8]) {
        self.put(path.as_ref(), PROGRAM, content);
    }

    /// A symbolic link.
    pub fn link(&mut self, path: impl AsRef<Path>, to: &str) {
        self.put(path.as_ref(), LINK, to.as_bytes());
    }

    fn put(&mut self, path: &Path, mode: u32, content: &[u8]) {
        if let Some(parent) = path.parent() {
            self.folder(parent);
        }
        if self.there.insert(path.to_owned()) {
            self.entry(path, mode, [0; 2], content);
        }
    }

    /// A program of this machine, with the shared libraries that it wants, at the same places.
    ///
    /// # Panics
    /// If it is missing here.
    #[track_caller]
    pub fn program(&mut self, path: impl AsRef<Path>, from: &Path) {
        self.file(path, &read(from));
        for library in libraries(from) {
            let inside = library.strip_prefix("/").expect("ldd prints whole paths");
            self.file(inside, &read(&library));
        }
    }

    fn entry(&mut self, path: &Path, mode: u32, device: [u32; 2], content: &[u8]) {
        let name = path.to_str().expect("a path of ASCII");
        let number = u32::try_from(self.there.len()).expect("few files");
        let size = u32::try_from(content.len()).expect("a small file");
        let name_size = u32::try_from(name.len() + 1).expect("a short name");
        // Inode, mode, owner, group, links, time, size, device it lies on, device it is, length of the name, checksum.
        let fields = [
            number, mode, 0, 0, 1, 0, size, 0, 0, device[0], device[1], name_size, 0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(Path::new("TRAILER!!!"), 0, [0; 2], b"");
        self.bytes
    }
}

#[track_caller]
fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Shared libraries of a program and the one that loads them; none of a static one.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let ended = run(Command::new("ldd").arg(program), b"", HUNG);
    let words = ended.stdout.split_whitespace();
    words
        .filter(|w| w.starts_with('/') && !w.ends_with(':'))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_begins_at_a_multiple_of_four() {
        let mut archive = Initramfs::new();
        archive.file("a/b/odd", b"abc");
        archive.link("a/c", "b/odd");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let starts: Vec<usize> = text.match_indices("070701").map(|m| m.0).collect();
        assert!(starts.iter().all(|at| at % 4 == 0), "{starts:?}");
        let at = |name: &str| text.find(&format!("{name}\0")).expect(name);
        assert!(at("a") < at("a/b") && at("a/b") < at("a/b/odd"));
        assert!(text.contains("TRAILER!!!"));
    }
}

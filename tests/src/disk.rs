// SPDX-License-Identifier: Apache-2.0
//! A small disk that can be full.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::programs::run;
use crate::wait::HUNG;

/// A file system of its own on a folder, in this machine's mount namespace; unmounted when dropped.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts one of so much room (as the `size` of tmpfs(5) is written) and makes the folder.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[track_caller]
    pub fn mount(dir: PathBuf, size: &str) -> Disk {
        std::fs::create_dir_all(&dir).expect("the folder to mount on");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        run(command.arg(&dir), b"", HUNG).success("mount");
        Disk(dir)
    }

    /// Takes all the room that is left; gives the file to remove.
    ///
    /// # Panics
    /// If the file cannot be made.
    #[track_caller]
    pub fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let mut file = File::create(&filler).expect("a file on the disk");
        for size in [65_536, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        filler
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let ended = run(Command::new("umount").arg("--lazy").arg(&self.0), b"", HUNG);
        if ended.status != 0 {
            eprintln!("umount {}: {}", self.0.display(), ended.stderr);
        }
    }
}

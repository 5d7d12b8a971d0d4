// SPDX-License-Identifier: Apache-2.0
//! `install-plugin`: the CNI plugin where the container runtime looks for it, whole or not at all.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::args::InstallPluginArgs;
use crate::exit::{Failure, Result};
use crate::output;

pub(super) fn install(args: &InstallPluginArgs) -> Result {
    let to = args.to.join(&args.name);
    let failed = |e: io::Error| {
        Failure::Refused(format!(
            "{} could not be placed at {}: {e}",
            args.from.display(),
            to.display()
        ))
    };
    let text = match place(&args.from, &to).map_err(failed)? {
        true => format!("{} is placed\n", to.display()),
        false => format!("{} is like that already\n", to.display()),
    };
    output::write(&text)
}

/// Copies a file to its place by renaming: whoever runs the plugin meanwhile runs the one before, or the new one. Whether it was not there already.
fn place(from: &Path, to: &Path) -> io::Result<bool> {
    let new = fs::read(from)?;
    if fs::read(to).is_ok_and(|there| there == new) && is_executable(to) {
        return Ok(false);
    }
    // A dot keeps it from being taken for a plugin.
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let beside = to.with_file_name(format!(".{name}.new"));
    let written = write(&beside, &new).and_then(|()| fs::rename(&beside, to));
    if written.is_err() {
        // It may not even be there.
        drop(fs::remove_file(&beside));
    }
    written.map(|()| true)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::write(path, bytes)?;
    let file = File::open(path)?;
    file.set_permissions(Permissions::from_mode(0o755))?;
    file.sync_all()
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o111 == 0o111)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("podswitch"));
        fs::write(&from, "one").unwrap();
        assert!(place(&from, &to).unwrap());
        assert!(!place(&from, &to).unwrap());
        let open = File::open(&to).unwrap();
        fs::write(&from, "two").unwrap();
        assert!(place(&from, &to).unwrap());
        assert_eq!(fs::read_to_string(&to).unwrap(), "two");
        assert_eq!(
            io::read_to_string(open).unwrap(),
            "one",
            "who runs it keeps it"
        );
        fs::set_permissions(&to, Permissions::from_mode(0o644)).unwrap();
        assert!(place(&from, &to).unwrap());
        assert!(is_executable(&to));
        let names = fs::read_dir(folder.path()).unwrap().flatten();
        assert_eq!(names.count(), 2);
    }

    #[test]
    fn what_cannot_be_placed_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("podswitch");
        assert!(place(&folder.path().join("none"), &to).is_err());
        let from = folder.path().join("from");
        fs::write(&from, "one").unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(to.join("x"), "").unwrap();
        assert!(place(&from, &to).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        assert!(place(&from, &folder.path().join("nowhere/podswitch")).is_err());
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Why the state cannot be opened, read or written.

use std::io;
use std::path::{Path, PathBuf};

use podswitch_api::{ErrorCode, RpcError};

use super::{Fault, SCHEMA};

/// A failure of the store, naming the file and saying what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process uses the directory.
    #[error("{directory} is in use by {who}; stop it first, or give this one a `state_dir` of its own",
        directory = directory.display(), who = pid.map_or("another process".to_owned(), |p| format!("process {p}")))]
    Locked {
        /// The state directory.
        directory: PathBuf,
        /// The process, when known.
        pid: Option<u32>,
    },
    /// Written by a newer podswitch.
    #[error("{path} has schema {found}, this podswitch knows up to {SCHEMA}: a newer one wrote it; run that one, or move the file away and attach the pods again",
        path = path.display())]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u64,
    },
    /// The content is not what was written.
    #[error("{path} is damaged: {detail}; put a copy of it back, or move it away and attach the pods again", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// No room on the disk, or the quota or size limit is reached.
    #[error("{path}: cannot {action}: {source}; nothing was changed: free some space on that disk and try again", path = path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl StoreError {
    pub(super) fn io(path: &Path, action: &'static str, source: io::Error) -> StoreError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => StoreError::Full {
                path,
                action,
                source,
            },
            _ => StoreError::Io {
                path,
                action,
                source,
            },
        }
    }

    pub(super) fn damaged(path: &Path, detail: impl Into<String>) -> StoreError {
        StoreError::Damaged {
            path: path.to_owned(),
            detail: detail.into(),
        }
    }
}

impl From<StoreError> for RpcError {
    fn from(e: StoreError) -> RpcError {
        RpcError::new(ErrorCode::Store, e.to_string())
            .hint("`podswitchctl health` says when it works again")
    }
}

pub(super) fn explain(path: &Path, action: &'static str, fault: Fault) -> StoreError {
    let library = match fault {
        Fault::Library(e) => e,
        Fault::Content(detail) => return StoreError::damaged(path, detail),
        Fault::Newer(found) => {
            return StoreError::NewerSchema {
                path: path.to_owned(),
                found,
            };
        }
        Fault::Closed => redb::Error::PreviousIo,
    };
    match library {
        redb::Error::Io(e)
            if matches!(
                e.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            StoreError::damaged(path, e.to_string())
        }
        redb::Error::Io(e) => StoreError::io(path, action, e),
        redb::Error::Corrupted(detail) => StoreError::damaged(path, detail),
        redb::Error::UpgradeRequired(version) => {
            StoreError::damaged(path, format!("file format {version} is not known"))
        }
        e @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed) => {
            StoreError::io(path, action, io::Error::other(e))
        }
        redb::Error::DatabaseAlreadyOpen => StoreError::Locked {
            directory: path.parent().unwrap_or(path).to_owned(),
            pid: None,
        },
        e => StoreError::damaged(path, e.to_string()),
    }
}

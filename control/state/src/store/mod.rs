// SPDX-License-Identifier: Apache-2.0
//! The desired state on disk, in one crash-safe file. Every transaction writes its differences and is there whole or not at all
//! after whatever happens to the process or the machine. The record of what was changed in the kernel is kept beside it.

mod error;
mod lock;
mod owned;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use podswitch_api::desired::{Applied, DesiredState};
use podswitch_api::object::Object;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;

pub use error::StoreError;
pub use owned::{OwnedInterface, SavedFeature, SavedSetting};

use lock::Lock;

/// Version of what is in the file. It grows when an older podswitch would misread it.
const SCHEMA: u64 = 1;
/// Name of the file in the state directory.
const FILE: &str = "state.redb";
/// Its name while it is made.
const DRAFT: &str = "state.redb.new";
/// Memory for pages of the file, in bytes.
const CACHE_BYTES: usize = 8 << 20;

/// `schema` and `generation`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Objects by key, both as JSON.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// Interfaces that were changed, by name, as JSON.
const OWNED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("owned");

/// What [`Store::load`] finds.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Stored {
    /// The objects.
    pub state: DesiredState,
    /// Their generation; 0 when nothing was ever stored.
    pub generation: u64,
}

/// An open state directory. No other process opens it as long as this lives.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// `None` after a failure from which the file could not be opened again yet.
    database: Option<Database>,
    lock: Lock,
}

impl Store {
    /// Opens the state directory, and makes it when it is missing. Checks the whole file.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it, [`StoreError::NewerSchema`], [`StoreError::Damaged`],
    /// [`StoreError::Full`], or what the system said.
    pub fn open(directory: impl AsRef<Path>) -> Result<Store, StoreError> {
        let directory = directory.as_ref();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|e| StoreError::io(directory, "make the state directory", e))?;
        let lock = Lock::take(directory)?;
        let path = directory.join(FILE);
        let database = Some(open_database(&path)?);
        Ok(Store {
            path,
            database,
            lock,
        })
    }

    /// Opens the state directory when there is one with anything of ours in it.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_existing(directory: impl AsRef<Path>) -> Result<Option<Store>, StoreError> {
        let directory = directory.as_ref();
        for file in [FILE, DRAFT, lock::FILE] {
            match directory.join(file).try_exists() {
                Ok(true) => return Store::open(directory).map(Some),
                Ok(false) => {}
                Err(e) => return Err(StoreError::io(directory, "look for a state", e)),
            }
        }
        Ok(None)
    }

    /// Reads everything.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], or what the system said.
    pub fn load(&self) -> Result<Stored, StoreError> {
        let read = || -> Result<Stored, Fault> {
            let transaction = self.database()?.begin_read()?;
            let mut state = DesiredState::default();
            for entry in transaction.open_table(OBJECTS)?.iter()? {
                let (key, value) = entry?;
                let object: Object = decode("object", key.value(), value.value())?;
                state
                    .insert_new(object)
                    .map_err(|e| Fault::Content(e.to_string()))?;
            }
            let generation = transaction
                .open_table(META)?
                .get("generation")?
                .map_or(0, |g| g.value());
            Ok(Stored { state, generation })
        };
        self.guarded("read the state", read)
    }

    /// Writes the differences of a transaction and its generation, all or nothing. It is on disk when this returns.
    ///
    /// # Errors
    /// [`StoreError::Full`] or what the system said; nothing was changed then, and it may be tried again.
    pub fn commit(&mut self, applied: &Applied) -> Result<(), StoreError> {
        if applied.delta.is_empty() {
            return Ok(());
        }
        self.write("write the state", |transaction| {
            let mut objects = transaction.open_table(OBJECTS)?;
            for difference in &applied.delta.differences {
                let key = encode(&difference.key())?;
                match &difference.after {
                    Some(object) => objects.insert(text(&key)?, encode(object)?.as_slice())?,
                    None => objects.remove(text(&key)?)?,
                };
            }
            transaction
                .open_table(META)?
                .insert("generation", applied.generation)?;
            Ok(())
        })
    }

    /// The interfaces that were changed, by name.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn owned(&self) -> Result<Vec<OwnedInterface>, StoreError> {
        self.guarded("read what was changed", || {
            let transaction = self.database()?.begin_read()?;
            let table = transaction.open_table(OWNED)?;
            let mut all = Vec::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                all.push(decode("interface", key.value(), value.value())?);
            }
            Ok(all)
        })
    }

    /// Notes that interfaces are about to be changed, before they are; replaces what is noted of them.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn own(&mut self, interfaces: &[OwnedInterface]) -> Result<(), StoreError> {
        self.write("note what is changed", |transaction| {
            let mut table = transaction.open_table(OWNED)?;
            for interface in interfaces {
                table.insert(interface.name.as_str(), encode(interface)?.as_slice())?;
            }
            Ok(())
        })
    }

    /// Forgets interfaces that are gone or as they were before.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn disown(&mut self, names: &[&str]) -> Result<(), StoreError> {
        self.write("forget what is restored", |transaction| {
            let mut table = transaction.open_table(OWNED)?;
            for name in names {
                table.remove(*name)?;
            }
            Ok(())
        })
    }

    /// Removes the state and its directory, unless there is something else in it.
    ///
    /// # Errors
    /// What the system said, with what is still there.
    pub fn destroy(self) -> Result<(), StoreError> {
        drop(self.database);
        remove_files(&self.path, self.lock)
    }

    fn database(&self) -> Result<&Database, Fault> {
        self.database.as_ref().ok_or(Fault::Closed)
    }

    fn write(
        &mut self,
        action: &'static str,
        work: impl Fn(&redb::WriteTransaction) -> Result<(), Fault>,
    ) -> Result<(), StoreError> {
        if self.database.is_none() {
            self.database = Some(open_database(&self.path)?);
        }
        let before = self.token()?;
        let attempt = self.guarded(action, || {
            let transaction = self.database()?.begin_write()?;
            work(&transaction)?;
            let next = before + 1;
            transaction.open_table(META)?.insert("writes", next)?;
            transaction.commit()?;
            Ok(())
        });
        let Err(error) = attempt else { return Ok(()) };
        // After a failed write the library takes nothing more before the file is opened again, and only the file says
        // whether the last step of the commit was reached.
        self.database = None;
        self.database = open_database(&self.path).ok();
        match self.database.is_some() && self.token()? > before {
            true => Ok(()),
            false => Err(error),
        }
    }

    /// How many transactions were ever written.
    fn token(&self) -> Result<u64, StoreError> {
        self.guarded("read the state", || {
            let transaction = self.database()?.begin_read()?;
            Ok(transaction
                .open_table(META)?
                .get("writes")?
                .map_or(0, |w| w.value()))
        })
    }

    fn guarded<T>(
        &self,
        action: &'static str,
        work: impl FnOnce() -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        guarded(&self.path, action, work)
    }
}

/// What can go wrong inside the library, before the file and the action are known.
#[derive(Debug)]
enum Fault {
    Library(redb::Error),
    Content(String),
    Newer(u64),
    Closed,
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(e: E) -> Fault {
        Fault::Library(e.into())
    }
}

/// A file that was changed behind the library's back can make it panic; that is damage, too.
fn guarded<T>(
    path: &Path,
    action: &'static str,
    work: impl FnOnce() -> Result<T, Fault>,
) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(fault)) => Err(error::explain(path, action, fault)),
        Err(_) => Err(StoreError::damaged(
            path,
            "its pages contradict one another",
        )),
    }
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    let missing = path
        .metadata()
        .map_or_else(|e| e.kind() == io::ErrorKind::NotFound, |m| m.len() == 0);
    if missing {
        create_database(path)?;
    }
    guarded(path, "open the state", || {
        let database = builder().open(path)?;
        let schema = database
            .begin_read()?
            .open_table(META)?
            .get("schema")?
            .map(|s| s.value());
        match schema {
            Some(SCHEMA) => Ok(database),
            Some(found) => Err(Fault::Newer(found)),
            None => Err(Fault::Content("it has no schema".to_owned())),
        }
    })
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true);
    builder
}

/// Makes an empty state under another name first: a half-made file is no state, and must not be taken for a damaged one.
fn create_database(path: &Path) -> Result<(), StoreError> {
    let io = |e: io::Error| StoreError::io(path, "make the state", e);
    let draft = path.with_file_name(DRAFT);
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .map_err(io)?;
    guarded(path, "make the state", || {
        let database = builder().create(&draft)?;
        let transaction = database.begin_write()?;
        transaction.open_table(META)?.insert("schema", SCHEMA)?;
        transaction.open_table(OBJECTS)?;
        transaction.open_table(OWNED)?;
        transaction.commit()?;
        Ok(database.close()?)
    })?;
    fs::rename(&draft, path).map_err(io)?;
    // The new name is there after a power failure only when the directory is written, too.
    path.parent()
        .map_or(Ok(()), |directory| File::open(directory)?.sync_all())
        .map_err(io)
}

fn encode<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(value).map_err(|e| Fault::Content(e.to_string()))
}

fn text(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|e| Fault::Content(e.to_string()))
}

fn decode<T: DeserializeOwned>(what: &str, key: &str, value: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(value).map_err(|e| Fault::Content(format!("{what} {key}: {e}")))
}

/// Removes a state that cannot be opened, readable or not.
///
/// # Errors
/// [`StoreError::Locked`] when another process has it, or what the system said.
pub fn remove(directory: &Path) -> Result<(), StoreError> {
    let lock = Lock::take(directory)?;
    remove_files(&directory.join(FILE), lock)
}

fn remove_files(path: &Path, lock: Lock) -> Result<(), StoreError> {
    remove_file(path)?;
    remove_file(&path.with_file_name(DRAFT))?;
    lock.remove()?;
    let Some(directory) = path.parent() else {
        return Ok(());
    };
    // Something is mounted there, and below what cannot be written to, where podswitchd runs in a container: it is empty, as it should be.
    let kept = [
        io::ErrorKind::NotFound,
        io::ErrorKind::DirectoryNotEmpty,
        io::ErrorKind::ResourceBusy,
        io::ErrorKind::ReadOnlyFilesystem,
    ];
    match fs::remove_dir(directory) {
        Err(e) if !kept.contains(&e.kind()) => {
            Err(StoreError::io(directory, "remove the state directory", e))
        }
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io(path, "remove", e)),
        _ => Ok(()),
    }
}

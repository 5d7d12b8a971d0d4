// SPDX-License-Identifier: Apache-2.0
//! podswitchd as the agent sees it: a connection, and changes that go around what it refuses.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use podswitch_api::client::{Client, ClientError};
use podswitch_api::error::{ErrorCode, RpcError, cut};
use podswitch_api::limits::MAX_SHOWN_LENGTH;
use podswitch_api::method::{
    Abort, Begin, BeginParams, Change, Commit, NoParams, Put, PutParams, TransactionParams, Version,
};
use podswitch_api::object::{Key, Object};

use crate::core::{Core, weight};
use crate::metrics::Metrics;

/// How long a call may take: a whole cluster is compiled within one.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Objects in one request, and their bytes: a request line may be 16 MiB long, and others wait while one is carried out.
const MOST: usize = 1024;
const MOST_BYTES: usize = 1 << 20;
/// How often a transaction is begun anew because of what `commit` refuses.
const ATTEMPTS: u32 = 64;

/// The connection.
#[derive(Debug)]
pub(crate) struct Daemon {
    socket: PathBuf,
    client: Option<Client>,
    metrics: Arc<Metrics>,
}

impl Daemon {
    pub(crate) fn new(socket: PathBuf, metrics: Arc<Metrics>) -> Daemon {
        Daemon {
            socket,
            client: None,
            metrics,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.is_some()
    }

    pub(crate) fn connect(&mut self) -> Result<(), ClientError> {
        let client = Client::connect_timeout(&self.socket, TIMEOUT)?;
        self.client = Some(client);
        self.metrics.daemon(true);
        Ok(())
    }

    /// After an error: whether the connection is still of use.
    pub(crate) fn failed(&mut self, error: &ClientError) {
        let name = match error.rpc() {
            Some(e) => e.code().map_or("unknown", ErrorCode::name),
            None => "unreachable",
        };
        self.metrics.daemon_error(name);
        if error.rpc().is_none() {
            self.client = None;
            self.metrics.daemon(false);
        }
    }

    /// Whether it is still the same process that answers.
    pub(crate) fn look(&mut self) -> Result<(), ClientError> {
        self.client()?.call::<Version>(&NoParams {}).map(drop)
    }

    /// Has the daemon's state be all that the core says; what it refuses is left out. Changed and removed objects.
    pub(crate) fn replace(&mut self, core: &mut Core) -> Result<(), ClientError> {
        self.ports(core)?;
        let kinds = core.kinds();
        if kinds.is_empty() {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            let began = Instant::now();
            let begun = self.client()?.call::<Begin>(&BeginParams {
                generation: None,
                kinds: Some(kinds.clone()),
            })?;
            let transaction = begun.transaction;
            match self.fill(core, transaction) {
                Ok(true) => {
                    self.metrics.commit("commit", began.elapsed());
                    return Ok(());
                }
                Ok(false) => {}
                Err(e) => {
                    if e.rpc().is_some() {
                        // The refusal is what matters.
                        let _ = self
                            .client()?
                            .call::<Abort>(&TransactionParams { transaction });
                    }
                    return Err(e);
                }
            }
        }
        let what = format!("podswitchd refused an object at each of {ATTEMPTS} commits");
        Err(RpcError::new(ErrorCode::Busy, what).into())
    }

    /// Sets the agent's ports, each by itself: one that cannot be must not keep another from being.
    pub(crate) fn ports(&mut self, core: &mut Core) -> Result<(), ClientError> {
        for port in core.ports() {
            let key = port.key();
            match self.client()?.apply(vec![Change::set(port)]) {
                Ok(_) => core.accepted(&key),
                Err(ClientError::Rpc(e))
                    if is_final(&e) || e.code() == Some(ErrorCode::Unavailable) =>
                {
                    core.refuse(&key, &e);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// `put` and `commit`; false when `commit` refused an object, which the core knows now.
    fn fill(&mut self, core: &mut Core, transaction: u64) -> Result<bool, ClientError> {
        let mut keys = core.keys().into_iter().peekable();
        while keys.peek().is_some() {
            let mut objects = Vec::new();
            let mut bytes = 0;
            while objects.len() < MOST && bytes < MOST_BYTES {
                let Some(key) = keys.next() else { break };
                if let Some(object) = core.object(&key) {
                    bytes += weight(&object);
                    objects.push(object);
                }
            }
            self.put(core, transaction, objects)?;
        }
        match self
            .client()?
            .call::<Commit>(&TransactionParams { transaction })
        {
            Ok(result) => {
                tracing::info!(
                    generation = result.generation,
                    added = result.added,
                    changed = result.changed,
                    removed = result.removed,
                    "podswitchd has the cluster's state"
                );
                Ok(true)
            }
            Err(ClientError::Rpc(e)) => match self.culprit(core, &e) {
                Some(key) => {
                    core.refuse(&key, &e);
                    Ok(false)
                }
                None => Err(ClientError::Rpc(e)),
            },
            Err(e) => Err(e),
        }
    }

    fn put(
        &mut self,
        core: &mut Core,
        transaction: u64,
        mut objects: Vec<Object>,
    ) -> Result<(), ClientError> {
        loop {
            let params = PutParams {
                transaction,
                objects,
            };
            match self.client()?.call::<Put>(&params) {
                Ok(_) => return Ok(()),
                Err(ClientError::Rpc(e)) => {
                    objects = params.objects;
                    let keys: Vec<Key> = objects.iter().map(Object::key).collect();
                    let Some(at) = place(&e, &keys) else {
                        return Err(ClientError::Rpc(e));
                    };
                    match core.refuse(&keys[at], &e) {
                        Change::Set { object } => objects[at] = object,
                        Change::Delete { .. } => drop(objects.remove(at)),
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Carries out what has changed; how many changes that were.
    pub(crate) fn apply(&mut self, core: &mut Core) -> Result<usize, ClientError> {
        let mut count = 0;
        loop {
            let mut changes = core.changes(MOST, MOST_BYTES);
            if changes.is_empty() {
                return Ok(count);
            }
            let began = Instant::now();
            while let Err(e) = self.client()?.apply(changes.clone()) {
                let ClientError::Rpc(e) = e else {
                    return Err(e);
                };
                let keys: Vec<Key> = changes.iter().map(key).collect();
                let Some(at) = place(&e, &keys) else {
                    return Err(ClientError::Rpc(e));
                };
                changes[at] = core.refuse(&keys[at], &e);
            }
            count += changes.len();
            self.metrics.commit("apply", began.elapsed());
        }
    }

    /// Of all that the core has, the object that an error is about.
    fn culprit(&self, core: &Core, error: &RpcError) -> Option<Key> {
        let keys = core.keys();
        let at = place(error, &keys)?;
        keys.into_iter().nth(at)
    }

    fn client(&mut self) -> Result<&mut Client, ClientError> {
        match &mut self.client {
            Some(client) => Ok(client),
            None => Err(ClientError::NotRunning {
                path: self.socket.clone(),
                source: std::io::ErrorKind::NotConnected.into(),
            }),
        }
    }
}

fn key(change: &Change) -> Key {
    match change {
        Change::Set { object } => object.key(),
        Change::Delete { key } => key.clone(),
    }
}

/// Whether an error says that an object cannot be, rather than that the daemon cannot now.
fn is_final(error: &RpcError) -> bool {
    matches!(
        error.code(),
        Some(
            ErrorCode::Refused | ErrorCode::Conflict | ErrorCode::InvalidParams | ErrorCode::Limit
        )
    )
}

/// Which of these objects an error is about: by kind and key, or by its place in the request.
fn place(error: &RpcError, keys: &[Key]) -> Option<usize> {
    let data = error.data.as_ref().filter(|_| is_final(error))?;
    if let (Some(kind), Some(short)) = (&data.kind, &data.key) {
        let is =
            |key: &Key| key.kind().name() == kind && cut(key.short(), MAX_SHOWN_LENGTH) == *short;
        return keys.iter().position(is);
    }
    let field = data.field.as_deref()?.strip_prefix("params.")?;
    let rest = field
        .strip_prefix("objects[")
        .or(field.strip_prefix("changes["))?;
    let index: usize = rest.split_once(']')?.0.parse().ok()?;
    (index < keys.len()).then_some(index)
}

/// What was said of late: the same is not said again, until something works again.
#[derive(Debug, Default)]
pub(crate) struct Said(HashMap<String, Instant>);

impl Said {
    /// Whether this is new, or was last said long ago.
    pub(crate) fn anew(&mut self, text: &str) -> bool {
        const AGAIN: Duration = Duration::from_secs(300);
        self.0.retain(|_, at| at.elapsed() < AGAIN);
        let new = !self.0.contains_key(text);
        if new {
            self.0.insert(text.to_owned(), Instant::now());
        }
        new
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use podswitch_api::object::NamespacedName;

    use super::*;

    fn keys() -> Vec<Key> {
        ["a", "b"]
            .map(|name| {
                Key::Pod(NamespacedName {
                    namespace: "shop".to_owned(),
                    name: name.to_owned(),
                })
            })
            .to_vec()
    }

    #[test]
    fn an_error_is_about_one_object() {
        let error = |code| RpcError::new(code, "no").about(&keys()[1]);
        assert_eq!(place(&error(ErrorCode::Refused), &keys()), Some(1));
        assert_eq!(
            place(&error(ErrorCode::Store), &keys()),
            None,
            "a full disk is nobody's fault"
        );
        let error = RpcError::new(ErrorCode::InvalidParams, "no").field("params.objects[1].labels");
        assert_eq!(place(&error, &keys()), Some(1));
        let error = RpcError::new(ErrorCode::InvalidParams, "no").field("params.objects[2]");
        assert_eq!(place(&error, &keys()), None);
        let error = RpcError::new(ErrorCode::Limit, "too many").field("pods");
        assert_eq!(place(&error, &keys()), None);
    }
}

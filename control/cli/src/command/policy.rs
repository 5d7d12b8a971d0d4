// SPDX-License-Identifier: Apache-2.0
//! `policy`: manifests of Kubernetes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use podswitch_api::method::{Change, Filter};
use podswitch_api::{Client, Key, Kind};
use podswitch_policy::manifest;

use super::{Context, object};
use crate::args::{Listed, PolicyCommand};
use crate::exit::{Failure, Result};
use crate::{input, output};

pub(super) fn policy(context: &Context, command: PolicyCommand) -> Result {
    match command {
        PolicyCommand::Apply(args) => apply(context, &args.file),
        PolicyCommand::Delete { manifest, missing } => {
            delete(context, &manifest.file, missing.ignore_not_found)
        }
        PolicyCommand::List { what, namespace } => list(context, what, namespace),
    }
}

fn apply(context: &Context, path: &Path) -> Result {
    let objects = input::manifests(path, manifest::read, |object| object.key())?;
    let changes = objects.into_iter().map(Change::set).collect();
    let result = context.client()?.apply(changes)?;
    output::print(context.output, &result, |r| {
        format!("{} changed, generation {}\n", r.changed, r.generation)
    })
}

fn delete(context: &Context, path: &Path, ignore_not_found: bool) -> Result {
    let keys = input::manifests(path, manifest::keys, Key::clone)?;
    let mut client = context.client()?;
    if !ignore_not_found {
        all_there(&mut client, &keys)?;
    }
    let result = client.apply(keys.into_iter().map(Change::delete).collect())?;
    output::print(context.output, &result, |r| {
        format!("{} deleted, generation {}\n", r.changed, r.generation)
    })
}

/// Fails with the first key that nothing has.
fn all_there(client: &mut Client, keys: &[Key]) -> Result {
    let mut kinds: BTreeMap<Kind, Vec<&Key>> = BTreeMap::new();
    for key in keys {
        kinds.entry(key.kind()).or_default().push(key);
    }
    for (kind, keys) in kinds {
        let filter = match keys.as_slice() {
            [key] => named(key),
            _ => Filter::default(),
        };
        let there = client.get_all(kind, filter)?;
        let there: BTreeSet<Key> = there.iter().map(|entry| entry.object.key()).collect();
        if let Some(key) = keys.into_iter().find(|key| !there.contains(key)) {
            return Err(Failure::Refused(format!(
                "there is no {key}, and nothing was deleted; --ignore-not-found deletes the others"
            )));
        }
    }
    Ok(())
}

fn named(key: &Key) -> Filter {
    let (namespace, name) = match key {
        Key::Pod(key) | Key::NetworkPolicy(key) => (Some(key.namespace.clone()), key.name.clone()),
        key => (None, key.short()),
    };
    Filter {
        namespace,
        name: Some(name),
        ..Filter::default()
    }
}

fn list(context: &Context, what: Listed, namespace: Option<String>) -> Result {
    let (kind, filter) = match what {
        Listed::Policies => return list_policies(context, namespace),
        Listed::Pods => (
            Kind::Pod,
            Filter {
                namespace,
                ..Filter::default()
            },
        ),
        Listed::Namespaces => (
            Kind::Namespace,
            Filter {
                name: namespace,
                ..Filter::default()
            },
        ),
    };
    object::list(context, kind, filter)
}

/// Those of the cluster are of no namespace.
fn list_policies(context: &Context, namespace: Option<String>) -> Result {
    let mut client = context.client()?;
    let mut entries = match namespace {
        None => client.get_all(Kind::ClusterNetworkPolicy, Filter::default())?,
        Some(_) => Vec::new(),
    };
    let filter = Filter {
        namespace,
        ..Filter::default()
    };
    entries.extend(client.get_all(Kind::NetworkPolicy, filter)?);
    output::print(context.output, &entries, |e| output::policies(e))
}

// SPDX-License-Identifier: Apache-2.0
//! The desired state with its rules: changed in transactions, all or nothing.

use std::collections::BTreeMap;

use super::check::{Bounds, check_object};
use super::delta::{Delta, Difference};
use super::index::Index;
use super::relations::View;
use super::state::{DesiredState, at_most};
use crate::error::{ErrorCode, RpcError};
use crate::method::Change;
use crate::object::{Key, Kind, Object};

/// A desired state in which every object is right by itself and to all others, with its generation.
#[derive(Clone, Debug)]
pub struct Model {
    state: DesiredState,
    index: Index,
    bounds: Bounds,
    generation: u64,
}

/// What a transaction did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Generation afterwards: one more than before when anything differs.
    pub generation: u64,
    /// What differs.
    pub delta: Delta,
}

/// Objects as they were before a transaction touched them, by key.
type Before = BTreeMap<Key, Option<Object>>;

impl Model {
    /// An empty one of generation 0.
    pub fn new(bounds: Bounds) -> Model {
        Model {
            state: DesiredState::default(),
            index: Index::default(),
            bounds,
            generation: 0,
        }
    }

    /// Takes a stored state over. Ports of workers that are no longer configured are taken all the same.
    ///
    /// # Errors
    /// The first object that is not right under these bounds.
    pub fn load(state: DesiredState, generation: u64, bounds: Bounds) -> Result<Model, RpcError> {
        let mut index = Index::default();
        let lenient = Bounds {
            workers: u8::MAX,
            ..bounds
        };
        for object in state.iter() {
            check_object(&object, &lenient)?;
            index.add(&object);
        }
        let model = Model {
            state,
            index,
            bounds,
            generation,
        };
        for kind in Kind::ALL {
            model
                .state
                .keys(kind)
                .try_for_each(|key| model.view().check(&key))?;
        }
        model.state.check_limits(&bounds.limits)?;
        Ok(model)
    }

    /// The objects.
    pub fn state(&self) -> &DesiredState {
        &self.state
    }

    /// How often it changed.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What objects are judged by.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Refuses when the generation is not the expected one.
    ///
    /// # Errors
    /// `conflict`.
    pub fn expect(&self, generation: Option<u64>) -> Result<(), RpcError> {
        match generation {
            Some(expected) if expected != self.generation => {
                let what = format!(
                    "the desired state has generation {}, not {expected}",
                    self.generation
                );
                Err(RpcError::new(ErrorCode::Conflict, what)
                    .value(expected)
                    .hint("read it again with `get`, and decide anew"))
            }
            _ => Ok(()),
        }
    }

    /// Carries out changes in their order and judges the outcome: all of them, or none and an error.
    ///
    /// # Errors
    /// `refused`, `limit` or `conflict`, naming the object at fault; the model is as it was.
    pub fn apply(&mut self, changes: &[Change]) -> Result<Applied, RpcError> {
        let mut before = Before::new();
        for (i, change) in changes.iter().enumerate() {
            if let Err(e) = self.carry_out(change, &mut before) {
                self.roll_back(before);
                return Err(in_change(e, i));
            }
        }
        self.finish(before)
    }

    /// Replaces all objects of `kinds` by those of `new`, whose other kinds are ignored: all or nothing.
    ///
    /// # Errors
    /// As [`Model::apply`].
    pub fn replace(&mut self, kinds: &[Kind], new: &DesiredState) -> Result<Applied, RpcError> {
        let kinds: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|k| kinds.contains(k))
            .collect();
        let mut before = Before::new();
        for kind in kinds.iter().rev() {
            let gone: Vec<Key> = self
                .state
                .keys(*kind)
                .filter(|k| !new.contains(k))
                .collect();
            gone.iter().for_each(|key| self.delete(key, &mut before));
        }
        for kind in kinds {
            for object in new.objects(kind) {
                if self.state.holds(&object) {
                    continue;
                }
                if let Err(e) = self.set(object, &mut before) {
                    self.roll_back(before);
                    return Err(e);
                }
            }
        }
        self.finish(before)
    }

    /// Undoes a transaction, which must be the last one.
    pub fn revert(&mut self, applied: &Applied) {
        for difference in &applied.delta.differences {
            self.put_back(&difference.key(), difference.before.clone());
        }
        if !applied.delta.is_empty() {
            self.generation = applied.generation - 1;
        }
    }

    fn view(&self) -> View<'_> {
        View {
            state: &self.state,
            index: &self.index,
        }
    }

    fn carry_out(&mut self, change: &Change, before: &mut Before) -> Result<(), RpcError> {
        match change {
            Change::Set { object } => self.set(object.clone(), before),
            Change::Delete { key } => {
                self.delete(key, before);
                Ok(())
            }
        }
    }

    fn set(&mut self, object: Object, before: &mut Before) -> Result<(), RpcError> {
        check_object(&object, &self.bounds)?;
        let key = object.key();
        let old = self.state.remove(&key);
        if let Some(old) = &old {
            self.index.remove(old);
        }
        self.index.add(&object);
        self.state.insert(object);
        before.entry(key).or_insert(old);
        Ok(())
    }

    fn delete(&mut self, key: &Key, before: &mut Before) {
        for dependent in self.dependents(key) {
            self.take_out(&dependent, before);
        }
        self.take_out(key, before);
    }

    fn take_out(&mut self, key: &Key, before: &mut Before) {
        if let Some(old) = self.state.remove(key) {
            self.index.remove(&old);
            before.entry(key.clone()).or_insert(Some(old));
        }
    }

    /// What goes with a port or a segment. The ports of a segment do not: they are judged at the end.
    fn dependents(&self, key: &Key) -> Vec<Key> {
        match key {
            Key::Port { name } => self.index.of_port(name).cloned().collect(),
            Key::Segment { name } => self
                .index
                .of_segment(name)
                .filter(|k| k.kind() == Kind::Fdb)
                .cloned()
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Judges what was touched, and closes the transaction.
    fn finish(&mut self, before: Before) -> Result<Applied, RpcError> {
        if let Err(e) = self.judge(&before) {
            self.roll_back(before);
            return Err(e);
        }
        let mut delta = Delta::default();
        for (key, old) in before {
            let new = self.state.get(&key);
            if old != new {
                delta.differences.extend(Difference::new(old, new));
            }
        }
        if !delta.is_empty() {
            self.generation += 1;
        }
        Ok(Applied {
            generation: self.generation,
            delta,
        })
    }

    fn judge(&self, before: &Before) -> Result<(), RpcError> {
        let view = self.view();
        if before.values().any(Option::is_none) {
            self.state.check_counts(&self.bounds.limits)?;
        }
        // One object has many of them, so that a change may bring some, too.
        let backends = self.index.service_backends;
        let most = self.bounds.limits.service_backends;
        at_most("service_backends", backends, most)?;
        for key in before.keys() {
            view.check(key)?;
            view.referrers(key)
                .filter(|k| !before.contains_key(k))
                .try_for_each(|k| view.check(k))?;
        }
        Ok(())
    }

    fn roll_back(&mut self, before: Before) {
        for (key, old) in before {
            self.put_back(&key, old);
        }
    }

    fn put_back(&mut self, key: &Key, old: Option<Object>) {
        if let Some(now) = self.state.remove(key) {
            self.index.remove(&now);
        }
        if let Some(old) = old {
            self.index.add(&old);
            self.state.insert(old);
        }
    }
}

/// Says which change an error is about.
fn in_change(mut error: RpcError, i: usize) -> RpcError {
    let mut data = error.data.take().unwrap_or_default();
    let field = data.field.take();
    data.field = Some(match field {
        Some(field) => format!("params.changes[{i}].object.{field}"),
        None => format!("params.changes[{i}]"),
    });
    error.data = Some(data);
    error
}

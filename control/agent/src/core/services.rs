// SPDX-License-Identifier: Apache-2.0
//! The place where Services and EndpointSlices become objects of the control protocol.

use std::fmt::Debug;

use ipnet::IpNet;
use podswitch_api::Kind;
use podswitch_api::method::Change;
use podswitch_api::object::NamespacedName;
use serde_json::Value;

use super::input::Source;

/// What matters of this node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ThisNode {
    /// Its name.
    pub name: String,
    /// Its zone (label `topology.kubernetes.io/zone`).
    pub zone: Option<String>,
    /// Prefixes of the cluster's pods: those of all nodes, and those of the configuration.
    pub pods: Vec<IpNet>,
}

/// What is different among a translator's objects.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Translated {
    /// What has changed.
    pub changes: Vec<Change>,
    /// What is not done as it was asked for, and was not known before.
    pub problems: Vec<Problem>,
}

/// Something of a Service or an EndpointSlice that is not done as it was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Which kind.
    pub source: Source,
    /// Which object.
    pub name: NamespacedName,
    /// The field, as a path.
    pub field: String,
    /// What is wrong with its value, and what is done instead.
    pub message: String,
}

/// Makes objects of Services and EndpointSlices. It is told of each that comes, changes or goes, and answers with what that changes among
/// its objects; it keeps what it needs for that itself.
pub trait Translator: Debug + Send {
    /// Kinds of the objects it makes: all objects of these are its own.
    fn kinds(&self) -> &'static [Kind];

    /// A Service or an EndpointSlice as the API writes it, without `managedFields`; none when it is gone.
    fn set(&mut self, source: Source, name: &NamespacedName, object: Option<&Value>) -> Translated;

    /// This node, at first and when it has changed.
    fn node(&mut self, node: &ThisNode) -> Translated;
}

/// Makes nothing of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Untranslated;

impl Translator for Untranslated {
    fn kinds(&self) -> &'static [Kind] {
        &[]
    }

    fn set(&mut self, _: Source, _: &NamespacedName, _: Option<&Value>) -> Translated {
        Translated::default()
    }

    fn node(&mut self, _: &ThisNode) -> Translated {
        Translated::default()
    }
}

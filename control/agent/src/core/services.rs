// SPDX-License-Identifier: Apache-2.0
//! The place where Services and EndpointSlices become objects of the control protocol.

use std::fmt::Debug;

use podswitch_api::Kind;
use podswitch_api::method::Change;
use podswitch_api::object::NamespacedName;
use serde_json::Value;

use super::input::Source;

/// Makes objects of Services and EndpointSlices. It is told of each that comes, changes or goes, and answers with what that changes among
/// its objects; it keeps what it needs for that itself.
pub trait Translator: Debug + Send {
    /// Kinds of the objects it makes: all objects of these are its own.
    fn kinds(&self) -> &'static [Kind];

    /// A Service or an EndpointSlice as the API writes it, without `managedFields`; none when it is gone.
    fn set(&mut self, source: Source, name: &NamespacedName, object: Option<&Value>)
    -> Vec<Change>;

    /// The zone of this node.
    fn zone(&mut self, zone: Option<&str>) -> Vec<Change>;
}

/// Makes nothing of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Untranslated;

impl Translator for Untranslated {
    fn kinds(&self) -> &'static [Kind] {
        &[]
    }

    fn set(&mut self, _: Source, _: &NamespacedName, _: Option<&Value>) -> Vec<Change> {
        Vec::new()
    }

    fn zone(&mut self, _: Option<&str>) -> Vec<Change> {
        Vec::new()
    }
}

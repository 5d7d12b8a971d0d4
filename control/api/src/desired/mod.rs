// SPDX-License-Identifier: Apache-2.0
//! The desired state: all objects that are configured. [`DesiredState`] holds them and compares; [`Model`] changes them in
//! transactions that keep every rule between objects; [`check_object`] judges one object by itself; [`Query`] answers `get`.

mod check;
mod delta;
mod index;
mod model;
mod query;
mod relations;
mod services;
mod state;

pub use check::{Bounds, check_object, check_service_address};
pub use delta::{Delta, Difference};
pub use model::{Applied, Model};
pub use query::{Page, Query};
pub use state::{DesiredState, DuplicateKey};

pub use crate::method::Gateway;

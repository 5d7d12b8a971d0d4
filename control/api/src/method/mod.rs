// SPDX-License-Identifier: Apache-2.0
//! Every method of the protocol, with its parameters and its result.

mod audit;
mod change;
mod events;
mod get;
mod health;
mod stats;
mod why;

pub use audit::{ArenaAudit, AuditResult, TeardownFailure, TeardownItem, TeardownReport};
pub use change::{
    AbortResult, ApplyParams, ApplyResult, BeginParams, BeginResult, Change, CommitResult,
    PutParams, PutResult, TransactionParams,
};
pub use events::{DenyEvent, EventsParams, EventsResult};
pub use get::{
    Entry, FdbStatus, Filter, GetParams, GetResult, NeighborSource, NeighborState, NeighborStatus,
    PortState, PortStatus, RouteStatus, RuleStatus, SegmentStatus, ServiceStatus, Status,
};
pub use health::{
    Gateway, HealthResult, HealthStatus, Problem, Severity, VersionResult, WorkerHealth,
};
pub use stats::{
    PolicyRuleStats, PortStats, RuleStats, Section, StatsParams, StatsResult, TableStats,
    WorkerStats,
};

pub use why::{
    DecidedBy, PolicyRuleRef, WhyEnd, WhyJudgement, WhyLed, WhyParams, WhyParty, WhyResult,
    WhyRoute,
};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Parameters of a method that has none: `{}`, or left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct NoParams {}

/// A method: its name and the types of its parameters and result.
pub trait Method {
    /// Name on the wire.
    const NAME: &'static str;
    /// Parameters, always an object.
    type Params: Serialize + DeserializeOwned + JsonSchema;
    /// Result, always an object.
    type Result: Serialize + DeserializeOwned + JsonSchema;
}

macro_rules! methods {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal: $params:ty => $result:ty, optional: $optional:literal;)*) => {
        $(
            $(#[doc = $doc])*
            #[derive(Clone, Copy, Debug)]
            pub enum $name {}

            impl Method for $name {
                const NAME: &'static str = $text;
                type Params = $params;
                type Result = $result;
            }
        )*

        /// A request's method with its parameters, as the server sees it.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Call {
            $($(#[doc = $doc])* $name($params),)*
        }

        impl Call {
            /// Names of all methods.
            pub const NAMES: &'static [&'static str] = &[$($text,)*];

            /// Name of the method on the wire.
            pub fn name(&self) -> &'static str {
                match self { $(Call::$name(_) => $text,)* }
            }

            /// Reads the parameters of `method`; `None` when there is no such method. `params` is `None` when the request has none.
            pub(crate) fn parse(method: &str, params: Option<&str>) -> Option<Result<Call, crate::RpcError>> {
                match method {
                    $($text => Some(crate::rpc::parse_params::<$params>($text, params, $optional).map(Call::$name)),)*
                    _ => None,
                }
            }
        }

        /// Name, description, and schemas of parameters and result of every method, in the order of the documentation.
        pub fn describe(generator: &mut schemars::SchemaGenerator) -> Vec<Description> {
            vec![$(Description {
                name: $text,
                summary: concat!($($doc, "\n",)*).trim(),
                params: generator.subschema_for::<$params>(),
                result: generator.subschema_for::<$result>(),
                params_optional: $optional,
            },)*]
        }
    };
}

/// What [`describe`] says of a method.
#[derive(Clone, Debug)]
pub struct Description {
    /// Name on the wire.
    pub name: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Schema of the parameters.
    pub params: schemars::Schema,
    /// Schema of the result.
    pub result: schemars::Schema,
    /// Whether `params` may be left out.
    pub params_optional: bool,
}

methods! {
    /// Says which daemon answers.
    Version = "version": NoParams => VersionResult, optional: true;
    /// Carries out a list of changes, all or nothing. The answer comes when they are stored and in force.
    Apply = "apply": ApplyParams => ApplyResult, optional: false;
    /// Opens a transaction that replaces the whole desired state, or all objects of some kinds.
    Begin = "begin": BeginParams => BeginResult, optional: true;
    /// Adds objects to a transaction.
    Put = "put": PutParams => PutResult, optional: false;
    /// Puts a transaction in force, all or nothing: only what differs changes. The answer comes when it is stored and in force.
    Commit = "commit": TransactionParams => CommitResult, optional: false;
    /// Forgets a transaction.
    Abort = "abort": TransactionParams => AbortResult, optional: false;
    /// Lists objects of one kind with their status, a page at a time, in the order of their keys.
    Get = "get": GetParams => GetResult, optional: false;
    /// Reads counters.
    Stats = "stats": StatsParams => StatsResult, optional: true;
    /// Says whether everything works, and what does not.
    Health = "health": NoParams => HealthResult, optional: true;
    /// Says whether a connection may begin, what decides that, and where it goes.
    Why = "why": WhyParams => WhyResult, optional: false;
    /// Reads samples of what was refused, and waits for some if there are none.
    Events = "events": EventsParams => EventsResult, optional: true;
    /// Accounts for every chunk of packet memory.
    Audit = "audit": NoParams => AuditResult, optional: true;
    /// Takes everything apart that podswitch made in the kernel, forgets the desired state and stops the daemon.
    Teardown = "teardown": NoParams => TeardownReport, optional: true;
}

crate::by_name!(NoParams);

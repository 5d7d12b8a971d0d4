// SPDX-License-Identifier: Apache-2.0
//! `service`.

use podswitch_api::method::Filter;
use podswitch_api::object::{Backend, Key, Kind, Service};

use super::Context;
use super::object::{add, delete, get, list, named};
use crate::args::{ServiceAdd, ServiceCommand};
use crate::exit::Result;

pub(super) fn service(context: &Context, command: ServiceCommand) -> Result {
    match command {
        ServiceCommand::List { address } => {
            let filter = Filter {
                address,
                ..Filter::default()
            };
            list(context, Kind::Service, filter)
        }
        ServiceCommand::Get(s) => {
            let filter = named(&s.name);
            get(context, &Key::Service { name: s.name }, filter)
        }
        ServiceCommand::Add(a) => add(context, new_service(*a)),
        ServiceCommand::Delete { selector, missing } => {
            let key = Key::Service {
                name: selector.name,
            };
            delete(context, key, missing.ignore_not_found)
        }
    }
}

fn new_service(a: ServiceAdd) -> Service {
    Service {
        name: a.selector.name,
        protocol: a.protocol,
        port: a.port,
        addresses: a.address,
        external: a.external.into_iter().map(|e| e.0).collect(),
        node_port: a.node_port,
        internal_traffic: a.internal_traffic.into(),
        external_traffic: a.external_traffic.into(),
        affinity_seconds: a.affinity,
        backends: a.backend.into_iter().map(Backend::from).collect(),
        local_backends: a.local_backend.into_iter().map(Backend::from).collect(),
    }
}

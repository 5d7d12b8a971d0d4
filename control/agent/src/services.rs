// SPDX-License-Identifier: Apache-2.0
//! Services and EndpointSlices become `service` objects; load balancers are told of this node's endpoints.

use std::collections::BTreeMap;

use podswitch_api::Kind;
use podswitch_api::object::NamespacedName;
use podswitch_services::kubernetes::{EndpointSlice, Service};
use podswitch_services::{Event, Health, Node, Services, Update};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;

use crate::core::{Problem, Source, ThisNode, Translated, Translator};

/// Of each Service of which load balancers ask this node, what they are told.
pub type HealthChecks = BTreeMap<NamespacedName, Health>;

/// The node's services.
#[derive(Debug)]
pub struct ServiceTranslator {
    services: Services,
    health: watch::Sender<HealthChecks>,
}

impl ServiceTranslator {
    /// None yet. Who listens to `health` hears what load balancers are to be told.
    pub fn new(health: watch::Sender<HealthChecks>) -> ServiceTranslator {
        ServiceTranslator {
            services: Services::new(Node::default()),
            health,
        }
    }

    fn taken(&mut self, update: Update, unreadable: Option<Problem>) -> Translated {
        let checks = self.services.health_checks();
        let now: HealthChecks = checks.map(|(key, health)| (key.clone(), health)).collect();
        self.health.send_if_modified(|before| {
            let differs = *before != now;
            *before = now;
            differs
        });
        let problems = update.problems.into_iter().map(problem);
        Translated {
            changes: update.changes,
            problems: problems.chain(unreadable).collect(),
        }
    }
}

fn problem(problem: podswitch_services::Problem) -> Problem {
    Problem {
        source: match problem.kind {
            "EndpointSlice" => Source::EndpointSlice,
            _ => Source::Service,
        },
        name: problem.key,
        field: problem.field,
        message: problem.message,
    }
}

/// An object, or why it cannot be read: it is as none then.
fn read<'v, T: Deserialize<'v>>(
    source: Source,
    name: &NamespacedName,
    object: Option<&'v Value>,
) -> (Option<T>, Option<Problem>) {
    match object.map(T::deserialize).transpose() {
        Ok(object) => (object, None),
        Err(e) => {
            let unreadable = Problem {
                source,
                name: name.clone(),
                field: String::new(),
                message: format!("{e}; it is left out"),
            };
            (None, Some(unreadable))
        }
    }
}

impl Translator for ServiceTranslator {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Service]
    }

    fn set(&mut self, source: Source, name: &NamespacedName, object: Option<&Value>) -> Translated {
        let (update, unreadable) = match source {
            Source::Service => {
                let (service, unreadable) = read::<Service>(source, name, object);
                let event = match &service {
                    Some(service) => Event::Service(service),
                    None => Event::NoService(name),
                };
                (self.services.apply([event]), unreadable)
            }
            _ => {
                let (slice, unreadable) = read::<EndpointSlice>(source, name, object);
                let event = match &slice {
                    Some(slice) => Event::Slice(slice),
                    None => Event::NoSlice(name),
                };
                (self.services.apply([event]), unreadable)
            }
        };
        self.taken(update, unreadable)
    }

    fn node(&mut self, node: &ThisNode) -> Translated {
        let update = self.services.set_node(Node {
            name: node.name.clone(),
            zone: node.zone.clone(),
            reserved: node.pods.clone(),
        });
        self.taken(update, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podswitch_api::method::Change;
    use podswitch_api::object::Object;
    use serde_json::json;

    fn name(name: &str) -> NamespacedName {
        NamespacedName {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_service_with_its_endpoints_becomes_an_object_and_goes() {
        let (sender, health) = watch::channel(HealthChecks::new());
        let mut all = ServiceTranslator::new(sender);
        all.node(&ThisNode {
            name: "n1".to_owned(),
            ..ThisNode::default()
        });
        let service = json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": {"type": "LoadBalancer",
            "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]}});
        let slice = json!({"metadata": {"namespace": "shop", "name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.244.1.2"], "conditions": {"ready": true}, "nodeName": "n1"}]});
        all.set(Source::Service, &name("web"), Some(&service));
        let changes = all
            .set(Source::EndpointSlice, &name("web-x"), Some(&slice))
            .changes;
        let [
            Change::Set {
                object: Object::Service(object),
            },
        ] = &changes[..]
        else {
            panic!("{changes:?}");
        };
        assert_eq!(object.backends.len(), 1);
        assert_eq!(object.name, "shop/web:http:ipv4");
        let told = health.borrow().get(&name("web")).copied().unwrap();
        assert_eq!((told.port, told.local_ready), (31000, 1));
        // What cannot be read is said, and left out.
        let broken = json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": 7});
        let told = all.set(Source::Service, &name("web"), Some(&broken));
        assert!(
            matches!(told.changes[..], [Change::Delete { .. }]),
            "{told:?}"
        );
        assert_eq!(told.problems.len(), 1);
        assert!(health.borrow().is_empty());
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Events of Kubernetes on objects that podswitchd refuses, so that who wrote one sees it there.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::{Api, Client};
use podswitch_api::object::NamespacedName;
use tokio::sync::mpsc::Receiver;

use crate::core::{Complaint, Source};

/// The reporting controller.
const CONTROLLER: &str = "podswitch-agent";
/// Where events of objects without a namespace are.
const DEFAULT_NAMESPACE: &str = "default";
/// So much of an object's name is in an event's, which may have 253 bytes.
const MAX_NAME: usize = 230;
/// Longest note (events.k8s.io/v1), in bytes.
const MAX_NOTE: usize = 1024;

/// Writes an event for each complaint about an object of the API.
pub async fn write(client: Client, node: String, mut complaints: Receiver<Complaint>) {
    while let Some(complaint) = complaints.recv().await {
        let Some(event) = event(&complaint, &node, Timestamp::now()) else {
            continue;
        };
        let namespace = event.metadata.namespace.as_deref();
        let api: Api<Event> =
            Api::namespaced(client.clone(), namespace.unwrap_or(DEFAULT_NAMESPACE));
        // It is in the log in any case.
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::debug!(object = %complaint.name, %error, "no event was written");
        }
    }
}

fn event(complaint: &Complaint, node: &str, now: Timestamp) -> Option<Event> {
    let source = complaint.source?;
    let NamespacedName { namespace, name } = complaint.name.clone();
    let namespace = Some(namespace).filter(|n| !n.is_empty());
    let regarding = ObjectReference {
        api_version: Some(source.api_version().to_owned()),
        kind: Some(source.kind().to_owned()),
        name: Some(name.clone()),
        namespace: namespace.clone(),
        uid: Some(complaint.uid.to_string()).filter(|uid| !uid.is_empty()),
        ..ObjectReference::default()
    };
    Some(Event {
        action: Some("Apply".to_owned()),
        event_time: Some(MicroTime(now)),
        metadata: ObjectMeta {
            name: Some(event_name(complaint)),
            namespace: Some(namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())),
            ..ObjectMeta::default()
        },
        note: Some(note(complaint)),
        reason: Some("NotHonoured".to_owned()),
        regarding: Some(regarding),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(format!("{CONTROLLER}-{node}").chars().take(128).collect()),
        type_: Some("Warning".to_owned()),
        ..Event::default()
    })
}

/// The same on every node, so that the API server takes the event of one of them alone.
fn event_name(complaint: &Complaint) -> String {
    let mut hash = DefaultHasher::new();
    (&complaint.uid, &complaint.field, &complaint.message).hash(&mut hash);
    let name = complaint
        .name
        .name
        .get(..MAX_NAME)
        .unwrap_or(&complaint.name.name);
    let name = name.trim_end_matches(['-', '.']);
    format!("{name}.{:016x}", hash.finish())
}

fn note(complaint: &Complaint) -> String {
    let instead = match (complaint.closed, complaint.source) {
        (true, _) => "; until it changes it allows nothing",
        (false, Some(Source::NetworkPolicy | Source::ClusterNetworkPolicy)) => {
            "; it is left out until it changes"
        }
        (false, Some(Source::Service | Source::EndpointSlice)) => "",
        (false, _) => "; the object is left out until it changes",
    };
    let field = match complaint.field.as_str() {
        "" => String::new(),
        field if complaint.message.contains(field) => String::new(),
        field => format!("{field}: "),
    };
    let mut note = format!("{field}{}", complaint.message);
    let mut length = MAX_NOTE - instead.len();
    while !note.is_char_boundary(length.min(note.len())) {
        length -= 1;
    }
    note.truncate(length);
    note.push_str(instead);
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(message: &str) -> Complaint {
        Complaint {
            source: Some(Source::NetworkPolicy),
            name: NamespacedName {
                namespace: "shop".to_owned(),
                name: "web".to_owned(),
            },
            uid: "u1".into(),
            field: "spec.ingress[0]".to_owned(),
            message: message.to_owned(),
            closed: true,
        }
    }

    #[test]
    fn an_event_names_object_and_field() {
        let event = event(&complaint("no"), "n1", Timestamp::UNIX_EPOCH).unwrap();
        let regarding = event.regarding.unwrap();
        assert_eq!(regarding.kind.as_deref(), Some("NetworkPolicy"));
        assert_eq!(regarding.namespace.as_deref(), Some("shop"));
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        let note = event.note.unwrap();
        assert!(note.starts_with("spec.ingress[0]: no;"), "{note}");
    }

    #[test]
    fn nodes_say_the_same_thing_once() {
        let name = |message: &str, node: &str| {
            let event = event(&complaint(message), node, Timestamp::now());
            event.and_then(|e| e.metadata.name).unwrap()
        };
        assert_eq!(name("no", "n1"), name("no", "n2"));
        assert_ne!(name("no", "n1"), name("never", "n1"));
        let mut long = complaint("no");
        long.name.name = format!("{}-{}", "a".repeat(229), "b".repeat(23));
        let long = event_name(&long);
        assert!(long.len() <= 253 && long.contains("a."), "{long}");
    }

    #[test]
    fn a_note_is_never_too_long() {
        for message in ["ä".repeat(2000), "a".repeat(2000)] {
            assert!(note(&complaint(&message)).len() <= MAX_NOTE);
        }
    }

    #[test]
    fn what_the_agent_made_itself_has_no_event() {
        let own = Complaint {
            source: None,
            ..complaint("no")
        };
        assert!(event(&own, "n1", Timestamp::UNIX_EPOCH).is_none());
    }
}

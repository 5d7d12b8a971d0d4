// SPDX-License-Identifier: Apache-2.0
//! What holds for any objects and changes.

use podswitch_api::RpcError;
use podswitch_api::desired::{Bounds, DesiredState, Model, check_object};
use podswitch_api::method::Change;
use podswitch_api::object::{Key, Kind, Object};
use proptest::prelude::*;

use super::arbitrary;

/// What `apply` must come to, without an index: cascades by searching, and judgement by loading from scratch.
fn naive(state: &DesiredState, changes: &[Change]) -> Result<DesiredState, RpcError> {
    let mut state = state.clone();
    for change in changes {
        match change {
            Change::Set { object } => {
                check_object(object, &Bounds::default())?;
                state.insert(object.clone());
            }
            Change::Delete { key } => {
                state.remove(key);
                let gone = |o: &Object| match (key, o) {
                    (Key::Port { name }, Object::Neighbor(o)) => o.port == *name,
                    (Key::Port { name }, Object::Route(o)) => o.ports().any(|port| port == name),
                    (Key::Port { name }, Object::Fdb(o)) => o.port == *name,
                    (Key::Port { name }, Object::Rule(o)) => o.port == *name,
                    (Key::Segment { name }, Object::Fdb(o)) => o.segment == *name,
                    _ => false,
                };
                let keys: Vec<Key> = state.iter().filter(gone).map(|o| o.key()).collect();
                keys.iter().for_each(|k| drop(state.remove(k)));
            }
        }
    }
    Model::load(state, 0, Bounds::default()).map(|m| m.state().clone())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_state_is_written_and_read(state in arbitrary::state()) {
        let text = serde_json::to_string(&state).unwrap();
        prop_assert_eq!(serde_json::from_str::<DesiredState>(&text).unwrap(), state);
    }

    #[test]
    fn differences_lead_from_one_state_to_the_other(a in arbitrary::state(), b in arbitrary::state()) {
        let delta = a.diff(&b);
        let mut patched = a.clone();
        patched.patch(&delta);
        prop_assert_eq!(&patched, &b);
        patched.patch(&delta.reversed());
        prop_assert_eq!(&patched, &a);
        prop_assert!(a.diff(&a).is_empty());
        prop_assert_eq!(delta.added() + delta.changed() + delta.removed(), delta.len() as u64);
    }

    #[test]
    fn judging_never_panics(port in arbitrary::wild_port(), object in arbitrary::object()) {
        drop(check_object(&Object::from(port.clone()), &Bounds::default()));
        drop(check_object(&object, &Bounds::default()));
        let mut model = Model::new(Bounds::default());
        drop(model.apply(&[Change::set(port), Change::Set { object }]));
    }

    #[test]
    fn transactions_equal_a_naive_model(batches in prop::collection::vec(prop::collection::vec(arbitrary::change(), 1..6), 1..20)) {
        let mut model = Model::new(Bounds::default());
        for changes in &batches {
            let before = model.state().clone();
            match (model.apply(changes), naive(&before, changes)) {
                (Ok(applied), Ok(after)) => {
                    prop_assert_eq!(model.state(), &after);
                    prop_assert_eq!(&applied.delta, &before.diff(&after));
                    model.revert(&applied);
                    prop_assert_eq!(model.state(), &before);
                    drop(model.apply(changes).unwrap());
                }
                (Err(_), Err(_)) => prop_assert_eq!(model.state(), &before),
                (ours, reference) => prop_assert!(false, "{:?}: model {:?}, reference {:?}", changes, ours, reference),
            }
        }
    }

    #[test]
    fn replacing_comes_to_the_new_state(a in arbitrary::state(), b in arbitrary::state()) {
        let mut model = Model::new(Bounds::default());
        for state in [&a, &b] {
            let before = model.state().clone();
            match (model.replace(&Kind::ALL, state), Model::load(state.clone(), 0, Bounds::default())) {
                (Ok(applied), Ok(_)) => {
                    prop_assert_eq!(model.state(), state);
                    prop_assert_eq!(applied.delta, before.diff(state));
                }
                (Err(_), Err(_)) => prop_assert_eq!(model.state(), &before),
                (ours, reference) => prop_assert!(false, "model {:?}, reference {:?}", ours, reference.map(|_| ())),
            }
        }
    }
}

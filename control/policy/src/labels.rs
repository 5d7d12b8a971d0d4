// SPDX-License-Identifier: Apache-2.0
//! Selectors, ready to be matched.

use std::collections::BTreeMap;

use podswitch_api::object::kubernetes::{LabelSelector, Operator};

/// Labels by key.
pub(crate) type Labels = BTreeMap<String, String>;

/// The label that every namespace has: its name.
pub(crate) const METADATA_NAME: &str = "kubernetes.io/metadata.name";

/// Whether labels meet all of a selector's requirements.
pub(crate) fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    matches_by(selector, |key| labels.get(key).map(String::as_str))
}

/// The same, with labels that are looked up.
pub(crate) fn matches_by<'a>(
    selector: &LabelSelector,
    label: impl Fn(&str) -> Option<&'a str>,
) -> bool {
    let equal = |(key, value): (&String, &String)| label(key) == Some(value);
    selector.match_labels.iter().all(equal)
        && selector.match_expressions.iter().all(|r| {
            let value = label(&r.key);
            let among = || value.is_some_and(|v| r.values.iter().any(|wanted| wanted == v));
            match r.operator {
                Operator::In => among(),
                Operator::NotIn => !among(),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
}

/// Whether a namespace of this name and these labels is selected.
pub(crate) fn matches_namespace(selector: &LabelSelector, name: &str, labels: &Labels) -> bool {
    matches_by(selector, |key| match key {
        METADATA_NAME => Some(name),
        _ => labels.get(key).map(String::as_str),
    })
}

/// Keys that a selector looks at.
pub(crate) fn keys(selector: &LabelSelector) -> impl Iterator<Item = &String> {
    let expressions = selector.match_expressions.iter().map(|r| &r.key);
    selector.match_labels.keys().chain(expressions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(json: serde_json::Value) -> LabelSelector {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn every_requirement_counts() {
        let labels: Labels = [("app".to_owned(), "web".to_owned())].into();
        let one = |operator: &str, key: &str, values: &[&str]| {
            let values = if values.is_empty() {
                serde_json::json!([])
            } else {
                serde_json::json!(values)
            };
            let r = serde_json::json!({"key": key, "operator": operator, "values": values});
            matches(
                &selector(serde_json::json!({"matchExpressions": [r]})),
                &labels,
            )
        };
        assert!(one("In", "app", &["db", "web"]) && !one("In", "app", &["db"]));
        assert!(!one("In", "tier", &["web"]));
        assert!(one("NotIn", "app", &["db"]) && !one("NotIn", "app", &["web"]));
        assert!(one("NotIn", "tier", &["web"]), "absent");
        assert!(one("Exists", "app", &[]) && !one("Exists", "tier", &[]));
        assert!(!one("DoesNotExist", "app", &[]) && one("DoesNotExist", "tier", &[]));
        let both = serde_json::json!({"matchLabels": {"app": "web", "tier": "x"}});
        assert!(!matches(&selector(both), &labels));
        assert!(matches(&LabelSelector::default(), &labels));
    }

    #[test]
    fn a_namespace_has_its_name_for_a_label() {
        let by_name = selector(serde_json::json!({"matchLabels": {METADATA_NAME: "shop"}}));
        assert!(matches_namespace(&by_name, "shop", &Labels::new()));
        assert!(!matches_namespace(&by_name, "other", &Labels::new()));
        let lying: Labels = [(METADATA_NAME.to_owned(), "shop".to_owned())].into();
        assert!(!matches_namespace(&by_name, "other", &lying));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Label selectors.

use serde_json::Value;

use crate::cluster::Labels;

/// Elements of a list; none if there is no list.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Whether a selector matches: all of `matchLabels` and of `matchExpressions` hold. An empty one matches everything.
pub(crate) fn matches(selector: &Value, labels: &Labels) -> bool {
    if let Some(wanted) = selector["matchLabels"].as_object() {
        for (key, value) in wanted {
            if value_of(labels, key) != value.as_str() {
                return false;
            }
        }
    }
    for expression in list(&selector["matchExpressions"]) {
        if !holds(expression, labels) {
            return false;
        }
    }
    true
}

fn holds(expression: &Value, labels: &Labels) -> bool {
    let Some(key) = expression["key"].as_str() else {
        return false;
    };
    let value = value_of(labels, key);
    let named = list(&expression["values"])
        .iter()
        .any(|v| value.is_some() && v.as_str() == value);
    match expression["operator"].as_str() {
        Some("In") => named,
        // A label that is not there is in no set.
        Some("NotIn") => !named,
        Some("Exists") => value.is_some(),
        Some("DoesNotExist") => value.is_none(),
        _ => false,
    }
}

fn value_of<'a>(labels: &'a Labels, key: &str) -> Option<&'a str> {
    let found = labels.iter().find(|(k, _)| k == key);
    found.map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn on(selector: Value, labels: &[(&str, &str)]) -> bool {
        let own = |(k, v): &(&str, &str)| (k.to_string(), v.to_string());
        matches(&selector, &labels.iter().map(own).collect())
    }

    #[test]
    fn each_operator() {
        let expression = |op: &str, values: &[&str]| json!({ "matchExpressions": [{ "key": "app", "operator": op, "values": values }] });
        let (a, c, none) = ([("app", "a")], [("app", "c")], [("env", "a")]);
        for (operator, values, on_a, on_c, on_none) in [
            ("In", &["a", "b"][..], true, false, false),
            ("NotIn", &["a", "b"], false, true, true),
            ("Exists", &[], true, true, false),
            ("DoesNotExist", &[], false, false, true),
        ] {
            let selector = || expression(operator, values);
            assert_eq!(on(selector(), &a), on_a, "{operator} a");
            assert_eq!(on(selector(), &c), on_c, "{operator} c");
            assert_eq!(on(selector(), &none), on_none, "{operator} none");
        }
    }

    #[test]
    fn everything_holds_or_nothing_matches() {
        assert!(on(json!({}), &[]));
        assert!(on(
            json!({ "matchLabels": {}, "matchExpressions": [] }),
            &[("app", "a")]
        ));
        let both = json!({
            "matchLabels": { "app": "a" },
            "matchExpressions": [{ "key": "env", "operator": "DoesNotExist" }],
        });
        assert!(on(both.clone(), &[("app", "a")]));
        assert!(!on(both.clone(), &[("app", "a"), ("env", "")]));
        assert!(!on(both, &[("app", "b")]));
        assert!(!on(json!({ "matchLabels": { "app": "" } }), &[]));
        assert!(on(json!({ "matchLabels": { "app": "" } }), &[("app", "")]));
    }
}

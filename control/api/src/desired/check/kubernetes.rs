// SPDX-License-Identifier: Apache-2.0
//! Namespaces, pods, labels and selectors: what the API server checks and podswitch relies on.

use std::collections::{BTreeMap, BTreeSet};

use super::value::host_address;
use super::{Bounds, refuse};
use crate::error::{ErrorCode, RpcError};
use crate::object::kubernetes::{LabelSelector, Operator, Requirement};
use crate::object::{Group, Namespace, Pod};

/// Longest name of an object and prefix of a label's key: a DNS subdomain (RFC 1123).
const MAX_NAME: usize = 253;
/// Longest name of a namespace (a DNS label), key of a label after its prefix, and value of one.
const MAX_WORD: usize = 63;
/// Longest name of a port (RFC 6335 section 5.1).
const MAX_PORT_NAME: usize = 15;
/// Most labels of an object, requirements of a selector, values of a requirement, ports of a pod.
const MAX_ITEMS: usize = 1024;

/// Refuses a list that is too long.
pub(super) fn length(field: &str, items: usize, most: usize) -> Result<(), RpcError> {
    match items <= most {
        true => Ok(()),
        false => Err(RpcError::new(
            ErrorCode::Limit,
            format!("{items} {field} are more than the limit of {most}"),
        )
        .field(field)
        .value(items)
        .hint("leave some out")),
    }
}

fn shown(text: &str) -> String {
    format!("\"{}\"", text.escape_debug())
}

/// Lower case letters and digits, with hyphens between them.
fn is_dns_label(text: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.chars().all(good) && !text.starts_with('-') && !text.ends_with('-')
}

/// A DNS subdomain as the API server has it: its labels may be of any length.
fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= MAX_NAME && text.split('.').all(is_dns_label)
}

/// Name of an object: a DNS subdomain.
pub(super) fn name(field: &str, text: &str) -> Result<(), RpcError> {
    if is_dns_subdomain(text) {
        return Ok(());
    }
    let hint = format!(
        "use 1 to {MAX_NAME} characters of a-z 0-9 - . with a letter or digit at both ends and beside each dot"
    );
    let what = "not a name of a Kubernetes object";
    Err(refuse(field, shown(text), what, hint))
}

/// Name of a namespace: a DNS label.
pub(super) fn namespace_name(field: &str, text: &str) -> Result<(), RpcError> {
    if text.len() <= MAX_WORD && is_dns_label(text) {
        return Ok(());
    }
    let hint = format!(
        "use 1 to {MAX_WORD} characters of a-z 0-9 - that begin and end with a letter or digit"
    );
    Err(refuse(
        field,
        shown(text),
        "not a name of a namespace",
        hint,
    ))
}

/// Letters, digits and a few signs between them.
fn is_word(text: &str, most: usize) -> bool {
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let chars = || text.chars();
    text.len() <= most && chars().all(good) && end(chars().next()) && end(chars().last())
}

fn key(field: &str, text: &str) -> Result<(), RpcError> {
    let (prefix, word) = match text.split_once('/') {
        Some((prefix, word)) => (Some(prefix), word),
        None => (None, text),
    };
    if prefix.is_none_or(is_dns_subdomain) && is_word(word, MAX_WORD) {
        return Ok(());
    }
    let hint = format!(
        "write one such as app or example.com/app: up to {MAX_WORD} letters, digits, - _ . after a DNS name"
    );
    Err(refuse(field, shown(text), "not the key of a label", hint))
}

fn value(field: &str, text: &str) -> Result<(), RpcError> {
    if text.is_empty() || is_word(text, MAX_WORD) {
        return Ok(());
    }
    let hint = format!("use up to {MAX_WORD} letters, digits, - _ .");
    Err(refuse(field, shown(text), "not the value of a label", hint))
}

fn labels(field: &str, labels: &BTreeMap<String, String>) -> Result<(), RpcError> {
    length(field, labels.len(), MAX_ITEMS)?;
    labels.iter().try_for_each(|(k, v)| {
        key(field, k)?;
        value(&format!("{field}.{k}"), v)
    })
}

/// A selector and its requirements.
pub(super) fn selector(field: &str, selector: &LabelSelector) -> Result<(), RpcError> {
    labels(&format!("{field}.matchLabels"), &selector.match_labels)?;
    let field = format!("{field}.matchExpressions");
    length(&field, selector.match_expressions.len(), MAX_ITEMS)?;
    let indexed = selector.match_expressions.iter().enumerate();
    indexed
        .into_iter()
        .try_for_each(|(i, r)| requirement(&format!("{field}[{i}]"), r))
}

fn requirement(field: &str, o: &Requirement) -> Result<(), RpcError> {
    key(&format!("{field}.key"), &o.key)?;
    let values = format!("{field}.values");
    length(&values, o.values.len(), MAX_ITEMS)?;
    let wants = matches!(o.operator, Operator::In | Operator::NotIn);
    if wants == o.values.is_empty() {
        let (what, hint) = match wants {
            true => ("no value to compare with", "give at least one"),
            false => (
                "Exists and DoesNotExist compare no values",
                "leave them out",
            ),
        };
        return Err(refuse(&values, format!("{:?}", o.values), what, hint));
    }
    for (i, text) in o.values.iter().enumerate() {
        value(&format!("{values}[{i}]"), text)?;
    }
    Ok(())
}

pub(super) fn namespace(o: &Namespace) -> Result<(), RpcError> {
    namespace_name("name", &o.name)?;
    labels("labels", &o.labels)
}

pub(super) fn group(o: &Group) -> Result<(), RpcError> {
    if o.id == 0 {
        let hint = format!("choose 1 to {}", u16::MAX);
        return Err(refuse("id", o.id, "stands for nobody", hint));
    }
    namespace_name("namespace", &o.namespace)?;
    labels("labels", &o.labels)
}

pub(super) fn pod(o: &Pod, bounds: &Bounds) -> Result<(), RpcError> {
    namespace_name("namespace", &o.namespace)?;
    name("name", &o.name)?;
    if let Some(uid) = o.uid.as_deref().filter(|u| !is_word(u, 128)) {
        let hint = "write it as the API server does";
        return Err(refuse("uid", shown(uid), "not a UID", hint));
    }
    labels("labels", &o.labels)?;
    let most = bounds.limits.addresses_per_port as usize;
    length("addresses", o.addresses.len(), most)?;
    let mut seen = BTreeSet::new();
    for (i, address) in o.addresses.iter().enumerate() {
        let field = format!("addresses[{i}]");
        // The node's own may be of any kind.
        if !o.host_network {
            host_address(&field, *address)?;
        }
        if !seen.insert(address) {
            let hint = "leave one of them out";
            return Err(refuse(&field, address, "it is there twice", hint));
        }
    }
    length("ports", o.ports.len(), MAX_ITEMS)?;
    for (i, port) in o.ports.iter().enumerate() {
        port_name(&format!("ports[{i}].name"), &port.name)?;
        port_number(&format!("ports[{i}].containerPort"), port.container_port)?;
    }
    Ok(())
}

/// Name of a port: an IANA service name (RFC 6335 section 5.1) in lower case.
pub(super) fn port_name(field: &str, text: &str) -> Result<(), RpcError> {
    let letter = text.chars().any(|c| c.is_ascii_lowercase());
    if text.len() <= MAX_PORT_NAME && is_dns_label(text) && letter && !text.contains("--") {
        return Ok(());
    }
    let hint = format!(
        "use up to {MAX_PORT_NAME} characters of a-z 0-9 and single hyphens between them, with at least one letter"
    );
    Err(refuse(field, shown(text), "not the name of a port", hint))
}

pub(super) fn port_number(field: &str, number: u16) -> Result<(), RpcError> {
    match number {
        0 => Err(refuse(field, number, "not a port", "choose 1 to 65535")),
        _ => Ok(()),
    }
}

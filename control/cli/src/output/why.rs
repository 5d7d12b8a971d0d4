// SPDX-License-Identifier: Apache-2.0
//! What decides about a connection, in words.

use podswitch_api::method::{DecidedBy, WhyJudgement, WhyParty, WhyResult, WhyRoute};

use super::objects::joined;

pub(crate) fn why(r: &WhyResult) -> String {
    let verdict = match &r.reason {
        None => "ALLOWED".to_owned(),
        Some(reason) => format!("DENIED ({reason})"),
    };
    let egress = match &r.egress {
        Some(judgement) => said(judgement, "egress"),
        None => "not asked: the sender is behind no port of this node".to_owned(),
    };
    let ingress = match &r.ingress {
        Some(judgement) => said(judgement, "ingress"),
        None => "not asked: there is no way out".to_owned(),
    };
    let led = r.leads_to.as_ref().map(|led| {
        let (to, port) = (party(&led.to), led.container_port);
        let service = led.service.as_ref();
        let of = service.map_or(String::new(), |name| format!(" (service {name})"));
        format!("\n  leads to {to}, port {port}{of}")
    });
    format!(
        "{verdict}\n  from     {}\n  to       {}{}\n  egress   {egress}\n  route    {}\n  ingress  {ingress}\n",
        party(&r.from),
        party(&r.to),
        led.unwrap_or_default(),
        route(&r.route),
    )
}

fn party(p: &WhyParty) -> String {
    let mut text = p.address.to_string();
    if let Some(pod) = &p.pod {
        text += &format!(", pod {pod}");
    }
    if let Some(port) = &p.port {
        text += &format!(", behind port {port}");
    }
    text
}

fn route(r: &WhyRoute) -> String {
    match (&r.reason, &r.port, r.mac, r.mtu) {
        (Some(reason), ..) => format!("none: {reason}"),
        (None, Some(port), Some(mac), Some(mtu)) => {
            format!("out of port {port} to {mac}, at most {mtu} bytes")
        }
        _ => "out of a port that has gone".to_owned(),
    }
}

fn said(j: &WhyJudgement, direction: &str) -> String {
    let verdict = if j.allowed { "allowed" } else { "denied" };
    let isolating = joined(&j.isolated_by);
    let by = match j.by {
        DecidedBy::Pending => "the pod is closed until its labels and policies are here".to_owned(),
        DecidedBy::Rule => format!("rule {} of the port", j.rule.as_deref().unwrap_or("?")),
        DecidedBy::Policy => match &j.policy {
            Some(policy) => policy.to_string(),
            None => "a policy".to_owned(),
        },
        DecidedBy::Isolation => {
            format!("isolated by NetworkPolicy {isolating}, none of whose rules allows it")
        }
        DecidedBy::Exempt => "a pod and itself, or its node: always allowed".to_owned(),
        DecidedBy::Default if isolating.is_empty() => {
            format!("no policy isolates the pod's {direction}; the port's default")
        }
        DecidedBy::Default => "the port's default".to_owned(),
    };
    let peer = j
        .peer_group
        .map(|group| format!("; the peer is known by group {group}"));
    let peer = peer.unwrap_or_default();
    format!("{verdict} at port {}: {by}{peer}", j.port)
}

// SPDX-License-Identifier: Apache-2.0
//! ADD: addresses, the veth pair or the socket's folder, the port; taken back in reverse when a later step fails.

use std::net::IpAddr;

use ipnet::IpNet;
use podswitch_api::method::VersionResult;
use podswitch_api::object::{Action, Device, PodRef, Port, SocketMode, XdpMode};
use serde_json::Value;

use crate::attach::{self, Link, Made, Plan, PodRoute};
use crate::conf::{DefaultAction, Mode, NetConf, VhostUser};
use crate::guest;
use crate::invocation::{Invocation, bad};
use crate::json::invalid;
use crate::result::{Attachment, Interface, Ip, Route};
use crate::spec::{CniError, Code};
use crate::switch::Switch;

pub(super) fn run(conf: &NetConf, call: &Invocation) -> Result<Value, CniError> {
    unused_name(conf, call)?;
    let mac = wanted_mac(conf, call)?;
    if conf.ipam.is_none() && !conf.runtime.ips.is_empty() {
        let why = "there is no \"ipam\" to take addresses from";
        return Err(invalid(
            "runtimeConfig.ips",
            &Value::from(conf.runtime.ips.clone()),
            why,
        ));
    }
    let link = Link::of(conf, call);
    let pod = attach::open(&link)?;
    let mut switch = Switch::connect(conf)?;
    let version = switch.version()?;
    if conf.guest.is_none() {
        attach::ensure_free(&link, &pod)?;
    }
    let allocated = match &conf.ipam {
        Some(ipam) => ipam.add(conf, call)?,
        None => Attachment::default(),
    };
    let give_back = |e| undo(e, "the addresses", || release(conf, call));
    let plan = plan(conf, &version, &allocated, mac).map_err(give_back)?;
    let made = match &conf.guest {
        Some(guest) => meet(conf, guest, &link, &plan),
        None => attach::create(&link, &pod, &plan),
    };
    let made = made.map_err(give_back)?;
    let take_back = |e: CniError| {
        // The daemon may have added the port without saying so.
        let port = match e.is(Code::TryAgain) {
            true => Switch::take_back(conf, &link),
            false => Ok(()),
        };
        let way = match &conf.guest {
            Some(guest) => guest::part(guest, &link),
            None => attach::delete(&link),
        };
        let done = [port.map_err(CniError::from), way];
        match CniError::all(done.into_iter().filter_map(Result::err).collect()) {
            Ok(()) => give_back(e),
            // What stays keeps its addresses until DEL.
            Err(also) => e.and_undoing("the attachment", &also),
        }
    };
    // Held open here, the namespace lives on; without its name it is nobody's.
    attach::still_there(&link, &pod)
        .and_then(|()| Ok(switch.set_port(port(conf, call, &link, &plan, &made))?))
        .map_err(take_back)?;
    let mut ours = match &conf.guest {
        Some(guest) => guest_result(guest, call, &link, &plan, &made),
        None => result(call, &link, &plan, &made),
    };
    ours.dns = match conf.result_dns() {
        dns if dns.is_empty() => allocated.dns,
        dns => dns,
    };
    Ok(match &conf.previous {
        Some(previous) => previous.and(&ours, conf.version),
        None => ours.to_json(conf.version),
    })
}

/// Makes what a virtual machine and podswitchd meet by, and tells whoever is to be told.
fn meet(conf: &NetConf, guest: &VhostUser, link: &Link, plan: &Plan) -> Result<Made, CniError> {
    guest::create(guest, link)?;
    let made = attach::Made::of_guest(link, plan);
    let told = || {
        if let Some(file) = &conf.runtime.device_info {
            guest::write_device_info(guest, link, file)?;
        }
        guest::write_dan(guest, link, plan, made.pod_mac)
    };
    match told() {
        Ok(()) => Ok(made),
        Err(e) => Err(undo(e, "the socket's folder", || guest::part(guest, link))),
    }
}

/// Runs a step back; what it cannot take back is said in the details. The runtime calls DEL next, and that tries again.
fn undo(e: CniError, what: &str, step: impl FnOnce() -> Result<(), CniError>) -> CniError {
    match step() {
        Ok(()) => e,
        Err(also) => e.and_undoing(what, &also),
    }
}

fn release(conf: &NetConf, call: &Invocation) -> Result<(), CniError> {
    conf.ipam
        .as_ref()
        .map_or(Ok(()), |ipam| ipam.del(conf, call))
}

fn unused_name(conf: &NetConf, call: &Invocation) -> Result<(), CniError> {
    let earlier = conf.previous.iter().flat_map(|p| &p.result.interfaces);
    for i in earlier {
        if i.name == call.ifname && i.sandbox == call.netns {
            let why = "an earlier plugin of the chain made this interface; podswitch makes its own";
            return Err(bad("CNI_IFNAME", &call.ifname, why));
        }
    }
    Ok(())
}

/// Capability `mac`, or else `MAC` of `CNI_ARGS`.
fn wanted_mac(conf: &NetConf, call: &Invocation) -> Result<Option<[u8; 6]>, CniError> {
    let read = |text: &str| match text.parse::<podswitch_api::MacAddr>() {
        Ok(mac) if mac.is_unicast() => Ok(Some(mac.0)),
        Ok(_) => Err("it is zero or a group address, and a station has a unicast one".to_owned()),
        Err(e) => Err(e.to_string()),
    };
    if let Some(text) = &conf.runtime.mac {
        return read(text).map_err(|why| invalid("runtimeConfig.mac", &text.as_str().into(), why));
    }
    match call.arg("MAC") {
        Some(text) => read(text).map_err(|why| bad("CNI_ARGS", &format!("MAC={text}"), &why)),
        None => Ok(None),
    }
}

fn plan(
    conf: &NetConf,
    version: &VersionResult,
    allocated: &Attachment,
    mac: Option<[u8; 6]>,
) -> Result<Plan, CniError> {
    let routes = allocated.routes.iter().map(PodRoute::of);
    let plan = Plan {
        mtu: conf.mtu.unwrap_or(version.mtu),
        mac,
        addresses: allocated.ips.iter().map(|ip| ip.address.addr()).collect(),
        gateway_v4: version.gateway.ipv4,
        gateway_v6: version.gateway.ipv6,
        routes: routes.collect::<Result<_, _>>()?,
    };
    plan.check()?;
    Ok(plan)
}

fn port(conf: &NetConf, call: &Invocation, link: &Link, plan: &Plan, made: &Made) -> Port {
    Port {
        name: link.host.clone(),
        device: device(conf, link),
        mac: Some(podswitch_api::MacAddr(made.pod_mac)),
        addresses: plan.addresses.clone(),
        vrf: conf.vrf,
        mtu: Some(plan.mtu),
        worker: None,
        egress_default: action(conf.egress_default),
        ingress_default: action(conf.ingress_default),
        segment: None,
        node: false,
        pod: Some(pod_ref(conf, call)),
        host_ports: conf.runtime.port_mappings.clone(),
    }
}

fn device(conf: &NetConf, link: &Link) -> Device {
    match &conf.guest {
        Some(guest) => Device::VhostUser {
            socket: guest::socket(guest, link).to_string_lossy().into_owned(),
            mode: guest.mode,
            queues: guest.queues,
            gid: guest.gid.filter(|_| guest.mode == SocketMode::Server),
        },
        None => Device::Veth {
            interface: link.host.clone(),
            mode: match conf.mode {
                Mode::Auto => XdpMode::Auto,
                Mode::Native => XdpMode::Native,
                Mode::Generic => XdpMode::Generic,
                Mode::Tap => XdpMode::Tap,
            },
        },
    }
}

fn action(default: DefaultAction) -> Action {
    match default {
        DefaultAction::Allow => Action::Allow,
        DefaultAction::Deny => Action::Deny,
    }
}

fn pod_ref(conf: &NetConf, call: &Invocation) -> PodRef {
    let arg = |key: &str| call.arg(key).map(str::to_owned);
    PodRef {
        namespace: arg("K8S_POD_NAMESPACE").unwrap_or_default(),
        name: arg("K8S_POD_NAME").unwrap_or_default(),
        uid: arg("K8S_POD_UID"),
        container_id: call.container_id.clone(),
        ifname: call.ifname.clone(),
        netns: Some(call.netns.clone()),
        network: Some(conf.name.clone()),
    }
}

/// Both ends, and what the pod's has; the latter is the second interface.
fn result(call: &Invocation, link: &Link, plan: &Plan, made: &Made) -> Attachment {
    let interface = |name: &str, mac, sandbox: &str| Interface {
        name: name.to_owned(),
        mac: podswitch_api::MacAddr(mac).to_string(),
        mtu: Some(plan.mtu),
        sandbox: sandbox.to_owned(),
        socket_path: String::new(),
    };
    let interfaces = vec![
        interface(&link.host, made.host_mac, ""),
        interface(&call.ifname, made.pod_mac, &call.netns),
    ];
    attachment(interfaces, plan, made)
}

/// What the machine finds by its socket.
fn guest_result(
    guest: &VhostUser,
    call: &Invocation,
    link: &Link,
    plan: &Plan,
    made: &Made,
) -> Attachment {
    let interface = Interface {
        name: call.ifname.clone(),
        mac: podswitch_api::MacAddr(made.pod_mac).to_string(),
        mtu: Some(plan.mtu),
        sandbox: call.netns.clone(),
        socket_path: guest::socket(guest, link).to_string_lossy().into_owned(),
    };
    attachment(vec![interface], plan, made)
}

/// These interfaces, with what the last of them has.
fn attachment(interfaces: Vec<Interface>, plan: &Plan, made: &Made) -> Attachment {
    let ip = |ip: &IpAddr| Ip {
        address: IpNet::from(*ip),
        gateway: Some(plan.gateway(ip.is_ipv4())),
        interface: Some(interfaces.len() - 1),
    };
    let route = |r: &PodRoute| Route {
        mtu: r.mtu,
        priority: r.priority,
        table: r.table,
        ..Route::new(r.dst, Some(plan.gateway(r.dst.addr().is_ipv4())))
    };
    Attachment {
        ips: plan.addresses.iter().map(ip).collect(),
        routes: made.routes.iter().map(route).collect(),
        interfaces,
        ..Attachment::default()
    }
}

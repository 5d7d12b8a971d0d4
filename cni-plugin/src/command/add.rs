// SPDX-License-Identifier: Apache-2.0
//! ADD: addresses, the veth pair, the port; taken back in reverse when a later step fails.

use std::net::IpAddr;

use ipnet::IpNet;
use podswitch_api::object::{Action, Device, PodRef, Port, XdpMode};

use crate::attach::{self, Link, Plan};
use crate::conf::{DefaultAction, Mode, NetConf};
use crate::invocation::Invocation;
use crate::ipam::Ipam;
use crate::result::{Attachment, Interface, Ip, Route};
use crate::spec::{CniError, Code};
use crate::switch::Switch;

pub(super) fn run(conf: &NetConf, call: &Invocation) -> Result<Attachment, CniError> {
    let previous = conf.previous.clone().unwrap_or_default();
    if let Some(i) = previous
        .interfaces
        .iter()
        .find(|i| i.name == call.ifname && i.sandbox == call.netns)
    {
        let msg = format!(
            "CNI_IFNAME=\"{}\": an earlier plugin of the chain made this interface",
            i.name
        );
        return Err(CniError::new(Code::InvalidEnvironment, msg));
    }
    let mut switch = Switch::connect(conf)?;
    let version = switch.version()?;
    let link = Link::of(conf, call);
    attach::ensure_free(&link)?;
    let mut undo = Undo {
        conf,
        call,
        link: &link,
        leased: false,
        linked: false,
    };
    let allocated = match &conf.ipam {
        Some(ipam) => {
            undo.leased = true;
            undo.on_error(ipam.add(conf, call))?
        }
        None => Attachment::default(),
    };
    let mac = undo.on_error(wanted_mac(conf, call))?;
    let mtu = conf.mtu.unwrap_or(version.mtu);
    let plan = Plan {
        mtu,
        mac,
        addresses: allocated.ips.iter().map(|ip| ip.address.addr()).collect(),
        gateway_v4: version.gateway.ipv4,
        gateway_v6: version.gateway.ipv6,
        routes: allocated.routes.iter().map(|r| (r.dst, r.mtu)).collect(),
    };
    undo.linked = true;
    let made = undo.on_error(attach::create(&link, &plan))?;
    let port = Port {
        name: link.host.clone(),
        device: Device::Veth {
            interface: link.host.clone(),
            mode: xdp_mode(conf.mode),
        },
        mac: Some(podswitch_api::MacAddr(made.pod_mac)),
        addresses: plan.addresses.clone(),
        vrf: conf.vrf,
        mtu: Some(mtu),
        worker: None,
        egress_default: action(conf.egress_default),
        ingress_default: action(conf.ingress_default),
        segment: None,
        pod: Some(pod_ref(conf, call)),
    };
    undo.on_error(switch.set_port(port))?;
    let result = Attachment {
        interfaces: vec![
            interface(&link.host, made.host_mac, mtu, ""),
            interface(&call.ifname, made.pod_mac, mtu, &call.netns),
        ],
        ips: plan
            .addresses
            .iter()
            .map(|ip| Ip::new(IpNet::from(*ip), Some(plan.gateway(*ip)), Some(1)))
            .collect(),
        routes: routes(&plan),
        dns: if conf.result_dns().is_empty() {
            allocated.dns
        } else {
            conf.result_dns()
        },
    };
    Ok(result.after(previous))
}

/// What has to be taken back when a later step fails.
struct Undo<'a> {
    conf: &'a NetConf,
    call: &'a Invocation,
    link: &'a Link,
    leased: bool,
    linked: bool,
}

impl Undo<'_> {
    /// Passes a success on; takes everything back after a failure. What cannot be taken back is said in the details:
    /// the runtime calls DEL next, and that tries again.
    fn on_error<T>(&self, result: Result<T, CniError>) -> Result<T, CniError> {
        result.map_err(|mut e| {
            if self.linked
                && let Err(also) = attach::delete(self.link)
            {
                e.details = format!("{}; and taking the interface back: {also}", e.details);
            }
            if self.leased
                && let Some(Err(also)) = self
                    .conf
                    .ipam
                    .as_ref()
                    .map(|i| Ipam::del(i, self.conf, self.call))
            {
                e.details = format!("{}; and giving the addresses back: {also}", e.details);
            }
            e
        })
    }
}

fn wanted_mac(conf: &NetConf, call: &Invocation) -> Result<Option<[u8; 6]>, CniError> {
    let Some(text) = conf.runtime.mac.as_ref().or_else(|| call.args.get("MAC")) else {
        return Ok(None);
    };
    let mac: podswitch_api::MacAddr = text
        .parse()
        .map_err(|e| CniError::new(Code::InvalidConfig, format!("runtimeConfig.mac: {e}")))?;
    if !mac.is_unicast() {
        let msg = format!(
            "runtimeConfig.mac \"{text}\" is zero or a group address; a station has a unicast one"
        );
        return Err(CniError::new(Code::InvalidConfig, msg));
    }
    Ok(Some(mac.0))
}

fn interface(name: &str, mac: [u8; 6], mtu: u32, sandbox: &str) -> Interface {
    Interface {
        name: name.to_owned(),
        mac: podswitch_api::MacAddr(mac).to_string(),
        mtu: Some(mtu),
        sandbox: sandbox.to_owned(),
        ..Interface::default()
    }
}

/// The default route of each family that has an address, and IPAM's own, all through the gateway.
fn routes(plan: &Plan) -> Vec<Route> {
    plan.all_routes()
        .into_iter()
        .map(|(dst, mtu)| {
            let gateway: IpAddr = plan.gateway(dst.addr());
            Route {
                mtu,
                ..Route::new(dst, Some(gateway))
            }
        })
        .collect()
}

fn pod_ref(conf: &NetConf, call: &Invocation) -> PodRef {
    let arg = |key: &str| call.args.get(key).cloned();
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

fn xdp_mode(mode: Mode) -> XdpMode {
    match mode {
        Mode::Auto => XdpMode::Auto,
        Mode::Native => XdpMode::Native,
        Mode::Generic => XdpMode::Generic,
    }
}

fn action(default: DefaultAction) -> Action {
    match default {
        DefaultAction::Allow => Action::Allow,
        DefaultAction::Deny => Action::Deny,
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Any call of the CNI plugin, as far as it only reads: environment, configuration with its IPAM section and
//! `prevResult`, results in every version. The input is CNI_COMMAND, CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME and CNI_ARGS, a
//! line each, and then standard input.
#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use podswitch_api::limits::MAX_MESSAGE_LENGTH;
use podswitch_api::strict;
use podswitch_cni::attach::host_name;
use podswitch_cni::conf::NetConf;
use podswitch_cni::invocation::{Command, Invocation};
use podswitch_cni::ipam::Ipam;
use podswitch_cni::result::{Attachment, Previous};
use podswitch_cni::spec::{CniError, Version};
use serde_json::Value;

const VARIABLES: [&str; 5] = [
    "CNI_COMMAND",
    "CNI_CONTAINERID",
    "CNI_NETNS",
    "CNI_IFNAME",
    "CNI_ARGS",
];

fuzz_target!(|input: &[u8]| {
    let mut lines = input.splitn(VARIABLES.len() + 1, |b| *b == b'\n');
    let values: Vec<String> = lines
        .by_ref()
        .take(VARIABLES.len())
        .map(|l| String::from_utf8_lossy(l).into_owned())
        .collect();
    let stdin = lines.next().unwrap_or_default();
    let call = Invocation::read(|name| {
        let at = VARIABLES.iter().position(|v| *v == name)?;
        values.get(at).cloned()
    });
    if let Err(e) = &call {
        check_error(e, 4..=4);
    }
    read_as(stdin, Command::Gc);
    let add = read_as(stdin, Command::Add);
    let del = read_as(stdin, Command::Del);
    if let Some(conf) = add {
        assert!(del.is_some(), "what ADD takes DEL must take");
        strict::value(stdin).expect("no key comes twice");
        refuse_lists(stdin);
        check_conf(&conf, call.as_ref().ok());
    }
    if let Some(call) = call.ok().filter(of_container) {
        let name = host_name(&call.container_id, &call.ifname);
        assert!(name.len() == 15 && name.is_ascii(), "{name}");
    }
    if let Ok(value) = serde_json::from_slice::<Value>(stdin) {
        check_result(&value);
        check_result(&value["prevResult"]);
    }
});

/// Whether a call is about a container.
fn of_container(call: &Invocation) -> bool {
    let about = matches!(call.command, Command::Add | Command::Del | Command::Check);
    assert_eq!(
        about,
        !call.container_id.is_empty() && !call.ifname.is_empty()
    );
    about
}

fn read_as(stdin: &[u8], command: Command) -> Option<NetConf> {
    match NetConf::parse(stdin, command) {
        Ok(conf) => Some(conf),
        Err(e) => {
            check_error(&e, 1..=7);
            None
        }
    }
}

/// An error has a code of the specification, a message, and is printed as one JSON object.
fn check_error(e: &CniError, codes: std::ops::RangeInclusive<u32>) {
    assert!(codes.contains(&e.code) && !e.msg.is_empty(), "{e}");
    assert!(e.msg.chars().count() <= MAX_MESSAGE_LENGTH + 3);
    // About the configuration, and about which key of it.
    let named = e.msg.contains("key \"") || e.msg.contains("ipam");
    assert!(named || ![2, 7].contains(&e.code), "{e}");
    for version in Version::ALL {
        let printed: Value = serde_json::from_str(&e.to_json(version)).expect("JSON");
        assert_eq!(printed["code"], e.code);
        assert_eq!(printed["cniVersion"], version.as_str());
    }
}

/// What is written as an object is read by name, never by order.
fn refuse_lists(stdin: &[u8]) {
    let conf: Value = serde_json::from_slice(stdin).expect("it was read");
    let built_in = ["podswitch", "podswitch-cni"].map(Value::from);
    let of_ipam = built_in.contains(&conf["ipam"]["type"]);
    for pointer in [
        "/dns",
        "/ipam",
        "/ipam/ranges/0/0",
        "/ipam/routes/0",
        "/runtimeConfig",
        "/runtimeConfig/dns",
        "/runtimeConfig/ipRanges/0/0",
        "/prevResult",
        "/prevResult/dns",
        "/prevResult/interfaces/0",
        "/prevResult/ips/0",
        "/prevResult/routes/0",
    ] {
        let mut bad = conf.clone();
        let part = match bad.pointer_mut(pointer) {
            // Another IPAM plugin reads its own section.
            Some(part) if of_ipam || !pointer.starts_with("/ipam/") => part,
            _ => continue,
        };
        if let Value::Object(fields) = part {
            *part = fields.values().cloned().collect();
            let read = NetConf::parse(bad.to_string().as_bytes(), Command::Add);
            check_error(&read.expect_err(pointer), 1..=7);
        }
    }
}

fn check_conf(conf: &NetConf, call: Option<&Invocation>) {
    assert!(!conf.name.contains('/') && conf.name != "." && conf.name != "..");
    assert!(conf.socket.is_absolute());
    conf.result_dns();
    if let Some(Err(e)) = call.map(|c| conf.wanted_ips(c)) {
        check_error(&e, 4..=7);
    }
    if let Some(Ipam::BuiltIn(ipam)) = &conf.ipam {
        for set in &ipam.sets {
            let last = set.candidates(None).take(3).last();
            for ip in set.candidates(last).take(3) {
                assert!(set.contains(ip), "{ip} of {}", set.describe());
            }
            assert_eq!(set.size() > 0, last.is_some(), "{}", set.describe());
        }
    }
    if let Some(previous) = &conf.previous {
        let all = previous.and(&previous.result, conf.version);
        let again = Previous::parse(&all).expect("a chained result reads back");
        assert_eq!(again.result.ips.len(), 2 * previous.result.ips.len());
    }
}

/// A result that can be read reads the same after it was written.
fn check_result(value: &Value) {
    match Attachment::parse("result", value) {
        Ok(result) => {
            let newest = result.to_json(Version::LATEST);
            assert_eq!(Attachment::parse("result", &newest), Ok(result.clone()));
            for version in Version::ALL {
                let older = Attachment::parse("result", &result.to_json(version));
                assert_eq!(older.map(|r| r.ips), Ok(result.ips.clone()), "{version}");
            }
        }
        Err(e) => check_error(&e, 6..=6),
    }
}

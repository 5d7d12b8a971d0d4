// SPDX-License-Identifier: Apache-2.0
//! A device of a VLAN on a wire, as Linux's VLAN devices are, which not every kernel has: filters pass frames on between the wire and a
//! veth, and take the tag out or put it in.

use std::os::fd::AsFd;

use podswitch_host::bpf::{self, Instruction, ProgramType};
use podswitch_host::tc::{self, Direction};
use podswitch_host::{Socket, link};

use crate::netns::Netns;

/// Opcodes: `r = *(u32 *)(s + offset)`, `r = s`, `r = value`, `r &= value`, `if r != value`, and a call of a helper.
const LOAD: u8 = 0x61;
const COPY: u8 = 0xbf;
const SET: u8 = 0xb7;
const AND: u8 = 0x57;
const UNLESS: u8 = 0x55;
const CALL: u8 = 0x85;
/// Helpers (`include/uapi/linux/bpf.h`).
const SKB_VLAN_PUSH: u32 = 18;
const SKB_VLAN_POP: u32 = 19;
const REDIRECT: u32 = 23;
/// Where `struct __sk_buff` has its `vlan_tci`.
const VLAN_TCI: i16 = 24;
/// `TC_ACT_OK`.
const PASS: u32 = 0;

/// `return` what a helper says that has the frame sent by another device.
fn redirect(to: u32) -> [Instruction; 4] {
    [
        Instruction::any(SET, 1, 0, 0, to),
        Instruction::any(SET, 2, 0, 0, 0),
        Instruction::any(CALL, 0, 0, 0, REDIRECT),
        Instruction::exit(),
    ]
}

/// Frames from the device get the tag, and go to the wire.
fn tag(id: u16, wire: u32) -> Vec<Instruction> {
    let protocol = 0x8100u16.to_be();
    let push = [
        Instruction::any(SET, 2, 0, 0, protocol.into()),
        Instruction::any(SET, 3, 0, 0, id.into()),
        Instruction::any(CALL, 0, 0, 0, SKB_VLAN_PUSH),
    ];
    [&push[..], &redirect(wire)].concat()
}

/// Those of the VLAN on the wire lose it, and go to the device.
fn untag(id: u16, device: u32) -> Vec<Instruction> {
    let look = [
        Instruction::any(COPY, 6, 1, 0, 0),
        Instruction::any(LOAD, 2, 6, VLAN_TCI, 0),
        Instruction::any(AND, 2, 0, 0, 0xfff),
        // Over the next two and the redirection.
        Instruction::any(UNLESS, 2, 0, 6, id.into()),
        Instruction::any(COPY, 1, 6, 0, 0),
        Instruction::any(CALL, 0, 0, 0, SKB_VLAN_POP),
    ];
    let pass = [Instruction::return_value(PASS), Instruction::exit()];
    [&look[..], &redirect(device), &pass].concat()
}

/// Makes the device of VLAN `id` on `wire`; it is up, without addresses.
///
/// # Panics
/// When the kernel refuses something.
#[track_caller]
pub fn make(netns: &Netns, wire: &str, name: &str, id: u16) {
    let lower = format!("{name}-low");
    netns.ip(&format!("link add {name} type veth peer name {lower}"));
    netns.ip(&format!("link set {name} up"));
    netns.ip(&format!("link set {lower} up"));
    netns.run(|| {
        let mut socket = Socket::open().expect("rtnetlink");
        let [upper, wire] = [lower.as_str(), wire].map(|name| {
            let index = link::index(&mut socket, name);
            index.unwrap_or_else(|e| panic!("{e}"))
        });
        for (device, program) in [(upper, tag(id, wire)), (wire, untag(id, upper))] {
            let program = bpf::load(ProgramType::SchedCls, "test_vlan", &program);
            let program = program.expect("a filter that can be loaded");
            tc::ensure_clsact(&mut socket, device).expect("clsact");
            let ingress = Direction::Ingress;
            let attached = tc::attach(
                &mut socket,
                device,
                ingress,
                1,
                "test_vlan",
                program.as_fd(),
            );
            attached.expect("a place for the filter");
        }
    });
}

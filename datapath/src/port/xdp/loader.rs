// SPDX-License-Identifier: Apache-2.0
//! Loads steering programs: one with maps of its own per port.
//!
//! A pod's VLAN device leaves its tag to the veth, which passes it on beside the frame, so that AF_XDP would never see it.
//! A program that is bound to one device and attached in native mode may ask for the tag with a kernel function
//! (Documentation/networking/xdp-rx-metadata.rst, Linux 6.8). These have no fixed numbers: the call in the compiled
//! program is a placeholder, filled in here.

use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd};

use aya::include_bytes_aligned;
use aya::maps::{Map, MapData};
use aya_obj::Object;
use aya_obj::btf::{Btf, BtfKind};
use aya_obj::generated::bpf_insn;

use super::bpf;
use super::error::XdpError;
use super::program::{COUNTS, SOCKETS, STEERING_NAME, Steering, failed, failed_chain};

static POD: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pod.bpf.o"));

/// The kernel function that tells a frame's tag.
const TAG_FUNCTION: &str = "bpf_xdp_metadata_rx_vlan_tag";
/// The helper number that stands for it: `rx_vlan_tag` of `bpf/abi.h`.
const PLACEHOLDER: i32 = 0x7fff_0001;
/// `BPF_JMP | BPF_CALL` and `BPF_ALU | BPF_MOV | BPF_K`.
const CALL: u8 = 0x85;
const SET: u8 = 0xb4;
/// `BPF_PSEUDO_KFUNC_CALL`.
const KERNEL_FUNCTION: u8 = 2;

/// Loads programs. Making one costs some 25 ms (it reads the kernel's type information), loading with it 0.1 ms: keep it.
pub struct Loader {
    object: Object,
    /// Number of the function that tells tags, where the kernel has it.
    tag_function: Option<i32>,
}

impl Loader {
    /// A loader; it holds nothing in the kernel.
    pub fn new() -> Loader {
        let mut object = Object::parse(POD).expect("the compiled program is whole");
        for map in object.maps.values_mut() {
            // The types of keys and values would need the object's type information in the kernel.
            if let aya_obj::Map::Btf(map) = map {
                (map.def.btf_key_type_id, map.def.btf_value_type_id) = (0, 0);
            }
        }
        Loader {
            object,
            tag_function: tag_function(),
        }
    }

    /// Whether programs in native mode see the VLAN tags that pods leave to their devices.
    pub fn sees_tags(&self) -> bool {
        self.tag_function.is_some()
    }

    /// Loads a fresh steering program with maps of its own for an interface of `queues` receive queues. With the index
    /// of an interface of the calling thread's network namespace it sees VLAN tags left to the device, where the kernel
    /// can; it must then be attached there, in native mode.
    ///
    /// A successor attaches its own over the old one (netlink `IFLA_XDP` with the old program as the expected one): the
    /// kernel replaces program and maps in one step.
    ///
    /// # Errors
    /// [`XdpError::Program`] with the verifier's words when the kernel refuses it.
    pub fn steering(&mut self, queues: u32, native_on: Option<u32>) -> Result<Steering, XdpError> {
        let fail = |e: &dyn std::error::Error| failed_chain(STEERING_NAME, e);
        let mut object = self.object.clone();
        if let Some(sockets) = object.maps.get_mut(SOCKETS) {
            sockets.set_max_entries(queues.max(1));
        }
        let mut maps = Vec::new();
        for (name, map) in &object.maps {
            let data = MapData::create(map.clone(), name, None).map_err(|e| fail(&e))?;
            maps.push((name.clone(), data, map.clone()));
        }
        let text: HashSet<usize> = object.functions.keys().map(|key| key.0).collect();
        let places = maps
            .iter()
            .map(|(name, data, map)| (name.as_str(), data.fd().as_fd().as_raw_fd(), map));
        object.relocate_maps(places, &text).map_err(|e| fail(&e))?;
        let missing = |what: &str| failed(STEERING_NAME, &format!("the object has no {what}"));
        let function = object
            .programs
            .get(STEERING_NAME)
            .and_then(|program| object.functions.get(&program.function_key()));
        let mut instructions = function
            .ok_or_else(|| missing("program"))?
            .instructions
            .clone();
        let (function, bound) = self.tag_function.zip(native_on).unzip();
        fill_in(&mut instructions, function);
        let program = bpf::load_xdp(STEERING_NAME, &object.license, &instructions, bound)
            .map_err(|e| failed(STEERING_NAME, &e))?;
        let mut take = |name: &str| {
            let at = maps.iter().position(|m| m.0 == name);
            let data = maps.swap_remove(at.ok_or_else(|| missing(name))?).1;
            Map::from_map_data(data).map_err(|e| fail(&e))
        };
        Steering::from_parts(program, take(SOCKETS)?, take(COUNTS)?)
    }
}

impl Default for Loader {
    fn default() -> Loader {
        Loader::new()
    }
}

/// The number of [`TAG_FUNCTION`] in the kernel that runs.
fn tag_function() -> Option<i32> {
    let types = Btf::from_sys_fs().ok()?;
    let id = types
        .id_by_type_name_kind(TAG_FUNCTION, BtfKind::Func)
        .ok()?;
    i32::try_from(id).ok()
}

/// Makes the placeholder a call of the kernel function with this number, or -EOPNOTSUPP.
fn fill_in(instructions: &mut [bpf_insn], function: Option<i32>) {
    let calls = instructions
        .iter_mut()
        .filter(|i| i.code == CALL && i.src_reg() == 0 && i.imm == PLACEHOLDER);
    for call in calls {
        match function {
            Some(number) => {
                call.set_src_reg(KERNEL_FUNCTION);
                call.imm = number;
            }
            None => {
                call.code = SET;
                call.imm = -libc::EOPNOTSUPP;
            }
        }
    }
}

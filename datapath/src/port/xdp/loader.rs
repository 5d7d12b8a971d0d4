// SPDX-License-Identifier: Apache-2.0
//! Loads steering programs: one with maps of its own per port, of a kind for pods' veths and a kind for NICs. Also those for sockets of the host.
//!
//! A pod's VLAN device leaves its tag to the veth, which passes it on beside the frame, so that AF_XDP would never see it.
//! A program that is bound to one device and attached in native mode may ask for the tag with a kernel function
//! (Documentation/networking/xdp-rx-metadata.rst, Linux 6.8). These have no fixed numbers: the call in the compiled
//! program is a placeholder, filled in here.

use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::include_bytes_aligned;
use aya::maps::{Map, MapData};
use aya_obj::Object;
use aya_obj::btf::{Btf, BtfKind};
use aya_obj::generated::bpf_insn;

use super::bpf;
use super::error::XdpError;
use super::host::{self, HostSockets, SEEN};
use super::nic::{NIC_STEERING_NAME, NicSteering};
use super::program::{SOCKETS, STEERING_NAME, Steering, failed, failed_chain, open_ours};

static POD: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pod.bpf.o"));
static NIC: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nic.bpf.o"));
static NIC_TAP: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nic_tap.bpf.o"));
static HOST: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/host.bpf.o"));

/// The kernel function that tells a frame's tag.
const TAG_FUNCTION: &str = "bpf_xdp_metadata_rx_vlan_tag";
/// The helper number that stands for it: `rx_vlan_tag` of `bpf/abi.h`.
const PLACEHOLDER: i32 = 0x7fff_0001;
/// `BPF_JMP | BPF_CALL` and `BPF_ALU | BPF_MOV | BPF_K`.
const CALL: u8 = 0x85;
const SET: u8 = 0xb4;
/// `BPF_PSEUDO_KFUNC_CALL`.
const KERNEL_FUNCTION: u8 = 2;

/// Loads programs. Making one costs some 25 ms (it reads the kernel's type information), loading with it less than a
/// millisecond: keep it.
pub struct Loader {
    pod: Object,
    nic: Object,
    nic_tap: Object,
    host: Object,
    /// Number of the function that tells tags, where the kernel has it.
    tag_function: Option<i32>,
}

/// A program in the kernel, and its maps by their names.
pub(super) struct Loaded {
    name: &'static str,
    pub(super) program: OwnedFd,
    maps: Vec<(String, MapData)>,
}

impl Loaded {
    /// One of the maps, once.
    pub(super) fn take(&mut self, map: &str) -> Result<Map, XdpError> {
        take(self.name, &mut self.maps, map)
    }
}

/// One of the maps of a program, once.
fn take(name: &str, maps: &mut Vec<(String, MapData)>, map: &str) -> Result<Map, XdpError> {
    let at = maps.iter().position(|m| m.0 == map);
    let at = at.ok_or_else(|| missing(name, map))?;
    let data = maps.swap_remove(at).1;
    Map::from_map_data(data).map_err(|e| failed_chain(name, &e))
}

impl Loader {
    /// A loader; it holds nothing in the kernel.
    pub fn new() -> Loader {
        Loader {
            pod: parse(POD),
            nic: parse(NIC),
            nic_tap: parse(NIC_TAP),
            host: parse(HOST),
            tag_function: tag_function(),
        }
    }

    /// Whether programs in native mode see the VLAN tags that pods leave to their devices, and hardware takes out of
    /// frames.
    pub fn sees_tags(&self) -> bool {
        self.tag_function.is_some()
    }

    /// Loads a fresh steering program for a pod's veth, with maps of its own for `queues` receive queues. With the index
    /// of an interface of the calling thread's network namespace it sees VLAN tags left to the device, where the kernel
    /// can; it must then be attached there, in native mode.
    ///
    /// A successor attaches its own over the old one (netlink `IFLA_XDP` with the old program as the expected one): the
    /// kernel replaces program and maps in one step.
    ///
    /// # Errors
    /// [`XdpError::Program`] with the verifier's words when the kernel refuses it.
    pub fn steering(&mut self, queues: u32, native_on: Option<u32>) -> Result<Steering, XdpError> {
        Steering::from_loaded(self.load(&self.pod, STEERING_NAME, queues, native_on)?)
    }

    /// The same for a NIC. It passes everything on until it is told what is the switch's.
    ///
    /// # Errors
    /// As [`Loader::steering`].
    pub fn nic_steering(
        &mut self,
        queues: u32,
        native_on: Option<u32>,
    ) -> Result<NicSteering, XdpError> {
        NicSteering::from_loaded(self.load(&self.nic, NIC_STEERING_NAME, queues, native_on)?)
    }

    /// The same, to be a traffic-control filter of what a NIC receives, that sends it into a [tap device](NicSteering::set_tap).
    ///
    /// # Errors
    /// As [`Loader::steering`].
    pub fn nic_tap_steering(&mut self) -> Result<NicSteering, XdpError> {
        let mut object = self.nic_tap.clone();
        let maps = create_maps(NIC_STEERING_NAME, &mut object, None)?;
        let instructions = instructions(&object, NIC_STEERING_NAME)?;
        let program = bpf::load_sched_cls(NIC_STEERING_NAME, &object.license, &instructions);
        NicSteering::from_loaded(Loaded {
            name: NIC_STEERING_NAME,
            program: program.map_err(|e| failed(NIC_STEERING_NAME, &e))?,
            maps,
        })
    }

    /// Loads the programs for sockets of the host, which lead nobody anywhere yet. They are to be for sockets of the network namespace with this
    /// cookie alone. `before` is the id of the first of those that they are to replace: what sockets call their peers goes on.
    ///
    /// # Errors
    /// As [`Loader::steering`].
    pub fn host_sockets(
        &mut self,
        netns: u64,
        before: Option<u32>,
    ) -> Result<HostSockets, XdpError> {
        let mut object = self.host.clone();
        let seen = before.and_then(|id| seen_of(id, &object));
        let mut maps = create_maps(host::NAME, &mut object, seen)?;
        let mut programs = Vec::new();
        for (name, attach_type) in host::PROGRAMS {
            let instructions = instructions(&object, name)?;
            let program = bpf::load_sock_addr(name, &object.license, &instructions, attach_type);
            programs.push((attach_type, program.map_err(|e| failed(name, &e))?));
        }
        let maps = host::MAPS.map(|map| take(host::NAME, &mut maps, map));
        HostSockets::from_parts(programs, maps, netns)
    }

    fn load(
        &self,
        object: &Object,
        name: &'static str,
        queues: u32,
        native_on: Option<u32>,
    ) -> Result<Loaded, XdpError> {
        let mut object = object.clone();
        if let Some(sockets) = object.maps.get_mut(SOCKETS) {
            sockets.set_max_entries(queues.max(1));
        }
        let maps = create_maps(name, &mut object, None)?;
        let mut instructions = instructions(&object, name)?;
        let (function, bound) = self.tag_function.zip(native_on).unzip();
        fill_in(&mut instructions, function);
        let program = bpf::load_xdp(name, &object.license, &instructions, bound)
            .map_err(|e| failed(name, &e))?;
        Ok(Loaded {
            name,
            program,
            maps,
        })
    }
}

/// A compiled program.
fn parse(compiled: &[u8]) -> Object {
    let mut object = Object::parse(compiled).expect("the compiled program is whole");
    for map in object.maps.values_mut() {
        // The types of keys and values would need the object's type information in the kernel.
        if let aya_obj::Map::Btf(map) = map {
            (map.def.btf_key_type_id, map.def.btf_value_type_id) = (0, 0);
        }
    }
    object
}

/// What sockets call their peers, of programs in the kernel; none of another version, where that has another form.
fn seen_of(id: u32, object: &Object) -> Option<(String, MapData)> {
    let (_, [seen]) = open_ours(id, host::PROGRAMS[0].0, [SEEN]).ok()?;
    let Map::LruHashMap(data) = seen else {
        return None;
    };
    let (info, wanted) = (data.info().ok()?, object.maps.get(SEEN)?);
    let same = (info.key_size(), info.value_size()) == (wanted.key_size(), wanted.value_size());
    same.then(|| (SEEN.to_owned(), data))
}

/// Makes the maps of an object, but for one that is there, and writes them into its programs.
fn create_maps(
    name: &str,
    object: &mut Object,
    there: Option<(String, MapData)>,
) -> Result<Vec<(String, MapData)>, XdpError> {
    let fail = |e: &dyn std::error::Error| failed_chain(name, e);
    let mut maps: Vec<(String, MapData)> = there.into_iter().collect();
    for (map_name, map) in &object.maps {
        if maps.iter().all(|(there, _)| there != map_name) {
            let data = MapData::create(map.clone(), map_name, None).map_err(|e| fail(&e))?;
            maps.push((map_name.clone(), data));
        }
    }
    let text: HashSet<usize> = object.functions.keys().map(|key| key.0).collect();
    let definitions = object.maps.clone();
    let places = maps.iter().map(|(map_name, data)| {
        let fd = data.fd().as_fd().as_raw_fd();
        (map_name.as_str(), fd, &definitions[map_name])
    });
    object.relocate_maps(places, &text).map_err(|e| fail(&e))?;
    Ok(maps)
}

fn instructions(object: &Object, name: &str) -> Result<Vec<bpf_insn>, XdpError> {
    let program = object.programs.get(name);
    let function = program.and_then(|program| object.functions.get(&program.function_key()));
    let function = function.ok_or_else(|| missing(name, "program"))?;
    Ok(function.instructions.clone())
}

fn missing(name: &str, what: &str) -> XdpError {
    failed(name, &format!("the object has no {what}"))
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

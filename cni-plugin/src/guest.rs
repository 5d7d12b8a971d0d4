// SPDX-License-Identifier: Apache-2.0
//! A virtual machine's or a DPDK program's way to the switch: a folder of its own with the socket on which podswitchd and the frontend meet. It is to such a pod
//! what the host's end of a veth is to others: it is named after the attachment, says whose it is, and its port goes with it.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::attach::{Link, Plan, PodRoute, is_host_name, lock};
use crate::conf::{SocketMode, VhostUser};
use crate::invocation::bad;
use crate::spec::{CniError, Code};

/// The socket, in an attachment's folder.
const SOCKET: &str = "vhost.sock";
/// Ends the name of the file beside a folder that says whose it is, as an alias says it of an interface. It is not in the folder, where a pod that listens may write.
const OWNER: &str = ".owner";
/// Version of the format of device information (Device Information Specification of the Network Plumbing Working Group).
const DEVICE_INFO: &str = "1.1.0";
/// Scope of a route to a neighbor on the link (rtnetlink(7)).
const SCOPE_LINK: u32 = 253;

/// Path of an attachment's socket.
pub fn socket(conf: &VhostUser, link: &Link) -> PathBuf {
    folder(conf, link).join(SOCKET)
}

fn folder(conf: &VhostUser, link: &Link) -> PathBuf {
    conf.path.join(&link.host)
}

fn owner_file(conf: &VhostUser, name: &str) -> PathBuf {
    conf.path.join(format!("{name}{OWNER}"))
}

fn failed<'a>(path: &'a Path) -> impl Fn(io::Error) -> CniError + 'a {
    move |e| CniError::io(path.display(), &e)
}

/// Makes an attachment's folder. Who is in the group may enter it; where the pod listens, it may make the socket there.
///
/// # Errors
/// Code 4 when it is there already, 5 naming what could not be made; nothing is left then.
pub fn create(conf: &VhostUser, link: &Link) -> Result<(), CniError> {
    let folder = folder(conf, link);
    let _lock = lock()?;
    fs::create_dir_all(&conf.path).map_err(failed(&conf.path))?;
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let why = format!("{} is there already", folder.display());
            return Err(bad("CNI_CONTAINERID", link.container_id(), &why)
                .details("DEL the attachment first"));
        }
        made => made.map_err(failed(&folder))?,
    }
    let mode = match conf.mode {
        SocketMode::Server => 0o750,
        SocketMode::Client => 0o770,
    };
    fs::write(owner_file(conf, &link.host), link.alias())
        .and_then(|()| chown(&folder, None, conf.gid))
        .and_then(|()| fs::set_permissions(&folder, Permissions::from_mode(mode)))
        .map_err(|e| {
            let _ = remove(conf, &link.host);
            CniError::io(folder.display(), &e)
        })
}

/// Whose a folder is. One whose making was cut short says nothing.
fn owner(conf: &VhostUser, name: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(owner_file(conf, name)) {
        Ok(owner) => Ok(Some(owner)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes an attachment's folder; none is fine, and one of another attachment stays.
///
/// # Errors
/// Code 5 naming what could not be removed.
pub fn delete(conf: &VhostUser, link: &Link) -> Result<(), CniError> {
    let folder = folder(conf, link);
    match owner(conf, &link.host).map_err(failed(&folder))? {
        Some(owner) if owner != link.alias() => Ok(()),
        _ => remove(conf, &link.host),
    }
}

/// Takes everything of an attachment back, but for the file with device information, which is its reader's to remove.
///
/// # Errors
/// Code 5 naming what could not be removed.
pub fn part(conf: &VhostUser, link: &Link) -> Result<(), CniError> {
    let done = [delete_dan(conf, link), delete(conf, link)];
    CniError::all(done.into_iter().filter_map(Result::err).collect())
}

/// Removes a folder by its name, then what says whose it was.
///
/// # Errors
/// Code 5 naming what could not be removed.
pub fn remove(conf: &VhostUser, name: &str) -> Result<(), CniError> {
    let (folder, owner) = (conf.path.join(name), owner_file(conf, name));
    let unless_gone = |removed: io::Result<()>, path: &Path| match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(CniError::io(path.display(), &e)),
        _ => Ok(()),
    };
    unless_gone(fs::remove_dir_all(&folder), &folder)?;
    unless_gone(fs::remove_file(&owner), &owner)
}

/// Folders of a network, and those whose making was cut short.
///
/// # Errors
/// Code 5 when they cannot be listed.
pub fn list(conf: &VhostUser, network: &str) -> Result<Vec<String>, CniError> {
    let _lock = lock()?;
    let entries = match fs::read_dir(&conf.path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed(&conf.path))?,
    };
    let ours = crate::attach::alias_of(network, "");
    let mut names = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(failed(&conf.path))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Either may be left of both.
        let name = name.strip_suffix(OWNER).unwrap_or(&name);
        if !is_host_name(name) {
            continue;
        }
        let owner = owner(conf, name).map_err(failed(&conf.path))?;
        if owner.is_none_or(|owner| owner.starts_with(&ours)) {
            names.insert(name.to_owned());
        }
    }
    Ok(names.into_iter().collect())
}

/// Compares an attachment's folder with what ADD made.
///
/// # Errors
/// Code 102 naming what differs.
pub fn check(conf: &VhostUser, link: &Link, socket_path: Option<&str>) -> Result<(), CniError> {
    let differs = |msg: String| Err(CniError::new(Code::Differs, msg));
    let folder = folder(conf, link);
    let owner = owner(conf, &link.host).map_err(failed(&folder))?;
    if owner.as_ref() != Some(&link.alias()) || !folder.is_dir() {
        return differs(format!("{} is not this attachment's", folder.display()));
    }
    let socket = socket(conf, link);
    match socket_path.filter(|path| Path::new(path) != socket) {
        Some(path) => differs(format!(
            "prevResult has the socket {path}, not {}",
            socket.display()
        )),
        None => Ok(()),
    }
}

/// Writes a file that nobody sees half written.
fn write(path: &Path, value: &Value) -> Result<(), CniError> {
    let parent = path.parent().unwrap_or(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = parent.join(format!(".{name}.new"));
    let put = || {
        fs::create_dir_all(parent)?;
        let mut file = fs::File::create(&new)?;
        file.write_all(value.to_string().as_bytes())?;
        fs::rename(&new, path)
    };
    put().map_err(|e| {
        let _ = fs::remove_file(&new);
        CniError::io(path.display(), &e)
    })
}

/// Tells the pod's side of its device (`CNIDeviceInfoFile`), in that side's words: it is the client where podswitchd listens.
///
/// # Errors
/// Code 5 naming the file.
pub fn write_device_info(conf: &VhostUser, link: &Link, file: &Path) -> Result<(), CniError> {
    let mode = match conf.mode {
        SocketMode::Server => "client",
        SocketMode::Client => "server",
    };
    let device = json!({"mode": mode, "path": socket(conf, link)});
    let info = json!({"type": "vhost-user", "version": DEVICE_INFO, "vhost-user": device});
    write(file, &info)
}

fn dan_file(folder: &Path, link: &Link) -> PathBuf {
    folder.join(format!("{}.json", link.container_id()))
}

/// Devices of a sandbox's other attachments.
fn other_devices(file: &Path, link: &Link) -> io::Result<Vec<Value>> {
    let bytes = match fs::read(file) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        read => read?,
    };
    let whole: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let mut devices = whole["devices"].as_array().cloned().unwrap_or_default();
    devices.retain(|device| device["name"] != link.ifname());
    Ok(devices)
}

/// Tells Kata Containers of a sandbox's device (Directly Attachable Network: `dan_conf` of its configuration, and there `SANDBOX.json`), beside those of
/// its other attachments.
///
/// # Errors
/// Code 5 naming the file.
pub fn write_dan(conf: &VhostUser, link: &Link, plan: &Plan, mac: [u8; 6]) -> Result<(), CniError> {
    let Some(folder) = &conf.dan else {
        return Ok(());
    };
    let file = dan_file(folder, link);
    let _lock = lock()?;
    let mut devices = other_devices(&file, link).map_err(failed(&file))?;
    devices.push(dan_device(conf, link, plan, mac));
    write(&file, &json!({"netns": link.netns(), "devices": devices}))
}

fn dan_device(conf: &VhostUser, link: &Link, plan: &Plan, mac: [u8; 6]) -> Value {
    let addresses = plan.addresses.iter().map(|a| IpNet::from(*a).to_string());
    // Over IPv4 the gateway is on no subnet of the pod's: first the way to it.
    let v4 = plan.addresses.iter().any(std::net::IpAddr::is_ipv4);
    let on_link = v4
        .then(|| json!({"dest": IpNet::from(plan.gateway(true)).to_string(), "scope": SCOPE_LINK}));
    let route = |r: &PodRoute| {
        let gateway = plan.gateway(r.dst.addr().is_ipv4());
        let mut route = json!({"dest": r.dst.to_string(), "gateway": gateway.to_string()});
        if let Some(mtu) = r.mtu {
            route["mtu"] = mtu.into();
        }
        route
    };
    let all = plan.all_routes();
    let routes = on_link.into_iter().chain(all.iter().map(route));
    json!({
        "name": link.ifname(),
        "guest_mac": podswitch_api::MacAddr(mac).to_string(),
        "device": {"type": "vhost-user", "path": socket(conf, link), "queue_num": conf.queues},
        "network_info": {
            "interface": {"ip_addresses": addresses.collect::<Vec<_>>(), "mtu": plan.mtu},
            "routes": routes.collect::<Vec<_>>(),
        },
    })
}

/// Takes an attachment's device out of what Kata Containers is told, and the file with the last one.
///
/// # Errors
/// Code 5 naming the file.
pub fn delete_dan(conf: &VhostUser, link: &Link) -> Result<(), CniError> {
    let Some(folder) = &conf.dan else {
        return Ok(());
    };
    let file = dan_file(folder, link);
    let _lock = lock()?;
    let devices = other_devices(&file, link).map_err(failed(&file))?;
    if !devices.is_empty() {
        return write(&file, &json!({"netns": link.netns(), "devices": devices}));
    }
    match fs::remove_file(&file) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(CniError::io(file.display(), &e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::conf::NetConf;
    use crate::invocation::{Command, Invocation};

    struct Bed {
        dir: tempfile::TempDir,
        guest: VhostUser,
    }

    impl Bed {
        fn new() -> Bed {
            let dir = tempfile::tempdir().unwrap();
            let guest = VhostUser {
                path: dir.path().join("v"),
                dan: Some(dir.path().join("dans")),
                ..VhostUser::default()
            };
            Bed { dir, guest }
        }

        fn link(&self, network: &str, container: &str, ifname: &str) -> Link {
            let conf = json!({"cniVersion": "1.1.0", "name": network, "type": "podswitch"});
            let conf = NetConf::parse(conf.to_string().as_bytes(), Command::Add).unwrap();
            let vars = [
                ("CNI_COMMAND", "ADD"),
                ("CNI_CONTAINERID", container),
                ("CNI_NETNS", "/run/netns/x"),
                ("CNI_IFNAME", ifname),
            ];
            let var = |n: &str| {
                vars.iter()
                    .find(|(k, _)| *k == n)
                    .map(|(_, v)| (*v).to_owned())
            };
            Link::of(&conf, &Invocation::read(var).unwrap())
        }
    }

    fn plan() -> Plan {
        Plan {
            mtu: 1400,
            mac: None,
            addresses: ["10.0.0.5", "fd00::5"].map(|a| a.parse().unwrap()).to_vec(),
            gateway_v4: "169.254.1.1".parse().unwrap(),
            gateway_v6: "fe80::1".parse().unwrap(),
            routes: Vec::new(),
        }
    }

    #[test]
    fn a_folder_is_its_attachments_alone() {
        let bed = Bed::new();
        let (one, two) = (
            bed.link("pods", "c1", "eth0"),
            bed.link("pods", "c2", "eth0"),
        );
        create(&bed.guest, &one).unwrap();
        let there = create(&bed.guest, &one).unwrap_err();
        assert!(there.code == 4 && there.msg.contains(&one.host), "{there}");
        create(&bed.guest, &two).unwrap();
        check(&bed.guest, &one, None).unwrap();
        let socket = socket(&bed.guest, &one);
        check(&bed.guest, &one, socket.to_str()).unwrap();
        let differs = check(&bed.guest, &one, Some("/elsewhere")).unwrap_err();
        assert!(
            differs.code == 102 && differs.msg.contains("/elsewhere"),
            "{differs}"
        );
        // With the socket that podswitchd, or the pod, has left.
        let _listener = UnixListener::bind(&socket).unwrap();
        delete(&bed.guest, &one).unwrap();
        delete(&bed.guest, &one).unwrap();
        assert_eq!(check(&bed.guest, &one, None).unwrap_err().code, 102);
        check(&bed.guest, &two, None).unwrap();
        // One that has the name by chance stays.
        let by_chance = bed.guest.path.join(&one.host);
        fs::create_dir(&by_chance).unwrap();
        fs::write(owner_file(&bed.guest, &one.host), "podswitch:pods:c9:eth0").unwrap();
        delete(&bed.guest, &one).unwrap();
        assert!(by_chance.exists());
    }

    #[test]
    fn folders_of_a_network_are_listed_and_those_cut_short() {
        let bed = Bed::new();
        assert!(list(&bed.guest, "pods").unwrap().is_empty());
        let (one, two) = (
            bed.link("pods", "c1", "eth0"),
            bed.link("other", "c2", "eth0"),
        );
        create(&bed.guest, &one).unwrap();
        create(&bed.guest, &two).unwrap();
        let short = "psw0123456789ab";
        fs::create_dir(bed.guest.path.join(short)).unwrap();
        fs::create_dir(bed.guest.path.join("foreign")).unwrap();
        let all = list(&bed.guest, "pods").unwrap();
        let mut expected = vec![one.host.clone(), short.to_owned()];
        expected.sort();
        assert_eq!(all, expected);
        remove(&bed.guest, &one.host).unwrap();
        assert_eq!(list(&bed.guest, "pods").unwrap(), [short]);
        // Cut short between the two.
        fs::write(owner_file(&bed.guest, &one.host), one.alias()).unwrap();
        assert_eq!(list(&bed.guest, "pods").unwrap().len(), 2);
        delete(&bed.guest, &one).unwrap();
        assert_eq!(list(&bed.guest, "pods").unwrap(), [short]);
    }

    #[test]
    fn where_the_pod_listens_it_may_make_the_socket() {
        let bed = Bed::new();
        let link = bed.link("pods", "c1", "eth0");
        for (mode, bits, word) in [
            (SocketMode::Server, 0o750, "client"),
            (SocketMode::Client, 0o770, "server"),
        ] {
            let guest = VhostUser {
                mode,
                ..bed.guest.clone()
            };
            create(&guest, &link).unwrap();
            let folder = fs::metadata(guest.path.join(&link.host)).unwrap();
            assert_eq!(folder.permissions().mode() & 0o777, bits);
            // In a folder that is not there yet.
            let file = bed.dir.path().join("devinfo/cni/x");
            write_device_info(&guest, &link, &file).unwrap();
            let told: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            let path = socket(&guest, &link);
            let expected = json!({"type": "vhost-user", "version": "1.1.0",
                "vhost-user": {"mode": word, "path": path}});
            assert_eq!(told, expected);
            delete(&guest, &link).unwrap();
        }
    }

    /// A pod that may write in its folder has no say in what becomes of it.
    #[test]
    fn what_a_pod_puts_into_its_folder_goes_with_it() {
        let bed = Bed::new();
        let guest = VhostUser {
            mode: SocketMode::Client,
            ..bed.guest.clone()
        };
        let link = bed.link("pods", "c1", "eth0");
        create(&guest, &link).unwrap();
        let folder = guest.path.join(&link.host);
        let outside = bed.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        fs::write(folder.join("owner"), "podswitch:other:c9:eth0").unwrap();
        std::os::unix::fs::symlink(&outside, folder.join("out")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.join("vhost.sock")).unwrap();
        check(&guest, &link, None).unwrap();
        assert_eq!(list(&guest, "pods").unwrap().join(" "), link.host);
        delete(&guest, &link).unwrap();
        assert!(!folder.exists() && outside.join("kept").exists());
    }

    #[test]
    fn kata_is_told_of_every_attachment_of_a_sandbox() {
        let bed = Bed::new();
        let file = bed.dir.path().join("dans/c1.json");
        let (first, second) = (
            bed.link("pods", "c1", "eth0"),
            bed.link("more", "c1", "net1"),
        );
        for link in [&first, &second, &first] {
            write_dan(&bed.guest, link, &plan(), [2, 0, 0, 0, 0, 9]).unwrap();
        }
        let told = || -> Value { serde_json::from_slice(&fs::read(&file).unwrap()).unwrap() };
        assert_eq!(told()["netns"], "/run/netns/x");
        let names: Vec<Value> = told()["devices"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| d["name"].clone())
            .collect();
        assert_eq!(names, ["net1", "eth0"]);
        let expected = json!({
            "name": "eth0", "guest_mac": "02:00:00:00:00:09",
            "device": {"type": "vhost-user", "path": socket(&bed.guest, &first), "queue_num": 1},
            "network_info": {
                "interface": {"ip_addresses": ["10.0.0.5/32", "fd00::5/128"], "mtu": 1400},
                "routes": [{"dest": "169.254.1.1/32", "scope": 253}, {"dest": "0.0.0.0/0", "gateway": "169.254.1.1"},
                    {"dest": "::/0", "gateway": "fe80::1"}],
            },
        });
        assert_eq!(told()["devices"][1], expected);
        delete_dan(&bed.guest, &first).unwrap();
        assert_eq!(told()["devices"].as_array().unwrap().len(), 1);
        delete_dan(&bed.guest, &second).unwrap();
        delete_dan(&bed.guest, &second).unwrap();
        assert!(!file.exists());
    }
}

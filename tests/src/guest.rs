// SPDX-License-Identifier: Apache-2.0
//! A machine of its own, without hardware help (QEMU's TCG): Debian's kernel, and NICs whose wires end in a namespace of the test, or at a port of a
//! switch by vhost-user. Its shell takes commands from the test over a serial line.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::initramfs::Initramfs;
use crate::netns::Netns;
use crate::programs::{Running, bin_dir, compile_static, run, target_dir};
use crate::wait::{HUNG, poll};

/// Modules of the kernel that a switch on a virtio NIC and in a VLAN needs, each after those it needs itself. What is not there the kernel has built in.
const MODULES: [&str; 16] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "drivers/net/veth",
    "net/llc/llc",
    "net/802/stp",
    "net/802/garp",
    "net/802/mrp",
    "net/8021q/8021q",
    "net/sched/sch_ingress",
    "net/sched/cls_bpf",
];
/// Commands of BusyBox that the test and the first process use.
const APPLETS: [&str; 14] = [
    "cat", "dmesg", "insmod", "kill", "mkdir", "mount", "ping", "ping6", "sleep", "stty",
    "timeout", "uname", "grep", "taskset",
];
/// The serial line with the shell.
const SHELL: &str = "/dev/ttyS1";
/// What ends the output of a command, before its status.
const END: &str = "=end of output=";

/// The first process: makes the system usable, then runs one line after another and says what came of it.
fn init(kernel: &Kernel) -> String {
    let release = &kernel.release;
    let modules = kernel
        .modules()
        .map(|(name, _)| format!("insmod /lib/modules/{release}/{name}"));
    let modules: Vec<String> = modules.collect();
    format!(
        "#!/bin/sh\n\
         export PATH=/usr/sbin:/bin\n\
         mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs run /run\n\
         mount -t tmpfs tmp /tmp; mkdir -p /sys/fs/cgroup; mount -t cgroup2 groups /sys/fs/cgroup\n\
         {}\n\
         ip link set lo up\n\
         stty -F {SHELL} raw -echo\n\
         exec <{SHELL} >{SHELL} 2>&1\n\
         printf '{END}0\\n'\n\
         while IFS= read -r line; do\n\
         (eval \"$line\") </dev/null\n\
         printf '\\n{END}%d\\n' $?\n\
         done\n",
        modules.join("\n")
    )
}

/// Echoes what comes over TCP to a port (`echo PORT`), or sends bytes to one that does and compares them (`echo ADDRESS PORT BYTES`).
const ECHO: &str = r#"
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [port] = &words[..] {
        let listener = TcpListener::bind(("::", port.parse().unwrap())).unwrap();
        for stream in listener.incoming() {
            let mut from = stream.unwrap();
            let mut to = from.try_clone().unwrap();
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        }
    }
    let bytes: Vec<u8> = (0..words[2].parse::<u32>().unwrap()).map(|i| (i >> 3) as u8).collect();
    let mut stream = TcpStream::connect((words[0].as_str(), words[1].parse().unwrap())).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sent = bytes.clone();
    std::thread::spawn(move || writer.write_all(&sent));
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap();
    assert!(back == bytes, "other bytes came back");
}
"#;

/// Where the frames of a guest's NIC go.
#[derive(Debug, Clone)]
pub enum Wire {
    /// To a tap device of this name in the namespace.
    Tap(&'static str),
    /// To who listens on this socket, by vhost-user; when that ends, QEMU connects to the next.
    VhostUser(PathBuf),
}

/// A NIC of the guest.
#[derive(Debug)]
pub struct GuestNic {
    /// Where its frames go.
    pub wire: Wire,
    /// The NIC's MAC address.
    pub mac: &'static str,
    /// How many pairs of queues it has.
    pub queues: u32,
    /// More of QEMU's properties of the device, each with a comma before it.
    pub properties: &'static str,
}

/// Whose kernel a guest has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Suite {
    /// That of the Debian that this machine has.
    Own,
    /// The newest that `scripts/install` finds.
    Newer,
}

/// What a guest is made of.
#[derive(Debug, Clone, Copy)]
struct Build {
    suite: Suite,
    cpus: u32,
    mebibytes: u32,
    /// It has podswitch's programs.
    programs: bool,
}

/// A running guest; ended when dropped, and its console is printed if the test is failing.
#[derive(Debug)]
pub struct Guest {
    // Declared, so dropped, in this order.
    shell: BufReader<UnixStream>,
    running: Running,
    dir: TempDir,
    release: String,
    build: Build,
}

impl Guest {
    /// Boots one with podswitch's programs and waits for its shell.
    ///
    /// # Panics
    /// If QEMU or the guest's kernel are missing, or it does not boot.
    #[track_caller]
    pub fn boot(suite: Suite, wire: &Netns, nics: &[GuestNic]) -> Guest {
        let build = Build {
            suite,
            cpus: 2,
            mebibytes: 512,
            programs: true,
        };
        Guest::boot_build(build, wire, nics)
    }

    /// Boots a small one that is a pod, and waits for its shell.
    ///
    /// # Panics
    /// As [`Guest::boot`].
    #[track_caller]
    pub fn boot_pod(wire: &Netns, nics: &[GuestNic]) -> Guest {
        let build = Build {
            suite: Suite::Own,
            cpus: 1,
            mebibytes: 192,
            programs: false,
        };
        Guest::boot_build(build, wire, nics)
    }

    #[track_caller]
    fn boot_build(build: Build, wire: &Netns, nics: &[GuestNic]) -> Guest {
        let begun = Instant::now();
        let dir = tempfile::Builder::new().prefix("pst-guest").tempdir();
        let dir = dir.expect("a temporary folder");
        let kernel = Kernel::find(build.suite);
        let archive = archive(&kernel, build.programs, dir.path());
        std::fs::write(dir.path().join("initrd"), archive).expect("initramfs");
        let mut guest = Guest::start(build, wire, nics, kernel, dir, None);
        let (status, said) = guest.answer();
        assert_eq!(status, 0, "{said}");
        println!("the guest is there after {:.1?}", begun.elapsed());
        guest
    }

    /// Starts QEMU, which waits for another one to come over this socket, if there is one.
    #[track_caller]
    fn start(
        build: Build,
        wire: &Netns,
        nics: &[GuestNic],
        kernel: Kernel,
        dir: TempDir,
        incoming: Option<&Path>,
    ) -> Guest {
        let mut running = start(build, wire, nics, &kernel, dir.path(), incoming);
        let shell = line(&mut running, dir.path(), "shell");
        Guest {
            shell: BufReader::new(shell),
            running,
            dir,
            release: kernel.release,
            build,
        }
    }

    /// Moves it to another QEMU with these NICs, while it runs. This one has stopped then.
    ///
    /// # Panics
    /// When QEMU does not move it.
    #[track_caller]
    pub fn move_to(mut self, wire: &Netns, nics: &[GuestNic]) -> Guest {
        let dir = tempfile::Builder::new().prefix("pst-guest").tempdir();
        let dir = dir.expect("a temporary folder");
        let initrd = std::fs::copy(self.dir.path().join("initrd"), dir.path().join("initrd"));
        initrd.expect("initramfs");
        let socket = dir.path().join("incoming");
        let kernel = Kernel::find(self.build.suite);
        let moved = Guest::start(self.build, wire, nics, kernel, dir, Some(&socket));
        poll(HUNG, || socket.exists().then_some(())).expect("QEMU listens for the guest");
        let monitor = line(&mut self.running, self.dir.path(), "monitor");
        let mut monitor = Monitor::new(monitor);
        let uri = format!("unix:{}", socket.display());
        monitor.execute("migrate", &json!({"uri": uri}));
        let ended = poll(2 * HUNG, || {
            let state = monitor.execute("query-migrate", &json!({}));
            let ended = matches!(state["status"].as_str(), Some("completed" | "failed"));
            ended.then_some(state)
        });
        let state = ended.expect("QEMU has moved the guest");
        assert_eq!(state["status"], "completed", "{state}");
        moved
    }

    /// Release of its kernel, by the name of the file.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Runs a line in its shell: the status, and everything that was printed.
    #[track_caller]
    pub fn try_run(&mut self, line: &str) -> (i32, String) {
        assert!(!line.contains('\n'), "one line at a time");
        let sent = self
            .shell
            .get_mut()
            .write_all(format!("{line}\n").as_bytes());
        sent.expect("the guest's serial line");
        self.answer()
    }

    /// The same with a line that must succeed.
    #[track_caller]
    pub fn run(&mut self, line: &str) -> String {
        let (status, said) = self.try_run(line);
        assert_eq!(status, 0, "in the guest: {line}\n{said}");
        said
    }

    /// Runs a line again and again until it succeeds.
    #[track_caller]
    pub fn eventually(&mut self, line: &str) -> String {
        let mut last = String::new();
        let found = poll(HUNG, || {
            let (status, said) = self.try_run(line);
            last.clone_from(&said);
            (status == 0).then_some(said)
        });
        found.unwrap_or_else(|| panic!("in the guest, never: {line}\n{last}"))
    }

    #[track_caller]
    fn answer(&mut self) -> (i32, String) {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            let length = self.shell.read_line(&mut line);
            let length = length.unwrap_or_else(|e| panic!("the guest is silent: {e}; {said}"));
            if length == 0 {
                let status = self.running.wait(HUNG);
                panic!("the guest ended, QEMU with status {status}; it said {said}");
            }
            if let Some(status) = line.trim_end().strip_prefix(END) {
                let status = status.parse().expect("a status");
                return (status, said.trim().to_owned());
            }
            said.push_str(&line);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the guest's console\n{}----", console(self.dir.path()));
        }
    }
}

/// Connects to a socket of QEMU's.
#[track_caller]
fn line(running: &mut Running, dir: &Path, name: &str) -> UnixStream {
    let socket = dir.join(name);
    let stream = poll(HUNG, || {
        let ended = running.ended();
        assert!(ended.is_none(), "QEMU ended: {}", console(dir));
        UnixStream::connect(&socket).ok()
    });
    let stream = stream.unwrap_or_else(|| panic!("QEMU does not open {name}"));
    let timeout = stream.set_read_timeout(Some(2 * HUNG));
    timeout.expect("a read timeout");
    stream
}

/// QEMU's machine protocol (docs/interop/qmp-spec.rst of QEMU).
struct Monitor(BufReader<UnixStream>);

impl Monitor {
    #[track_caller]
    fn new(stream: UnixStream) -> Monitor {
        let mut monitor = Monitor(BufReader::new(stream));
        monitor.execute("qmp_capabilities", &json!({}));
        monitor
    }

    /// Runs a command: what it returns.
    #[track_caller]
    fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        let request = json!({"execute": command, "arguments": arguments});
        let sent = writeln!(self.0.get_mut(), "{request}");
        sent.expect("QEMU's monitor");
        loop {
            let mut line = String::new();
            let length = self.0.read_line(&mut line);
            assert!(length.expect("QEMU's monitor") > 0, "QEMU has ended");
            let mut said: Value = serde_json::from_str(&line).expect("JSON");
            assert!(said.get("error").is_none(), "{command}: {said}");
            // It also says what happens, and greets.
            if let Some(returned) = said.get_mut("return") {
                return returned.take();
            }
        }
    }
}

fn console(dir: &Path) -> String {
    let read = |name| std::fs::read(dir.join(name)).unwrap_or_default();
    let all = [read("console"), read("qemu")].concat();
    String::from_utf8_lossy(&all).into_owned()
}

/// A kernel that scripts/install has unpacked, beside what cargo builds.
struct Kernel {
    release: String,
    image: PathBuf,
    folder: PathBuf,
}

impl Kernel {
    #[track_caller]
    fn find(suite: Suite) -> Kernel {
        let root = target_dir().join(match suite {
            Suite::Own => "guest",
            Suite::Newer => "guest-newer",
        });
        let boot = std::fs::read_dir(root.join("boot")).into_iter().flatten();
        let mut images: Vec<PathBuf> = boot.flatten().map(|e| e.path()).collect();
        images.sort();
        let newest = images.pop();
        let image = newest.unwrap_or_else(|| {
            panic!(
                "no kernel in {}: run 'scripts/install test'",
                root.display()
            )
        });
        let name = image.file_name().unwrap_or_default().to_string_lossy();
        let release = name.split_once('-').map_or("", |(_, r)| r).to_owned();
        Kernel {
            folder: root.join("lib/modules").join(&release).join("kernel"),
            release,
            image,
        }
    }

    /// Those of [`MODULES`] that are not built in: the name of each, and where it is.
    fn modules(&self) -> impl Iterator<Item = (String, PathBuf)> {
        let files = MODULES.map(|module| {
            let name = module.rsplit('/').next().unwrap_or(module);
            (
                format!("{name}.ko"),
                self.folder.join(format!("{module}.ko")),
            )
        });
        files.into_iter().filter(|(_, file)| file.exists())
    }
}

/// Everything that the guest has.
#[track_caller]
fn archive(kernel: &Kernel, programs: bool, dir: &Path) -> Vec<u8> {
    let mut files = Initramfs::new();
    files.file("init", init(kernel).as_bytes());
    for (name, from) in kernel.modules() {
        let content = std::fs::read(&from);
        let content = content.unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        files.file(format!("lib/modules/{}/{name}", kernel.release), &content);
    }
    files.program("bin/sh", Path::new("/bin/dash"));
    files.program("bin/busybox", &which("busybox"));
    for applet in APPLETS {
        files.link(format!("bin/{applet}"), "busybox");
    }
    for tool in ["ip", "ethtool"] {
        files.program(format!("usr/sbin/{tool}"), &which(tool));
    }
    let ours = ["podswitchd", "podswitchctl", "podswitch-cni"];
    for program in ours.into_iter().filter(|_| programs) {
        // Without what only a debugger reads: it is most of the file.
        let small = dir.join(program);
        let mut strip = Command::new("llvm-strip");
        let strip = strip.arg("-o").arg(&small).arg(bin_dir().join(program));
        run(strip, b"", HUNG).success("llvm-strip");
        files.program(format!("usr/sbin/{program}"), &small);
    }
    let echo = dir.join("echo");
    compile_static(dir, ECHO, &echo);
    files.file("usr/sbin/tcp-echo", &std::fs::read(echo).expect("tcp-echo"));
    files.finish()
}

#[track_caller]
fn which(tool: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(tool));
    found
        .chain([Path::new("/usr/sbin").join(tool)])
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{tool} is missing: run 'scripts/install test'"))
}

fn start(
    build: Build,
    wire: &Netns,
    nics: &[GuestNic],
    kernel: &Kernel,
    dir: &Path,
    incoming: Option<&Path>,
) -> Running {
    let mut qemu = wire.command("qemu-system-x86_64");
    // Hardware acceleration is not for every test machine. One thread runs both processors in turn: with one for each, code that a kernel patches while
    // another processor executes it (static calls, as XDP programs come and go) was now and then run as it had been in between, and the kernel died of its int3.
    qemu.args([
        "-accel",
        "tcg,thread=single",
        "-cpu",
        "max",
        "-smp",
        &build.cpus.to_string(),
        "-m",
        &build.mebibytes.to_string(),
    ]);
    // Whoever serves its queues has its memory, too.
    let memory = format!(
        "memory-backend-memfd,id=memory,size={}M,share=on",
        build.mebibytes
    );
    qemu.args(["-object", &memory, "-machine", "memory-backend=memory"]);
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]);
    qemu.arg("-kernel").arg(&kernel.image);
    qemu.arg("-initrd").arg(dir.join("initrd"));
    qemu.args(["-append", "console=ttyS0 panic=-1 quiet mitigations=off"]);
    let file = |name: &str| dir.join(name).display().to_string();
    qemu.args(["-serial", &format!("file:{}", file("console"))]);
    let line = format!("socket,id=shell,path={},server=on,wait=off", file("shell"));
    qemu.args(["-chardev", &line, "-serial", "chardev:shell"]);
    let monitor = format!("unix:{},server=on,wait=off", file("monitor"));
    qemu.args(["-qmp", &monitor]);
    if let Some(socket) = incoming {
        qemu.args(["-incoming", &format!("unix:{}", socket.display())]);
    }
    for (i, nic) in nics.iter().enumerate() {
        let queues = nic.queues;
        let wire = match &nic.wire {
            Wire::Tap(tap) => format!(
                "tap,id=wire{i},ifname={tap},script=no,downscript=no,vhost=off,queues={queues}"
            ),
            Wire::VhostUser(path) => {
                let path = path.display();
                let socket = format!("socket,id=socket{i},path={path},reconnect=1");
                qemu.args(["-chardev", &socket]);
                format!("vhost-user,id=wire{i},chardev=socket{i},queues={queues}")
            }
        };
        let several = match (queues, &nic.wire) {
            // QEMU 7.2 without hardware help follows a null pointer when a guest unmasks an interrupt of a queue that another process serves: all in one, then.
            (1, Wire::VhostUser(_)) => ",vectors=0".to_owned(),
            (_, Wire::VhostUser(_)) => ",mq=on,vectors=0".to_owned(),
            (1, Wire::Tap(_)) => String::new(),
            // An interrupt for each queue of each direction, and two more.
            (_, Wire::Tap(_)) => format!(",mq=on,vectors={}", 2 * queues + 2),
        };
        let device = format!(
            "virtio-net-pci,netdev=wire{i},mac={}{several}{}",
            nic.mac, nic.properties
        );
        qemu.args(["-netdev", &wire, "-device", &device]);
    }
    let log = std::fs::File::create(dir.join("qemu")).expect("QEMU's log");
    qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Running::start(&mut qemu)
}

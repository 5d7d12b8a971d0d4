// SPDX-License-Identifier: Apache-2.0
//! Where programs are, and running them.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::wait::{HUNG, poll};

/// The folder of the repository.
pub fn repository() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .expect("the crate lies in the repository")
        .to_path_buf()
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| repository().join("target"))
}

/// The folder of the programs under test: `PODSWITCH_BIN_DIR`, or `target/release` of the repository.
///
/// # Panics
/// If a program is missing there, with the command that builds it.
pub fn bin_dir() -> PathBuf {
    let dir = match std::env::var_os("PODSWITCH_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => target_dir().join("release"),
    };
    for program in ["podswitchd", "podswitchctl", "podswitch-cni"] {
        let path = dir.join(program);
        assert!(
            path.is_file(),
            "{} is missing: run 'cargo build --release', then the tests again",
            path.display()
        );
    }
    dir
}

/// What a program left behind when it ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Exit status; 128 + signal number if a signal ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ended {
    fn of(output: Output) -> Ended {
        use std::os::unix::process::ExitStatusExt;
        let status = output
            .status
            .code()
            .unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
        Ended {
            status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output of a program that must have succeeded.
    ///
    /// # Panics
    /// If its status is not 0, with all it printed.
    #[track_caller]
    pub fn success(self, what: &str) -> String {
        assert_eq!(
            self.status, 0,
            "{what} failed\nstdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self.stdout
    }
}

/// Runs a command to its end with `stdin` as its input; kills it after `deadline`.
///
/// # Panics
/// If it cannot be started or does not end in time.
#[track_caller]
pub fn run(command: &mut Command, stdin: &[u8], deadline: Duration) -> Ended {
    let shown = format!("{command:?}");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{shown}: {e}"));
    let feed = feed(&mut child, stdin.to_vec());
    let out = drain(child.stdout.take());
    let err = drain(child.stderr.take());
    let Some(status) = poll(deadline, || child.try_wait().expect("wait for a child")) else {
        child.kill().ok();
        child.wait().ok();
        panic!("{shown} did not end within {deadline:?}");
    };
    feed.join().expect("standard input's thread");
    let stdout = out.join().expect("standard output's thread");
    let stderr = err.join().expect("standard error's thread");
    Ended::of(Output {
        status,
        stdout,
        stderr,
    })
}

/// A program that does not read all its input is no error here.
fn feed(child: &mut Child, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
    let mut pipe = child.stdin.take().expect("standard input is a pipe");
    std::thread::spawn(move || {
        let _ = pipe.write_all(&bytes);
    })
}

fn drain<R: Read + Send + 'static>(pipe: Option<R>) -> std::thread::JoinHandle<Vec<u8>> {
    let mut pipe = pipe.expect("an output pipe");
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// A child that is killed when dropped.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Starts the command.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn start(command: &mut Command) -> Running {
        let shown = format!("{command:?}");
        Running(command.spawn().unwrap_or_else(|e| panic!("{shown}: {e}")))
    }

    /// Process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a process id fits i32")
    }

    /// Sends a signal; a process that has ended already is no error. After SIGSTOP each of its threads stands:
    /// `kill` itself returns while those on other processors still run.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        let pid = nix::unistd::Pid::from_raw(self.pid());
        let sent = nix::sys::signal::kill(pid, signal);
        if signal == nix::sys::signal::Signal::SIGSTOP && sent.is_ok() {
            let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            waitid(Id::Pid(pid), flags).expect("a child that stops or has ended");
        }
    }

    /// The exit status if it has ended: its code, or 128 + signal number.
    pub fn ended(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        let status = self.0.try_wait().expect("wait for a child")?;
        Some(
            status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        )
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// After `deadline`.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> i32 {
        poll(deadline, || self.ended())
            .unwrap_or_else(|| panic!("process {} did not end within {deadline:?}", self.pid()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Compiles a program without any shared library, so that it needs no other file where it runs.
///
/// # Panics
/// If rustc is missing or fails.
#[track_caller]
pub fn compile_static(dir: &Path, text: &str, program: &Path) {
    let source = program.file_name().expect("a program's name");
    let source = dir.join(source).with_extension("rs");
    std::fs::write(&source, text).expect("the program's source");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--edition", "2024", "-C", "target-feature=+crt-static"]);
    command.args(["-C", "panic=abort", "-C", "opt-level=s"]);
    command.args(["-C", "strip=symbols", "-o"]);
    command.arg(program).arg(&source);
    run(&mut command, b"", 4 * HUNG).success("rustc");
}

/// An XDP program of somebody else's, that lets everything pass.
const FOREIGN: &str = r#"
__attribute__((section("xdp"), used)) int foreign(void *context) { return 2; }
char licence[] __attribute__((section("license"), used)) = "Dual BSD/GPL";
"#;

/// Compiles an XDP program that is not podswitch's into a folder; returns the object file, with the program in section `xdp`.
///
/// # Panics
/// If clang is missing or fails.
#[track_caller]
pub fn foreign_program(dir: &Path) -> PathBuf {
    let (source, object) = (dir.join("foreign.c"), dir.join("foreign.o"));
    std::fs::write(&source, FOREIGN).expect("write the program's source");
    let mut clang = Command::new("clang");
    clang
        .args(["-target", "bpf", "-O2", "-g", "-c", "-o"])
        .arg(&object)
        .arg(&source);
    run(&mut clang, b"", HUNG).success("clang");
    object
}

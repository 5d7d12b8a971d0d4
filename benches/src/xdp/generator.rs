// SPDX-License-Identifier: Apache-2.0
//! Sends frames from pods as fast as a core can.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use podswitch_host::bpf::{self, Instruction, ProgramType};
use podswitch_host::netns::{self, Netns};

/// Frames sent from a pod by one system call.
const BURST: u32 = 1 << 17;
/// Threads that send from a pod: the kernel takes some 25 ms to take a run's pages apart, in which another one sends.
const THREADS: usize = 2;

/// Which group of pods sends; none when it is neither's number.
pub(crate) const QUIET: usize = usize::MAX;

/// Threads that send from the pods of one of two groups.
pub(crate) struct Generator {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    sending: AtomicUsize,
    sent: AtomicU64,
    stop: AtomicBool,
}

/// A pod that sends: an XDP program, run by the kernel on frames of its own making, gives each the source port of one
/// of its flows by chance and sends it out of the pod's end of the veth. No socket and no packet buffer of the stack is
/// on that way, so that one core makes more frames than another can forward.
pub(crate) struct Sender {
    netns: Netns,
    program: OwnedFd,
    frame: Vec<u8>,
}

/// Where things are in an IPv4 UDP datagram without VLAN tag or options.
const SOURCE_PORT: i16 = 34;
const CHECKSUM: usize = 40;

/// Writes one of `flows` source ports from `first` on, and redirects to an interface.
fn program(interface: u32, first: u16, flows: u16) -> [Instruction; 14] {
    use Instruction as I;
    const RANDOM: u32 = 7;
    const REDIRECT: u32 = 23;
    [
        I::any(0xbf, 6, 1, 0, 0),                      // r6 = context
        I::any(0x85, 0, 0, 0, RANDOM),                 // r0 = bpf_get_prandom_u32()
        I::any(0x94, 0, 0, 0, flows.into()),           // w0 %= flows
        I::any(0x04, 0, 0, 0, first.into()),           // w0 += first
        I::any(0xdc, 0, 0, 0, 16),                     // r0 = be16(r0)
        I::any(0x61, 2, 6, 0, 0),                      // r2 = context->data
        I::any(0x61, 3, 6, 4, 0),                      // r3 = context->data_end
        I::any(0x07, 2, 0, 0, SOURCE_PORT as u32 + 2), // r2 += 36
        I::any(0x2d, 2, 3, 4, 0),                      // if r2 > r3, end
        I::any(0x6b, 2, 0, -2, 0),                     // *(u16 *)(r2 - 2) = r0
        I::any(0xb7, 1, 0, 0, interface),              // r1 = interface
        I::any(0xb7, 2, 0, 0, 0),                      // r2 = 0
        I::any(0x85, 0, 0, 0, REDIRECT),               // r0 = bpf_redirect(r1, r2)
        I::exit(),
    ]
}

impl Sender {
    /// Sends `frame` out of an interface of a namespace, as one of `flows` flows that differ by source port.
    ///
    /// # Panics
    /// When the kernel does not take the program.
    pub(crate) fn open(
        namespace: &Netns,
        interface: u32,
        mut frame: Vec<u8>,
        flows: u16,
    ) -> Sender {
        let at = SOURCE_PORT as usize;
        let first = u16::from_be_bytes([frame[at], frame[at + 1]]);
        // None, since the program changes what it covers (RFC 768).
        frame[CHECKSUM..CHECKSUM + 2].fill(0);
        let program = program(interface, first, flows);
        Sender {
            netns: netns::open(namespace.path()).expect("the pod's namespace"),
            program: bpf::load(ProgramType::Xdp, "podswitch_bench", &program)
                .expect("the generator's program"),
            frame,
        }
    }

    /// Sends a burst; how many frames that is.
    fn burst(&self) -> u64 {
        let inside = self.netns.enter().expect("the pod's namespace");
        bpf::run_on_frames(self.program.as_fd(), &self.frame, BURST)
            .expect("live frames (Linux 5.18)");
        drop(inside);
        BURST.into()
    }
}

impl Generator {
    /// Threads on `core` for groups of senders; they are quiet at first.
    ///
    /// # Panics
    /// When there is no thread to be had.
    pub(crate) fn start(core: core_affinity::CoreId, groups: Vec<Vec<Sender>>) -> Generator {
        let shared = Arc::new(Shared {
            sending: AtomicUsize::new(QUIET),
            sent: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let mut threads = Vec::new();
        for (group, senders) in groups.into_iter().enumerate() {
            for sender in senders.into_iter().map(Arc::new) {
                for _ in 0..THREADS {
                    let (sender, shared) = (sender.clone(), shared.clone());
                    let thread = std::thread::Builder::new().name("generator".into());
                    let work = move || {
                        core_affinity::set_for_current(core);
                        shared.send(group, &sender);
                    };
                    threads.push(thread.spawn(work).expect("a thread"));
                }
            }
        }
        Generator { shared, threads }
    }

    /// Lets a group send, or with [`QUIET`] none.
    pub(crate) fn send_from(&self, group: usize) {
        self.shared.sending.store(group, Ordering::Relaxed);
        self.threads.iter().for_each(|t| t.thread().unpark());
    }

    /// Frames sent so far, counted when a system call ends.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn send(&self, group: usize, sender: &Sender) {
        while !self.stop.load(Ordering::Relaxed) {
            if self.sending.load(Ordering::Relaxed) == group {
                self.sent.fetch_add(sender.burst(), Ordering::Relaxed);
            } else {
                std::thread::park();
            }
        }
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A panic in it was printed.
            let _ = thread.join();
        }
    }
}

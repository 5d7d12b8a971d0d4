// SPDX-License-Identifier: Apache-2.0
//! A frontend that says anything to a port. Input: a byte that chooses how it begins and ends, then steps: messages with descriptors of every kind, bytes that are no
//! message, and what a guest does meanwhile.
#![no_main]
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fs::File;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use podswitch_datapath::port::vhost::{feature, vhost_device};
use podswitch_vhost::Direct;

use driver::{Guest, WRITE};
use frontend::{Frontend, Machine, message};
use frontend::{INFLIGHT_SHMFD, LOG_SHMFD, MQ, REPLY_ACK, SLOTS, USUAL};
use worker::Worker;

#[allow(dead_code, reason = "written for the tests of the queues themselves")]
#[path = "../../datapath/tests/vhost/driver.rs"]
mod driver;
#[allow(dead_code, reason = "written for the tests of the messages")]
#[path = "../../control/vhost/tests/messages/frontend.rs"]
mod frontend;
#[path = "../../control/vhost/tests/messages/worker.rs"]
mod worker;

/// Pairs of queues of the port.
const PAIRS: u16 = 2;
/// Steps of an input. Their answers fit into the socket, as nobody reads them.
const STEPS: usize = 64;
/// How long a connection may go on behind its frontend: longer than a port waits for anything, shorter than a message that hangs is left alone.
const BOUND: Duration = Duration::from_secs(5);
/// How long other threads may take to let go: the worker, and the one that looks whether messages hang.
const SOON: Duration = Duration::from_secs(1);

/// Bits of the first byte: everything is set up before, with packed queues; the frontend is killed in the end, it does not just say no more.
const BOOTED: u8 = 1;
const PACKED: u8 = 2;
const KILLED: u8 = 4;
/// Steps from these numbers on are no messages.
const BYTES: u8 = 0xe0;
const PACKET: u8 = 0xf0;
const BUFFER: u8 = 0xf4;
const CUT: u8 = 0xf8;
/// Bits of a message's second byte: how many descriptors, and of which kind the first is.
const COUNT: u8 = 3;
const KIND: u8 = 4;
const KINDS: u8 = 8;
/// Descriptors are sent with what follows the header; the message is to be answered.
const LATE: u8 = 0x20;
const ANSWERED: u8 = 0x40;

/// A port, a thread that serves its connections, and one that is its worker.
struct Bed {
    connections: Sender<UnixStream>,
    /// Why each ended, and whether the worker serves something afterwards.
    ends: Receiver<(Option<String>, bool)>,
    _worker: Worker,
}

impl Bed {
    fn new() -> Bed {
        let (handle, device) = vhost_device().expect("eventfds");
        let direct = Direct::new(PAIRS, handle).expect("an eventfd");
        let (connections, streams) = channel();
        let (tell, ends) = channel();
        thread::spawn(move || {
            for stream in streams {
                let why = direct.serve(stream);
                // The worker says so a moment after it has let go of what it served.
                let is_ready = !soon(|| !direct.is_ready());
                let _ = tell.send((why, is_ready));
            }
        });
        let bed = Bed {
            connections,
            ends,
            _worker: Worker::start(device),
        };
        // What is made once and stays is there before descriptors are counted.
        bed.serves(false);
        bed
    }

    fn connect(&self) -> Frontend {
        let (here, there) = UnixStream::pair().expect("a socket");
        self.connections.send(there).expect("a thread");
        Frontend::new(here)
    }

    /// Waits for the end of the connection: why it was ended here, if it was.
    fn end(&self) -> Option<String> {
        let end = self.ends.recv_timeout(BOUND);
        let (why, is_ready) = end.expect("it hangs");
        assert!(!is_ready, "a queue is served that nobody has set up");
        why
    }

    /// A frontend that keeps to the protocol has its frames back.
    fn serves(&self, packed: bool) {
        let mut frontend = self.connect();
        let mut machine = Machine::new(packed);
        boot(&machine, &mut frontend, packed);
        machine.echo(1);
        drop(frontend);
        assert_eq!(self.end(), None, "it was kept to the protocol");
    }

    fn run(&self, choice: u8, mut steps: &[u8]) {
        let before = held();
        let packed = choice & PACKED != 0;
        let mut frontend = self.connect();
        let mut machine = Machine::new(packed);
        if choice & BOOTED != 0 {
            boot(&machine, &mut frontend, packed);
        }
        let files = Files::new(&machine);
        for _ in 0..STEPS {
            if step(&mut steps, &frontend, &mut machine, &files).is_none() {
                break;
            }
        }
        let kept = (choice & KILLED == 0).then_some(frontend);
        if let Some(frontend) = &kept {
            let _ = frontend.stream.shutdown(Shutdown::Write);
        }
        self.end();
        drop((kept, machine, files));
        self.serves(packed);
        let no_more = || held().0 <= before.0 && held().1 <= before.1;
        assert!(soon(no_more), "{before:?}, then {:?}", held());
    }
}

/// Whether something becomes so.
fn soon(is: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !is() {
        if begun.elapsed() > SOON {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Sets everything up, after all that the port offers of the protocol was agreed on.
fn boot(machine: &Machine, frontend: &mut Frontend, packed: bool) {
    let features = USUAL | if packed { feature::RING_PACKED } else { 0 };
    let protocol = REPLY_ACK | MQ | SLOTS | LOG_SHMFD | INFLIGHT_SHMFD;
    frontend.agree(features, protocol);
    machine.begin(frontend, features);
}

/// How many descriptors the process has, and mappings of guests' memory.
fn held() -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("mappings");
    let files = std::fs::read_dir("/proc/self/fd").expect("descriptors");
    (files.count(), maps.matches("/memfd:guest").count())
}

/// What can be sent with a message.
struct Files([OwnedFd; KINDS as usize]);

impl Files {
    fn new(machine: &Machine) -> Files {
        let own = |file: &File| OwnedFd::from(file.try_clone().expect("a descriptor"));
        let open = |path: &str| OwnedFd::from(File::open(path).expect(path));
        let small = Guest::new(4096);
        let empty = Guest::new(4096);
        empty.file.set_len(0).expect("a memfd");
        Files([
            own(&machine.memory.file),
            own(&machine.queues[0].kick),
            own(&machine.queues[1].call),
            own(&small.file),
            own(&empty.file),
            open("/dev/null"),
            // Its pages have to be made by somebody first.
            open("/proc/self/maps"),
            UnixStream::pair().expect("a socket").0.into(),
        ])
    }

    fn chosen(&self, choice: u8) -> Vec<BorrowedFd<'_>> {
        let first = (choice / KIND) % KINDS;
        let all = (first..first + (choice & COUNT)).map(|at| at % KINDS);
        all.map(|at| self.0[usize::from(at)].as_fd()).collect()
    }
}

/// Does the next step; `None` when there is none.
fn step(
    input: &mut &[u8],
    frontend: &Frontend,
    machine: &mut Machine,
    files: &Files,
) -> Option<()> {
    let kind = byte(input)?;
    match kind {
        0..BYTES => {
            let choice = byte(input)?;
            let body = some(input)?;
            let flags = 1 | if choice & ANSWERED != 0 { 8 } else { 0 };
            let whole = message(kind.into(), flags, body);
            let (early, late) = whole.split_at(if choice & LATE != 0 { 12 } else { 0 });
            frontend.send(early, &[]);
            frontend.send(late, &files.chosen(choice));
        }
        BYTES..PACKET => frontend.send(some(input)?, &[]),
        PACKET..BUFFER => offer(machine, 1, 0),
        BUFFER..CUT => offer(machine, 0, WRITE),
        CUT.. => machine.memory.file.set_len(0).expect("a memfd"),
    }
    Some(())
}

/// Makes a buffer available, if there is a descriptor for it.
fn offer(machine: &mut Machine, queue: usize, flags: u16) {
    let (memory, queue) = (&machine.memory, &mut machine.queues[queue]);
    if queue.room() > 0 {
        let part = (memory.region().guest + memory.bytes / 2, 100);
        queue.offer(memory, &[part], flags, None);
    }
}

fn byte(input: &mut &[u8]) -> Option<u8> {
    let (first, rest) = input.split_first()?;
    *input = rest;
    Some(*first)
}

/// As many bytes as the next one says, or as there are.
fn some<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::from(byte(input)?).min(input.len());
    let (some, rest) = input.split_at(length);
    *input = rest;
    Some(some)
}

thread_local! {
    static BED: RefCell<Bed> = RefCell::new(Bed::new());
}

fuzz_target!(|input: &[u8]| {
    if let Some((choice, steps)) = input.split_first() {
        BED.with(|bed| bed.borrow().run(*choice, steps));
    }
});

// SPDX-License-Identifier: Apache-2.0
//! A port with its messages and a worker.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use podswitch_datapath::port::vhost::vhost_device;
use podswitch_vhost::{Endpoint, Meeting, Mode, Service, State};
use tempfile::TempDir;

use crate::frontend::{Frontend, PATIENCE};
use crate::worker::Worker;

pub(crate) struct Bed {
    pub(crate) path: PathBuf,
    service: Option<Service>,
    worker: Option<Worker>,
    _folder: TempDir,
}

impl Bed {
    pub(crate) fn new() -> Bed {
        Bed::of(Mode::Server, 2)
    }

    pub(crate) fn of(mode: Mode, pairs: u16) -> Bed {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest");
        let (handle, device) = vhost_device().unwrap();
        let endpoint = Endpoint {
            path: path.clone(),
            mode,
            gid: None,
        };
        let meeting = Meeting::open(&endpoint).unwrap();
        let service = Service::start("guest", meeting, pairs, handle, || ());
        Bed {
            path,
            service: Some(service.unwrap()),
            worker: Some(Worker::start(device)),
            _folder: folder,
        }
    }

    /// The daemon ends; what the frontend has stays as it is.
    pub(crate) fn end(&mut self) {
        drop(self.service.take());
        drop(self.worker.take());
    }

    pub(crate) fn connect(&self) -> Frontend {
        Frontend::new(UnixStream::connect(&self.path).unwrap())
    }

    pub(crate) fn state(&self) -> State {
        self.service.as_ref().unwrap().state()
    }

    pub(crate) fn wait_for(&self, what: impl Fn(&State) -> bool) -> State {
        let begun = Instant::now();
        loop {
            let state = self.state();
            if what(&state) {
                return state;
            }
            assert!(begun.elapsed() < PATIENCE, "it stays {state:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn wait_for_fault(&self) -> String {
        match self.wait_for(|s| matches!(s, State::Faulted(_))) {
            State::Faulted(why) => why,
            other => unreachable!("{other:?}"),
        }
    }
}

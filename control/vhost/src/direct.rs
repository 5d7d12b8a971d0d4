// SPDX-License-Identifier: Apache-2.0
//! Connections that somebody else has made, one after another: a port's messages without a socket and a thread of its own, and without the pauses between them.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use podswitch_datapath::port::vhost::VhostHandle;

use crate::service::{End, Work};
use crate::socket::Meeting;

/// The messages of a port for fuzz targets: as a [`Service`](crate::Service) has them, on the thread that calls.
pub struct Direct {
    work: Work,
}

impl Direct {
    /// A port whose frontends may use so many pairs of queues.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn new(pairs: u16, handle: VhostHandle) -> io::Result<Direct> {
        let nowhere = Meeting {
            path: PathBuf::new(),
            listener: None,
        };
        let work = Work::new("direct", nowhere, pairs, handle, || ())?;
        Ok(Direct { work })
    }

    /// Serves a frontend until its connection ends, and says why, when it was ended here. The port serves nothing then.
    pub fn serve(&self, stream: UnixStream) -> Option<String> {
        let end = self.work.serve(stream);
        self.work.session().clear();
        match end {
            End::Fault(why) => Some(why),
            End::Stop | End::Closed => None,
        }
    }

    /// Whether the port's worker serves a queue by which a driver receives, as far as it has come.
    pub fn is_ready(&self) -> bool {
        self.work.session().handle.is_ready()
    }
}

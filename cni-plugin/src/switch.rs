// SPDX-License-Identifier: Apache-2.0
//! podswitchd, as far as an attachment needs it.

use std::time::Duration;

use podswitch_api::method::{self, Change, Filter, PortStatus, Status};
use podswitch_api::object::Port;
use podswitch_api::{Client, ClientError, ErrorCode, Key, Kind, Object};

use crate::attach::Link;
use crate::conf::NetConf;
use crate::spec::{CniError, Code};

/// How long one request may take. A kubelet gives up after minutes; a daemon that needs this long is hung.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The same for taking a port back after the daemon failed to answer: it has had its chance.
const SHORT: Duration = Duration::from_secs(2);

/// A connection to the daemon.
pub struct Switch(Client);

impl Switch {
    /// Connects.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect(conf: &NetConf) -> Result<Switch, ClientError> {
        Self::connect_within(conf, TIMEOUT)
    }

    fn connect_within(conf: &NetConf, timeout: Duration) -> Result<Switch, ClientError> {
        Client::connect_timeout(&conf.socket, timeout).map(Switch)
    }

    /// What the daemon is and which gateway its pods have.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn version(&mut self) -> Result<method::VersionResult, ClientError> {
        self.0.call::<method::Version>(&method::NoParams {})
    }

    /// Workers, ports and problems.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn health(&mut self) -> Result<method::HealthResult, ClientError> {
        self.0.call::<method::Health>(&method::NoParams {})
    }

    /// Adds or replaces a port.
    ///
    /// # Errors
    /// As [`Client::call`]. When it does not answer it may have added it.
    pub fn set_port(&mut self, port: Port) -> Result<(), ClientError> {
        self.0.apply(vec![Change::set(port)]).map(drop)
    }

    /// Removes the port with this name; one that is not there is fine.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn delete_port(&mut self, name: &str) -> Result<(), ClientError> {
        self.0
            .apply(vec![Change::delete(Key::Port {
                name: name.to_owned(),
            })])
            .map(drop)
    }

    /// Removes the port of an attachment. None is fine, and one that has its name by chance stays.
    ///
    /// # Errors
    /// As [`Switch::delete_port`].
    pub fn detach(&mut self, link: &Link) -> Result<(), ClientError> {
        match self.port(&link.host)? {
            Some((port, _)) if link.owns(&port) => self.delete_port(&link.host),
            _ => Ok(()),
        }
    }

    /// [`Switch::detach`] for a port that a daemon may have added without saying so. A daemon that is not there drops it
    /// when it is back: the interface has gone.
    ///
    /// # Errors
    /// As [`Client::call`] when a daemon that is there refuses.
    pub fn take_back(conf: &NetConf, link: &Link) -> Result<(), ClientError> {
        unless_away(Self::connect_within(conf, SHORT).and_then(|mut s| s.detach(link)))
    }

    /// The port with this name, and what the switch knows of it.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn port(&mut self, name: &str) -> Result<Option<(Port, Option<PortStatus>)>, ClientError> {
        let filter = Filter {
            name: Some(name.to_owned()),
            ..Filter::default()
        };
        Ok(self.ports(filter)?.into_iter().next())
    }

    /// Ports of a CNI network.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn ports_of(&mut self, network: &str) -> Result<Vec<Port>, ClientError> {
        let filter = Filter {
            network: Some(network.to_owned()),
            ..Filter::default()
        };
        Ok(self.ports(filter)?.into_iter().map(|(p, _)| p).collect())
    }

    fn ports(&mut self, filter: Filter) -> Result<Vec<(Port, Option<PortStatus>)>, ClientError> {
        let entries = self.0.get_all(Kind::Port, filter)?;
        Ok(entries
            .into_iter()
            .filter_map(|e| match (e.object, e.status) {
                (Object::Port(port), Some(Status::Port(status))) => Some((*port, Some(status))),
                (Object::Port(port), _) => Some((*port, None)),
                _ => None,
            })
            .collect())
    }
}

/// A removal that nobody was there for is none that failed: a daemon that is back drops ports whose interface has gone. One that
/// answers, if only that it has no time, still has the port and goes on forwarding to it.
///
/// # Errors
/// Those of a daemon that is there.
pub fn unless_away(removed: Result<(), ClientError>) -> Result<(), ClientError> {
    match removed {
        Err(e) if e.is_unreachable() => Ok(()),
        other => other,
    }
}

/// Code 11 when the daemon is not there, does not answer or has no time: the runtime tries again. Else 100 with the daemon's
/// own message.
impl From<ClientError> for CniError {
    fn from(e: ClientError) -> CniError {
        let again = e.is_unreachable()
            || e.rpc().is_some_and(|r| {
                matches!(r.code(), Some(ErrorCode::Busy | ErrorCode::Unavailable))
            });
        CniError::new(
            if again { Code::TryAgain } else { Code::Refused },
            format!("podswitchd: {e}"),
        )
    }
}

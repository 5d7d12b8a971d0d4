// SPDX-License-Identifier: Apache-2.0
//! The host end of a pod's veth: deaf to the host, walled by a traffic-control filter, steered by an XDP program. All
//! three stay when the daemon goes, so that a pod without a switch is closed, never open.

use std::os::fd::{BorrowedFd, OwnedFd};

use podswitch_api::object::XdpMode;
use podswitch_datapath::Reason;
use podswitch_datapath::port::xdp::Steering;
use podswitch_host::{Error, Link, Socket, deaf, link, sysctl, tap, tc, xdp};
use podswitch_state::store::{OwnedInterface, SavedSetting};
use tracing::{info, warn};

use super::{Kernel, KernelError, Means, tap_drops};

/// Interfaces whose alias begins so were made by podswitch-cni and are removed whole, not restored.
pub(super) const ALIAS: &str = "podswitch:";

/// An interface that may be taken.
pub struct Found {
    /// The interface.
    pub link: Link,
    /// How it is, unless it is podswitch's own.
    pub before: Option<OwnedInterface>,
}

/// What is attached to the host end of a veth.
pub struct Attached {
    /// Its index.
    pub ifindex: u32,
    way: Way,
    /// What the device had dropped of received frames before.
    rx_dropped: u64,
}

/// How its frames come.
enum Way {
    Xdp(xdp::Mode, Box<Steering>),
    /// Into the tap device with this index.
    Tap(u32),
}

impl Kernel {
    /// Looks at an interface and changes nothing.
    ///
    /// # Errors
    /// [`KernelError`], naming the interface.
    pub fn find(interface: &str) -> Result<Found, KernelError> {
        let mut socket = Socket::open()?;
        let link = super::find(&mut socket, interface)?;
        if link.kind.as_deref() != Some("veth") {
            let kind = link
                .kind
                .clone()
                .unwrap_or_else(|| "device without a kind".to_owned());
            return Err(KernelError::NotVeth {
                name: interface.to_owned(),
                kind,
            });
        }
        xdp::refuse_foreign(&link)?;
        let own = link.alias.as_deref().is_some_and(|a| a.starts_with(ALIAS));
        let before = match own {
            true => None,
            false => Some(OwnedInterface {
                clsact: !tc::has_clsact(&mut socket, link.index)?,
                noarp: !link.flags.noarp(),
                settings: deaf::plan(&mut socket, interface)?
                    .iter()
                    .map(saved)
                    .collect(),
                ..OwnedInterface::unchanged(link.name.as_str(), link.index)
            }),
        };
        Ok(Found { link, before })
    }

    /// Closes an interface to the host. To be called before a socket is opened on it, and after it was noted how it was.
    ///
    /// # Errors
    /// [`KernelError`], naming the interface.
    pub fn close_to_host(link: &Link) -> Result<(), KernelError> {
        let mut socket = Socket::open()?;
        deaf::deafen(&mut socket, &link.name)?;
        tc::ensure_clsact(&mut socket, link.index)?;
        tc::deny(&mut socket, link.index)?;
        // A predecessor's, whose device is gone.
        tc::end_diversion(&mut socket, link.index)?;
        Ok(())
    }

    /// Attaches the steering program, which drops every frame until it is connected; a predecessor's is replaced in one
    /// step. In tap mode there is none, but a device, which comes along.
    ///
    /// # Errors
    /// [`KernelError`]; a foreign program is never replaced.
    pub fn attach(
        &mut self,
        link: &Link,
        mode: XdpMode,
    ) -> Result<(Attached, Option<OwnedFd>), KernelError> {
        let mut socket = Socket::open()?;
        let wanted = if mode == XdpMode::Auto {
            self.default_mode
        } else {
            mode
        };
        let attached = match wanted {
            XdpMode::Tap => return divert(&mut socket, link),
            XdpMode::Native => self.install(&mut socket, link, xdp::Mode::Native),
            XdpMode::Generic => self.install(&mut socket, link, xdp::Mode::Generic),
            XdpMode::Auto => match self.install(&mut socket, link, xdp::Mode::Native) {
                Err(KernelError::Host(e))
                    if e.is_gone() || matches!(e, Error::ForeignXdp { .. }) =>
                {
                    Err(e.into())
                }
                Err(e) => {
                    info!(interface = link.name, error = %e, "native XDP is refused; generic mode is used");
                    self.install(&mut socket, link, xdp::Mode::Generic)
                }
                attached => attached,
            },
        };
        Ok((attached?, None))
    }

    /// Attaches a fresh program in one mode; a program of ours in another mode goes first.
    fn install(
        &mut self,
        socket: &mut Socket,
        link: &Link,
        mode: xdp::Mode,
    ) -> Result<Attached, KernelError> {
        let native_on = (mode == xdp::Mode::Native).then_some(link.index);
        let mut steering = self.loader.steering(1, native_on)?;
        if let Some((_, id)) = link.xdp.first() {
            // What was missed while no daemon ran is not forgotten, but for the moment up to the replacement.
            if let Err(e) = Steering::open(id).and_then(|old| steering.count_on(&old)) {
                warn!(interface = link.name, error = %e, "what its steering program has counted is lost");
            }
        }
        super::install(socket, link, steering.fd(), mode)?;
        Ok(Attached {
            ifindex: link.index,
            way: Way::Xdp(mode, Box::new(steering)),
            rx_dropped: link.stats.rx_dropped,
        })
    }
}

/// Makes a device for an interface's frames; a program of ours goes.
fn divert(socket: &mut Socket, link: &Link) -> Result<(Attached, Option<OwnedFd>), KernelError> {
    let tap = tap::create(socket)?;
    super::detach(socket, link)?;
    let attached = Attached {
        ifindex: link.index,
        way: Way::Tap(tap.index),
        rx_dropped: link.stats.rx_dropped,
    };
    Ok((attached, Some(tap.fd)))
}

impl Attached {
    pub(super) fn means(&self) -> Means {
        match self.way {
            Way::Xdp(mode, _) => Means::Xdp(mode),
            Way::Tap(_) => Means::Tap,
        }
    }

    pub(super) fn insert(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), KernelError> {
        if let Way::Xdp(_, steering) = &mut self.way {
            steering.insert(queue, socket)?;
        }
        Ok(())
    }

    /// Opens the way into the tap device, if that is how frames come.
    pub(super) fn open(&mut self) -> Result<(), KernelError> {
        if let Way::Tap(tap) = self.way {
            tc::divert(&mut Socket::open()?, self.ifindex, tap)?;
        }
        Ok(())
    }

    /// Leaves the interface closed: nothing is steered any more, program and wall stay.
    pub(super) fn disconnect(&mut self) {
        let done = match &mut self.way {
            Way::Xdp(_, steering) => steering.remove(0).map_err(KernelError::from),
            Way::Tap(_) => {
                let closed =
                    Socket::open().and_then(|mut s| tc::end_diversion(&mut s, self.ifindex));
                closed.map(drop).map_err(KernelError::from)
            }
        };
        match done {
            Err(KernelError::Host(e)) if e.is_gone() => {}
            Err(e) => {
                warn!(ifindex = self.ifindex, error = %e, "frames are still steered to a port that is closed, which drops them");
            }
            Ok(()) => {}
        }
    }

    pub(super) fn drops(&self, refused: u64) -> Result<Vec<(Reason, u64)>, KernelError> {
        let mut socket = Socket::open()?;
        let link = link::get(&mut socket, self.ifindex)?;
        let steered = match &self.way {
            Way::Xdp(_, steering) => (Reason::KernelSteeringMiss, steering.counters()?.missed),
            Way::Tap(tap) => tap_drops(&mut socket, *tap)?,
        };
        Ok(vec![
            steered,
            (
                Reason::KernelBarrier,
                tc::dropped(&mut socket, self.ifindex)?,
            ),
            (
                Reason::KernelDeviceDropped,
                device_drops(&mut socket, &link, self, refused),
            ),
        ])
    }
}

/// Frames that a veth dropped both ways. What its host end has no room for the pod's end counts, as not transmitted; a
/// frame over the MTU both ends count (`veth_xmit`, `__dev_forward_skb`). In native mode the host end counts what the
/// socket refused, too (`veth_xdp_rcv_one`).
fn device_drops(socket: &mut Socket, link: &Link, attached: &Attached, refused: u64) -> u64 {
    let refused = match attached.means() {
        Means::Xdp(xdp::Mode::Native) => refused,
        Means::Xdp(xdp::Mode::Generic | xdp::Mode::Offload) | Means::Tap => 0,
    };
    let received = link
        .stats
        .rx_dropped
        .saturating_sub(attached.rx_dropped + refused);
    // A pod that goes takes its end along.
    let pod = link::peer(socket, link).ok().flatten();
    let sent = pod.map_or(0, |pod| pod.stats.tx_dropped);
    link.stats.tx_dropped + received.max(sent)
}

fn saved(change: &sysctl::Change) -> SavedSetting {
    SavedSetting {
        path: change.key.to_string(),
        before: change.before.clone(),
        after: change.after.clone(),
    }
}

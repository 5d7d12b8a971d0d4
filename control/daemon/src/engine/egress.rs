// SPDX-License-Identifier: Apache-2.0
//! The host's stack as the way to the world: what is changed of the host for it is noted before, and put back when it is wanted no more.

use podswitch_api::RpcError;
use podswitch_api::method::{Problem, Severity};
use podswitch_api::object::{HOST_POLLED, Port};
use podswitch_state::store::{OwnedInterface, SavedSetting};

use super::Engine;
use super::health::problem;
use super::host::show;
use super::ports::kernel_error;
use crate::kernel::{egress, host};

impl Engine {
    /// Makes the host's stack forward for pods, or no longer, as the port says. How a setting was is noted once: what we changed it to is
    /// not how it was.
    pub(super) fn settle_egress(
        &mut self,
        port: &Port,
        wanted: &host::Wanted<'_>,
    ) -> Result<(), RpcError> {
        let known = self.noted(HOST_POLLED)?;
        let Some(egress) = &port.device.egress() else {
            known.iter().for_each(|before| self.put_back(before));
            return Ok(());
        };
        let known = known.unwrap_or_else(unchanged);
        let settings = egress::settings(wanted, egress).map_err(|e| kernel_error(&e))?;
        if egress.masquerade && known.tables.is_empty() {
            egress::refuse_foreign().map_err(|e| kernel_error(&e))?;
        }
        let (note, over) = notes(known, &settings, egress.masquerade);
        self.store
            .own(std::slice::from_ref(&note))
            .map_err(RpcError::from)?;
        self.restore(&over);
        egress::set(&settings).map_err(|e| kernel_error(&e))?;
        if egress.masquerade {
            egress::masquerade(wanted, egress).map_err(|e| kernel_error(&e))?;
        }
        self.show_egress(port, &note);
        Ok(())
    }

    fn show_egress(&mut self, port: &Port, note: &OwnedInterface) {
        let Some(live) = self.ports.get_mut(&port.name) else {
            return;
        };
        let setting = |s: &SavedSetting| {
            let name = format!("{} {} (was {})", s.path, s.after, s.before);
            host::item("sysctl", name)
        };
        let table = |t: &String| host::item("nftables", format_args!("table inet {t}"));
        let items = note.settings.iter().map(setting);
        live.egress = items.chain(note.tables.iter().map(table)).collect();
        show(&port.name, &[], &live.egress);
        live.on_host.extend(live.egress.iter().cloned());
    }

    /// What keeps packets from getting through the host.
    pub(super) fn egress_problems(&self, port: &Port, problems: &mut Vec<Problem>) {
        let Some(egress) = &port.device.egress() else {
            return;
        };
        let subject = format!("port {}", port.name);
        for (message, hint) in egress::problems(egress) {
            problems.push(problem(Severity::Warning, &subject, &message, hint));
        }
    }
}

/// What is to be noted of a host of which `known` is, and what of that is to be put back as nobody wants it any more.
fn notes(
    known: OwnedInterface,
    settings: &[SavedSetting],
    masquerade: bool,
) -> (OwnedInterface, OwnedInterface) {
    let is_wanted = |s: &SavedSetting| settings.iter().any(|new| new.path == s.path);
    let (mut still, over): (Vec<_>, Vec<_>) = known.settings.into_iter().partition(is_wanted);
    let is_known = |s: &&SavedSetting| still.iter().any(|old| old.path == s.path);
    let new = settings.iter().filter(|s| s.before != s.after);
    let new: Vec<SavedSetting> = new.filter(|s| !is_known(s)).cloned().collect();
    still.extend(new);
    let (tables, dropped) = match masquerade {
        true => (vec![egress::TABLE.to_owned()], Vec::new()),
        false => (Vec::new(), known.tables),
    };
    let note = OwnedInterface {
        settings: still,
        tables,
        ..unchanged()
    };
    let over = OwnedInterface {
        settings: over,
        tables: dropped,
        ..unchanged()
    };
    (note, over)
}

/// The note of a host of which nothing was changed. It is kept under the name of an interface that is always the same.
fn unchanged() -> OwnedInterface {
    OwnedInterface::unchanged(HOST_POLLED, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(path: &str, before: &str) -> SavedSetting {
        SavedSetting {
            path: path.into(),
            before: before.into(),
            after: "1".into(),
        }
    }

    #[test]
    fn how_a_setting_was_is_noted_once_and_put_back_when_nobody_wants_it() {
        let (first, over) = notes(unchanged(), &[setting("a", "0"), setting("b", "1")], true);
        assert_eq!(first.settings, [setting("a", "0")]);
        assert_eq!(first.tables, ["podswitch"]);
        assert_eq!(over, unchanged());
        // After a restart it is what we made it, and another interface is wanted beside.
        let now = [setting("a", "1"), setting("c", "0")];
        let (second, over) = notes(first, &now, true);
        assert_eq!(second.settings, [setting("a", "0"), setting("c", "0")]);
        assert_eq!(over, unchanged());
        let (third, over) = notes(second, &[setting("c", "1")], false);
        assert_eq!(third.settings, [setting("c", "0")]);
        assert_eq!(over.settings, [setting("a", "0")]);
        assert_eq!((third.tables.len(), over.tables.len()), (0, 1));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! One neighbour: its states, and what moves it between them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use podswitch_api::MacAddr;

use super::{Kernel, Probe, Said, View, jitter};

/// Questions without an answer until a neighbour counts as not there (RFC 4861, 10: MAX_MULTICAST_SOLICIT,
/// MAX_UNICAST_SOLICIT).
const TRIES: u32 = 3;
/// Between the first questions to everyone. RFC 4861 has a second; packets wait for this one.
const SEARCH: Duration = Duration::from_millis(250);
/// Between later ones: this, then twice as long each time.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Between questions to one that was known (RFC 4861, 10: RETRANS_TIMER).
const VERIFY: Duration = Duration::from_secs(1);
/// An answer is good for this long to twice as long (RFC 4861, 10: REACHABLE_TIME is 30 s).
const GOOD_FOR: Duration = Duration::from_secs(15);
/// Between questions to a member of a set: three without an answer, and it is lost within 0.8 s.
const FAST: Duration = Duration::from_millis(200);
/// Of the questions to a lost member of a set, every how many goes to everyone: it may be back elsewhere.
const FAST_TO_ALL: u32 = 5;
/// For what is not to be asked: kept by hand in the kernel's table.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// What is known of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not where it is; so many questions have had no answer.
    Incomplete(u32),
    /// It has answered lately.
    Reachable,
    /// Where it is, or was; so many questions have had no answer.
    Probing(u32),
    /// The kernel's table has it by hand.
    Permanent,
}

/// Who said where a neighbour is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It did, on the link.
    Wire,
    /// The kernel's table.
    Kernel,
}

/// What an entry does when its time has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Asks one, or everyone.
    Ask(Option<MacAddr>),
    /// Nothing, until its next time.
    Wait,
    /// Goes.
    Forget,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) probe: Probe,
    /// When something is to be done about it.
    pub(super) due: Instant,
    /// When a packet asked for it last, or when it came to be wanted.
    pub(super) last_demand: Instant,
    state: State,
    /// Where it is, or was before it was lost.
    last_mac: Option<MacAddr>,
    source: Source,
    since: Instant,
    last_ask: Option<Instant>,
}

impl Entry {
    pub(super) fn new(probe: Probe, now: Instant) -> Entry {
        Entry {
            probe,
            due: now,
            last_demand: now,
            state: State::Incomplete(0),
            last_mac: None,
            source: Source::Wire,
            since: now,
            last_ask: None,
        }
    }

    /// Where it is, if that is known.
    pub(super) fn mac(&self) -> Option<MacAddr> {
        match self.state {
            State::Incomplete(_) => None,
            State::Reachable | State::Probing(_) | State::Permanent => self.last_mac,
        }
    }

    pub(super) fn view(&self, address: IpAddr) -> View {
        View {
            address,
            mac: self.mac(),
            state: self.state,
            source: self.source,
            probe: self.probe,
            since: self.since,
        }
    }

    /// How closely it is watched has changed.
    pub(super) fn rewatch(&mut self, now: Instant, random: &mut u64) {
        match self.state {
            // What is kept by hand may be dead all the same.
            State::Permanent if self.probe == Probe::Fast => {
                self.state = State::Probing(0);
                self.due = now;
            }
            State::Reachable | State::Permanent => self.rest(now, random),
            State::Incomplete(_) | State::Probing(_) => self.due = now,
        }
    }

    /// A packet could not leave for it: it is looked for now, but not more than once a second (RFC 1122, 2.3.2.1).
    pub(super) fn demanded(&mut self, now: Instant) {
        self.last_demand = now;
        let asked_lately = self.last_ask.is_some_and(|at| now < at + BACK_OFF.0);
        if matches!(self.state, State::Incomplete(_)) && !asked_lately {
            self.due = self.due.min(now);
        }
    }

    /// What is known may be wrong: it is asked now.
    pub(super) fn suspect(&mut self, now: Instant) {
        match self.state {
            State::Reachable => self.state = State::Probing(0),
            State::Incomplete(_) | State::Probing(_) => {}
            State::Permanent => return,
        }
        self.due = now;
    }

    /// Nobody can be reached.
    pub(super) fn link_down(&mut self, now: Instant) {
        if self.mac().is_some() {
            self.since = now;
        }
        self.state = State::Incomplete(0);
        self.due = now;
    }

    /// What was known is worth a question, and for others than members of sets worth a packet.
    pub(super) fn link_up(&mut self, now: Instant) {
        if self.last_mac.is_some() && self.probe != Probe::Fast {
            self.state = State::Probing(0);
            self.since = now;
        }
        self.due = now;
    }

    /// RFC 4861, 7.2.5, for both families.
    pub(super) fn heard(&mut self, said: Said, now: Instant, random: &mut u64) {
        let permanent = self.state == State::Permanent;
        let other = said.mac.filter(|mac| self.last_mac != Some(*mac));
        match self.mac() {
            _ if permanent => {}
            // Back where it was: an answer to a question to one may leave the Ethernet address out.
            None => {
                if let Some(mac) = said.mac.or(self.last_mac.filter(|_| said.answer)) {
                    self.found(mac, Source::Wire, said.answer, now, random);
                }
            }
            Some(_) => match other {
                Some(mac) if said.overrides => {
                    self.found(mac, Source::Wire, said.answer, now, random);
                }
                Some(_) => self.suspect(now),
                None if said.answer => {
                    self.state = State::Reachable;
                    self.rest(now, random);
                }
                None => {}
            },
        }
    }

    pub(super) fn kernel(&mut self, kernel: Kernel, now: Instant, random: &mut u64) {
        match (kernel, self.mac()) {
            // Of a member of a set only its own answer counts: what is kept by hand may be dead, and what the kernel has
            // confirmed may be so half a minute ago. But that is where to ask.
            (Kernel::Permanent(mac) | Kernel::Reachable(mac) | Kernel::Stale(mac), None)
                if self.probe == Probe::Fast && self.last_mac.is_some() =>
            {
                self.last_mac = Some(mac);
            }
            (Kernel::Permanent(mac), known) if self.probe == Probe::Fast => {
                if known != Some(mac) {
                    self.found(mac, Source::Kernel, false, now, random);
                }
            }
            (Kernel::Permanent(mac), _) => {
                self.found(mac, Source::Kernel, true, now, random);
                self.state = State::Permanent;
                self.rest(now, random);
            }
            (Kernel::Reachable(mac) | Kernel::Stale(mac), None) => {
                let confirmed = matches!(kernel, Kernel::Reachable(_)) && self.probe != Probe::Fast;
                self.found(mac, Source::Kernel, confirmed, now, random);
            }
            (Kernel::Reachable(mac), Some(known)) => {
                let confirmed = self.probe != Probe::Fast;
                if mac != known || self.state == State::Permanent {
                    self.found(mac, Source::Kernel, confirmed, now, random);
                } else if confirmed {
                    self.state = State::Reachable;
                    self.rest(now, random);
                }
            }
            (Kernel::Stale(_) | Kernel::Gone | Kernel::Failed, Some(_))
                if self.state == State::Permanent =>
            {
                self.state = State::Probing(0);
                self.due = now;
            }
            (Kernel::Failed, Some(_)) => self.suspect(now),
            (Kernel::Failed, None) => self.demanded_by_kernel(now),
            (Kernel::Stale(_) | Kernel::Gone, _) => {}
        }
    }

    /// The kernel looks for it too and has not found it; who asks at the right moment may.
    fn demanded_by_kernel(&mut self, now: Instant) {
        let last = self.last_demand;
        self.demanded(now);
        self.last_demand = last;
    }

    fn found(
        &mut self,
        mac: MacAddr,
        source: Source,
        confirmed: bool,
        now: Instant,
        random: &mut u64,
    ) {
        if self.mac() != Some(mac) {
            self.since = now;
        }
        self.last_mac = Some(mac);
        self.source = source;
        if confirmed {
            self.state = State::Reachable;
            self.rest(now, random);
        } else {
            self.state = State::Probing(0);
            self.due = now;
        }
    }

    /// It needs no question for a while.
    fn rest(&mut self, now: Instant, random: &mut u64) {
        let pause = match (self.state, self.probe) {
            (State::Permanent, _) => NEVER,
            (_, Probe::Fast) => FAST,
            (_, Probe::OnDemand | Probe::Keepalive) => jitter(GOOD_FOR, random),
        };
        self.due = now + pause;
    }

    /// Its time has come.
    pub(super) fn due(&mut self, now: Instant) -> Step {
        match self.state {
            State::Permanent => {
                self.due = now + NEVER;
                Step::Wait
            }
            State::Reachable => self.verify(0, now),
            State::Probing(sent) if sent < TRIES => self.verify(sent, now),
            State::Probing(_) if self.probe == Probe::OnDemand => Step::Forget,
            State::Probing(_) => {
                self.state = State::Incomplete(0);
                self.since = now;
                // It is asked for at once, as the budget for questions to everyone allows.
                self.due = now;
                Step::Wait
            }
            State::Incomplete(sent) if self.probe == Probe::OnDemand && sent >= TRIES => {
                Step::Forget
            }
            State::Incomplete(sent) => self.search(sent, now),
        }
    }

    fn verify(&mut self, sent: u32, now: Instant) -> Step {
        self.state = State::Probing(sent + 1);
        self.last_ask = Some(now);
        let fast = self.probe == Probe::Fast;
        self.due = now + if fast { FAST } else { VERIFY };
        Step::Ask(self.last_mac)
    }

    fn search(&mut self, sent: u32, now: Instant) -> Step {
        self.state = State::Incomplete(sent.saturating_add(1));
        self.last_ask = Some(now);
        if self.probe == Probe::Fast && self.last_mac.is_some() {
            self.due = now + FAST;
            let to_all = sent.is_multiple_of(FAST_TO_ALL);
            return Step::Ask(self.last_mac.filter(|_| !to_all));
        }
        let pause = match sent + 1 {
            first if first < TRIES => SEARCH,
            // The last of the first tries is waited for as long as the others.
            TRIES if self.probe == Probe::OnDemand => SEARCH,
            later => {
                let doubled = BACK_OFF.0 * (1 << (later - TRIES).min(5));
                let most = match self.probe {
                    Probe::Fast => BACK_OFF.0,
                    _ => BACK_OFF.1,
                };
                doubled.min(most)
            }
        };
        self.due = now + pause;
        Step::Ask(None)
    }
}

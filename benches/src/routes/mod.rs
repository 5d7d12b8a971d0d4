// SPDX-License-Identifier: Apache-2.0
//! The route table with the public table in it: lookups, changes, memory.
//!
//! | module | |
//! |---|---|
//! | [`table`] | the public table, and the link its next hops are on |
//! | [`lookup`] | what a lookup costs |
//! | [`change`] | prefixes that change while a worker forwards |

pub mod change;
pub mod lookup;
pub mod table;

use std::time::Instant;

use podswitch_datapath::PortId;
use podswitch_datapath::tables::{Edit, Tables};

use crate::Settings;
use crate::outcome::Outcome;
use crate::stats::Random;
use crate::traffic;
use crate::turned::stay_on_first_core;
use table::Public;

/// The uplink.
const UPLINK: PortId = PortId(1);

/// The benchmark.
///
/// # Panics
/// When the public table is not where cargo says.
pub fn run(settings: Settings) -> Outcome {
    let core = stay_on_first_core();
    let public = Public::read();
    let method = method(public.prefixes.len());
    let title = "The public table: lookups and changes";
    let mut outcome = Outcome::new("route-table", title, &method);
    let tables = build(&mut outcome, &public);
    let peer = lookup::peer(&public);
    let rounds = settings.pick(40, 5);
    let all = (&tables, &peer);
    let mut random = Random::new(7);
    let any = table::unicast(lookup::ADDRESSES, &mut random);
    lookup::measure(&mut outcome, "any unicast address", all, (rounds, &any));
    let announced = public.announced(lookup::ADDRESSES, &mut random);
    let what = "an address of any prefix";
    lookup::measure(&mut outcome, what, all, (rounds, &announced));
    drop((peer, tables));
    change::measure(&mut outcome, settings, &public, core);
    outcome
}

/// Tables with all prefixes; what it takes to make them.
fn build(outcome: &mut Outcome, public: &Public) -> Tables {
    let empty = traffic::empty_tables();
    let mut edit = Edit::new(&empty, empty.generation());
    table::set_link(&mut edit, UPLINK);
    let linked = edit.build().expect("tables");
    let mut edit = Edit::new(&linked, linked.generation());
    table::set_prefixes(&mut edit, public, UPLINK);
    let start = Instant::now();
    let tables = edit.build().expect("tables");
    let took = start.elapsed().as_secs_f64();
    let count = public.prefixes.len() as f64;
    outcome.add_figure("prefixes", count, "prefixes");
    outcome.add_figure("all of them in one edit", took, "s");
    outcome.add_figure("a prefix of them", took * 1e6 / count, "us");
    let bytes = (tables.memory() - linked.memory()) as f64;
    outcome.add_figure("memory", bytes / f64::from(1 << 20), "MiB");
    outcome.add_figure("memory of a prefix", bytes / count, "bytes");
    tables
}

fn method(prefixes: usize) -> String {
    format!(
        "The public table, {prefixes} IPv4 prefixes by {} next hops, from a file in the source of the crate iptrie, whose compressed trie has the same prefixes. A lookup goes
         from an address to the adjacency; addresses come by chance, of 8,388,608 each once, all ways in rounds of A B C … C B A. Changes: edit, build and publish of one prefix, while a worker with a thread of its own on the last
         core forwards 10,000 flows by the table; its rate and turns with changes and without in rounds of A B B A. Cycles are the time-stamp counter's.",
        table::ROUTERS
    )
}

// SPDX-License-Identifier: Apache-2.0
//! The command line. Parsing, help, completions and man pages come from these definitions.

mod object;
mod policy;
mod service;
mod why;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use podswitch_api::method::Section;
use podswitch_api::{DEFAULT_SOCKET, Kind};

pub(crate) use object::{
    FdbCommand, FdbKeyArgs, GroupAdd, GroupCommand, LabelArg, NeighborCommand, NeighborKeyArgs,
    PortAdd, PortCommand, RouteCommand, RouteKeyArgs, RuleCommand, SegmentCommand, Selector,
};
pub(crate) use policy::{Listed, PolicyCommand};
pub(crate) use service::{ServiceAdd, ServiceCommand};
pub(crate) use why::WhyArgs;

/// Shows and changes what podswitchd, the pod switch of this node, does.
#[derive(Debug, Parser)]
#[command(name = "podswitchctl", version, after_help = crate::exit::HELP, max_term_width = 120)]
pub(crate) struct Args {
    /// Control socket of the daemon
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub(crate) socket: PathBuf,

    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub(crate) output: Format,

    /// Seconds to wait for an answer
    #[arg(long, global = true, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) timeout: Duration,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Form of the output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// JSON, as the control protocol has it
    Json,
    /// The same as YAML
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ports: the devices that the switch moves frames between
    #[command(subcommand)]
    Port(PortCommand),
    /// Forwarding databases of L2 segments
    #[command(subcommand)]
    Fdb(FdbCommand),
    /// Routes
    #[command(subcommand)]
    Route(RouteCommand),
    /// MAC addresses of next hops
    #[command(subcommand)]
    Neighbor(NeighborCommand),
    /// L2 segments
    #[command(subcommand)]
    Segment(SegmentCommand),
    /// Rules of ports
    #[command(subcommand)]
    Rule(RuleCommand),
    /// Network policies: manifests of Kubernetes
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Groups: whom packets in VXLAN tunnels with group policy are from
    #[command(subcommand)]
    Group(GroupCommand),
    /// Services: virtual addresses, and whom packets to them go to
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Says whether a connection may begin, what decides that, and where it goes; exits with 1 when it may not
    Why(WhyArgs),
    /// Shows counters of ports, drops, workers, rules and tables
    Stats(StatsArgs),
    /// Shows samples of what was refused, and why
    Events(EventsArgs),
    /// Shows rates of ports and drops, again and again
    Top(TopArgs),
    /// Sets the objects of a file, all or nothing
    Apply(ApplyArgs),
    /// Shows the versions of this program and of the daemon
    Version,
    /// Says whether everything works; exits with 1 when it does not
    Health,
    /// Looks for what keeps podswitch from working on this machine, before it is installed and afterwards; exits with 1 when there is something
    Doctor(DoctorArgs),
    /// Places the CNI plugin where the container runtime looks for it, whole or not at all
    InstallPlugin(InstallPluginArgs),
    /// Accounts for every chunk of packet memory; exits with 1 when one is missing
    Audit,
    /// Takes apart everything podswitch made on this node, with the daemon running or not
    Teardown(TeardownArgs),
    /// Prints a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Writes man pages into a directory
    Man {
        /// The directory
        #[arg(value_hint = clap::ValueHint::DirPath)]
        directory: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StatsArgs {
    /// Only this port and its rules
    #[arg(long, value_name = "NAME")]
    pub(crate) port: Option<String>,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SECTION")]
    pub(crate) section: Vec<SectionArg>,
}

/// A part of the counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum SectionArg {
    /// Counters of ports
    Ports,
    /// Dropped frames by reason
    Drops,
    /// Counters of workers
    Workers,
    /// Counters of rules of ports
    Rules,
    /// Counters of rules of network policies
    Policies,
    /// Sizes and lookups of tables
    Tables,
}

impl From<SectionArg> for Section {
    fn from(s: SectionArg) -> Section {
        match s {
            SectionArg::Ports => Section::Ports,
            SectionArg::Drops => Section::Drops,
            SectionArg::Workers => Section::Workers,
            SectionArg::Rules => Section::Rules,
            SectionArg::Policies => Section::Policies,
            SectionArg::Tables => Section::Tables,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct EventsArgs {
    /// Go on with those that come, until interrupted
    #[arg(short, long)]
    pub(crate) follow: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TopArgs {
    /// Seconds between two looks
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) interval: Duration,
    /// Stop after this many looks; without it, look until interrupted
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Only this port
    #[arg(long, value_name = "NAME")]
    pub(crate) port: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ApplyArgs {
    /// File of objects, YAML (any number of documents) or JSON; `-` for standard input
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Remove all other objects of the kinds that --kind names, or of all kinds
    #[arg(long)]
    pub(crate) replace: bool,
    /// Kinds that --replace replaces
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        requires = "replace",
        value_name = "KIND"
    )]
    pub(crate) kind: Vec<KindArg>,
    /// Refuse unless the desired state has this generation
    #[arg(long, value_name = "NUMBER", conflicts_with = "replace")]
    pub(crate) expect_generation: Option<u64>,
}

/// A kind of objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum KindArg {
    /// L2 segments
    Segment,
    /// Ports
    Port,
    /// Neighbors
    Neighbor,
    /// Routes
    Route,
    /// FDB entries
    Fdb,
    /// Policy rules
    Rule,
    /// Kubernetes namespaces
    Namespace,
    /// Pods of the cluster
    Pod,
    /// NetworkPolicies
    NetworkPolicy,
    /// ClusterNetworkPolicies
    ClusterNetworkPolicy,
    /// Groups
    Group,
    /// Services
    Service,
}

impl From<KindArg> for Kind {
    fn from(k: KindArg) -> Kind {
        match k {
            KindArg::Segment => Kind::Segment,
            KindArg::Port => Kind::Port,
            KindArg::Neighbor => Kind::Neighbor,
            KindArg::Route => Kind::Route,
            KindArg::Fdb => Kind::Fdb,
            KindArg::Rule => Kind::Rule,
            KindArg::Namespace => Kind::Namespace,
            KindArg::Pod => Kind::Pod,
            KindArg::NetworkPolicy => Kind::NetworkPolicy,
            KindArg::ClusterNetworkPolicy => Kind::ClusterNetworkPolicy,
            KindArg::Group => Kind::Group,
            KindArg::Service => Kind::Service,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct InstallPluginArgs {
    /// The plugin's file
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) from: PathBuf,
    /// Folder of CNI plugins
    #[arg(long, value_name = "DIRECTORY", default_value = "/opt/cni/bin", value_hint = clap::ValueHint::DirPath)]
    pub(crate) to: PathBuf,
    /// Its name there: the `type` of network configurations
    #[arg(long, value_name = "NAME", default_value = "podswitch")]
    pub(crate) name: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DoctorArgs {
    /// What is not installed is an error; without it, only if something of podswitch is there already
    #[arg(long)]
    pub(crate) installed: bool,
    /// Folder of the runtime's network configurations
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/cni/net.d", value_hint = clap::ValueHint::DirPath)]
    pub(crate) cni_conf_dir: PathBuf,
    /// Folder of CNI plugins
    #[arg(long, value_name = "DIRECTORY", default_value = "/opt/cni/bin", value_hint = clap::ValueHint::DirPath)]
    pub(crate) cni_bin_dir: PathBuf,
    /// Look at files below this folder, and at nothing else
    #[arg(long, value_name = "DIRECTORY", default_value = "/", hide = true)]
    pub(crate) root: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TeardownArgs {
    /// Configuration file of the daemon
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) config: PathBuf,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no time in seconds; write a number from 0.1 to 3600");
    let number: f64 = text.parse().map_err(|_| bad())?;
    match (0.1..=3600.0).contains(&number) {
        true => Ok(Duration::from_secs_f64(number)),
        false => Err(bad()),
    }
}

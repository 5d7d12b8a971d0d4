// SPDX-License-Identifier: Apache-2.0
//! Arguments of `policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::object::MissingArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Sets the Namespaces, Pods, NetworkPolicies and ClusterNetworkPolicies of a file, all or nothing
    Apply(ManifestArgs),
    /// Deletes the objects that a file names, all or nothing
    Delete {
        #[command(flatten)]
        manifest: ManifestArgs,
        #[command(flatten)]
        missing: MissingArgs,
    },
    /// Lists policies, or the pods or namespaces that they select from
    List {
        /// What to list
        #[arg(value_enum, default_value_t = Listed::Policies, value_name = "WHAT")]
        what: Listed,
        /// Only what is of this namespace
        #[arg(short, long, value_name = "NAME")]
        namespace: Option<String>,
    },
}

/// What is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Listed {
    /// NetworkPolicies and ClusterNetworkPolicies
    Policies,
    /// Pods of the cluster
    Pods,
    /// Namespaces
    Namespaces,
}

#[derive(Debug, Args)]
pub(crate) struct ManifestArgs {
    /// File of manifests, YAML (any number of documents) or JSON; `-` for standard input
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) file: PathBuf,
}

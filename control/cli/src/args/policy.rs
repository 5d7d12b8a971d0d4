// SPDX-License-Identifier: Apache-2.0
//! Arguments of `policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

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
    /// Lists NetworkPolicies and ClusterNetworkPolicies
    List {
        /// Only the NetworkPolicies of this namespace
        #[arg(short, long, value_name = "NAME")]
        namespace: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ManifestArgs {
    /// File of manifests, YAML (any number of documents) or JSON; `-` for standard input
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) file: PathBuf,
}

// SPDX-License-Identifier: Apache-2.0
//! podswitch-agent: keeps podswitchd equal to a Kubernetes cluster.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use podswitch_agent::config::Config;
use podswitch_agent::{agent, conflist};
use podswitch_state::config::{LogConfig, LogFormat};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// Keeps the desired state of podswitchd equal to what a Kubernetes cluster's API says.
#[derive(Parser, Debug)]
#[command(name = "podswitch-agent", version)]
struct Arguments {
    /// Configuration file (TOML); docs/agent.md describes every key.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Name of this node's Node object.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Debug, Clone, Copy)]
enum Command {
    /// Removes the network configuration that the agent wrote for the container runtime: no pods are attached any more.
    Cleanup,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("podswitch-agent: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let config = match &arguments.config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    if let Some(Command::Cleanup) = arguments.command {
        return cleanup(&config);
    }
    let node = arguments.node_name.filter(|name| !name.is_empty());
    let node =
        node.ok_or("this node has no name; give --node-name, or NODE_NAME in the environment")?;
    log(&config.log);
    agent::run(config, node)
}

fn cleanup(config: &Config) -> Result<(), Box<dyn Error>> {
    let cni = config.cni.as_ref();
    let cni = cni.ok_or("the configuration has no [cni]: there is nothing to remove")?;
    let path = cni.dir.join(&cni.name);
    match conflist::remove(cni)? {
        true => println!("{} is removed", path.display()),
        false => println!("{} is not there", path.display()),
    }
    Ok(())
}

/// `RUST_LOG`, when set, is heard before the configured level.
fn log(config: &LogConfig) {
    // What the API's client says of an error is said here, too, with the kind that could not be read.
    let level = format!(
        "{},kube=off,kube_client=off,kube_runtime=off",
        config.level.name()
    );
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    match config.format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.with_ansi(false).init(),
    }
}

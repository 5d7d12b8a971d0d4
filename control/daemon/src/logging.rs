// SPDX-License-Identifier: Apache-2.0
//! Structured logs on standard error, as text or JSON.

use podswitch_state::config::{LogConfig, LogFormat};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// Sets logging up for the process. `RUST_LOG`, when set, is heard before the configured level.
pub fn init(config: &LogConfig) {
    // What the BPF loader says of its own work is noise below a warning.
    let level = format!("{},aya=warn,aya_obj=warn", config.level.name());
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

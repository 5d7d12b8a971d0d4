// SPDX-License-Identifier: Apache-2.0
//! What commands print.

mod events;
mod kubernetes;
mod objects;
mod status;
mod table;
mod why;

pub(crate) use events::events;
pub(crate) use objects::{describe, list, policies};
pub(crate) use status::{audit, health, rates, stats, teardown, version};
pub(crate) use table::{Table, sections};
pub(crate) use why::why;

use std::io::{self, Write};

use serde::Serialize;

use crate::args::Format;
use crate::exit::Result;

/// Prints a value, as a table by `table`.
pub(crate) fn print<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> Result {
    let text = match format {
        Format::Table => table(value),
        Format::Json => serde_json::to_string_pretty(value).map_err(io::Error::other)? + "\n",
        Format::Yaml => yaml(value)?,
    };
    write(&text)
}

/// The YAML of a value's JSON: the library would write tags where the protocol has objects.
pub(crate) fn yaml<T: Serialize>(value: &T) -> io::Result<String> {
    let json = serde_json::to_value(value).map_err(io::Error::other)?;
    serde_yaml_ng::to_string(&json).map_err(io::Error::other)
}

/// Writes to standard output at once.
pub(crate) fn write(text: &str) -> Result {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

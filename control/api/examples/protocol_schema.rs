// SPDX-License-Identifier: Apache-2.0
//! Writes docs/control-protocol.schema.json anew from the types.
#![forbid(unsafe_code)]

use std::path::Path;

fn main() -> std::io::Result<()> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/control-protocol.schema.json");
    let text = serde_json::to_string_pretty(&podswitch_api::schema::protocol())?;
    std::fs::write(path, text + "\n")
}

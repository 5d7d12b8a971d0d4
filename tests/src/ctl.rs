// SPDX-License-Identifier: Apache-2.0
//! podswitchctl, and bare lines on the control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::netns::Netns;
use crate::programs::{Ended, bin_dir, run};
use crate::schema;
use crate::wait::HUNG;

/// podswitchctl of one node.
#[derive(Debug)]
pub struct Ctl<'a> {
    pub(crate) node: &'a Netns,
    pub(crate) socket: PathBuf,
}

impl Ctl<'_> {
    /// Runs `podswitchctl --socket PATH WORDS`.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Ended {
        self.run_with(words, b"")
    }

    /// The same with something on its standard input.
    #[track_caller]
    pub fn run_with(&self, words: &[&str], stdin: &[u8]) -> Ended {
        let mut command = self.node.command(bin_dir().join("podswitchctl"));
        run(
            command.arg("--socket").arg(&self.socket).args(words),
            stdin,
            HUNG,
        )
    }

    /// Runs it with `-o json` and returns the value it prints.
    ///
    /// # Panics
    /// If it fails or prints no JSON.
    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Value {
        let text = self
            .run(&[words, &["-o", "json"]].concat())
            .success(&format!("podswitchctl {}", words.join(" ")));
        serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("podswitchctl {}: {e}: {text}", words.join(" ")))
    }
}

/// A bare connection to the control socket, for lines that no client of ours would send.
#[derive(Debug)]
pub struct Wire {
    reader: BufReader<UnixStream>,
}

impl Wire {
    /// Connects.
    ///
    /// # Panics
    /// If nobody listens.
    #[track_caller]
    pub fn connect(socket: &Path) -> Wire {
        let stream =
            UnixStream::connect(socket).unwrap_or_else(|e| panic!("{}: {e}", socket.display()));
        stream.set_read_timeout(Some(HUNG)).expect("a read timeout");
        stream
            .set_write_timeout(Some(HUNG))
            .expect("a write timeout");
        Wire {
            reader: BufReader::new(stream),
        }
    }

    /// Sends bytes as they are; an error when the server has closed the connection.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// The next line as JSON; none when the server has closed the connection.
    ///
    /// # Panics
    /// If a line is no JSON, or none comes in time.
    #[track_caller]
    pub fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(e) => panic!("no answer: {e}"),
        }
    }

    /// Calls a method: its result, or the error object.
    ///
    /// # Panics
    /// If there is no answer, or one that is no JSON-RPC 2.0 response.
    #[track_caller]
    pub fn call(&mut self, method: &str, params: &Value) -> Result<Value, Value> {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer = self.ask(&request);
        assert_eq!(answer["jsonrpc"], "2.0", "{method}: {answer}");
        assert_eq!(answer["id"], 1, "{method}: {answer}");
        match (answer.get("result"), answer.get("error")) {
            (Some(result), None) => Ok(result.clone()),
            (None, Some(error)) => Err(error.clone()),
            _ => panic!("{method}: neither result nor error: {answer}"),
        }
    }

    /// Sends a line and returns the answer.
    ///
    /// # Panics
    /// If there is none, or it is not what the protocol's schema says.
    #[track_caller]
    pub fn ask(&mut self, request: &Value) -> Value {
        self.send(format!("{request}\n").as_bytes())
            .expect("send a request");
        let answer = self.line().expect("an answer");
        schema::hold_exchange(request, &answer);
        answer
    }
}

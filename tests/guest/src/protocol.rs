// SPDX-License-Identifier: GPL-2.0

//! Requests to the agent and its answers, as JSON inside frames. Times are in milliseconds.

use base64::Engine as _;
use serde::{Deserialize, Serialize};

/// A program to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Additions to the environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(String, String)>,
    /// Standard input; nothing if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Named network namespace (`/run/netns/NAME`) to run it in; the agent's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Most bytes kept of each of standard output and standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_limit: Option<usize>,
}

/// What the runner asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Is anybody there?
    Ping,
    /// Run a program to its end; its whole process group is killed after `timeout_ms`.
    Run {
        /// The program.
        #[serde(flatten)]
        command: Command,
        /// How long it may take.
        timeout_ms: u64,
    },
    /// Start a program in the background.
    Spawn {
        /// The program.
        #[serde(flatten)]
        command: Command,
    },
    /// Ask for the state of a background program, waiting up to `wait_ms` for its end.
    Poll {
        /// Number given by [`Response::Spawned`].
        job: u32,
        /// Longest wait.
        wait_ms: u64,
    },
    /// Send a signal to the process group of a background program.
    Kill {
        /// Number given by [`Response::Spawned`].
        job: u32,
        /// Signal number.
        signal: i32,
    },
    /// Type on a shell's terminal, which the first such request opens, and see what it shows.
    Terminal {
        /// Its height, when it is opened.
        rows: u16,
        /// Its width.
        columns: u16,
        /// What is typed.
        input: Bytes,
        /// Longest wait for something to show.
        wait_ms: u64,
    },
    /// Read part of a file.
    Read {
        /// Path in the machine.
        path: String,
        /// First byte.
        offset: u64,
        /// Most bytes to return.
        length: u32,
    },
    /// Write part of a file, creating it.
    Write {
        /// Path in the machine.
        path: String,
        /// Where the data goes; the file is truncated there.
        offset: u64,
        /// Permission bits given to the file when `offset` is 0.
        mode: u32,
        /// The bytes.
        data: Bytes,
    },
}

/// How a program ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Exit code, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// It was killed because its time was over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
    /// It did not even die when killed: it hangs in the kernel.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stuck: bool,
    /// Output beyond the limit was dropped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Standard output; bytes that are not UTF-8 are replaced.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stdout: String,
    /// Standard error; bytes that are not UTF-8 are replaced.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr: String,
    /// How long it ran.
    pub elapsed_ms: u64,
}

impl Outcome {
    /// It exited by itself with code 0.
    pub fn success(&self) -> bool {
        self.code == Some(0) && !self.timed_out
    }
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Response {
    /// Here.
    Pong {
        /// Distinguishes one run of the agent from another.
        instance: u64,
    },
    /// The program has ended.
    Finished(Outcome),
    /// The program runs.
    Spawned {
        /// Its number.
        job: u32,
    },
    /// The program still runs; this is its output so far.
    Running {
        /// Standard output up to now.
        stdout: String,
    },
    /// Done, nothing to say.
    Done,
    /// Part of a file.
    Data {
        /// The bytes; fewer than asked for at the end of the file.
        data: Bytes,
    },
    /// What a terminal shows.
    Shown {
        /// New output.
        output: Bytes,
        /// The shell has ended; the next request opens another.
        ended: bool,
    },
    /// The request could not be carried out.
    Failed {
        /// Why.
        error: String,
    },
}

/// Bytes, in base64 inside JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub Vec<u8>);

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> String {
        base64::engine::general_purpose::STANDARD.encode(bytes.0)
    }
}

impl TryFrom<String> for Bytes {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .map(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_responses_survive_json() {
        let request = Request::Run {
            command: Command {
                argv: vec!["ip".into(), "link".into()],
                netns: Some("peer".into()),
                ..Command::default()
            },
            timeout_ms: 5,
        };
        let text = serde_json::to_string(&request).expect("serialises");
        assert_eq!(
            text,
            r#"{"op":"run","argv":["ip","link"],"netns":"peer","timeout_ms":5}"#
        );
        assert_eq!(
            serde_json::from_str::<Request>(&text).expect("parses"),
            request
        );
        let response = Response::Data {
            data: Bytes(vec![0, 255, 7]),
        };
        let text = serde_json::to_string(&response).expect("serialises");
        assert_eq!(
            serde_json::from_str::<Response>(&text).expect("parses"),
            response
        );
    }
}

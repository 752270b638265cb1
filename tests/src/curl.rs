//! A request by the real `curl`, from the host or as a workload.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

/// What curl said.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Exit status of curl, or of what ran it; absent when a signal ended it.
    pub exit: Option<i32>,
    /// Status of the final response; absent when there was none.
    pub status: Option<u16>,
    /// Status line and headers of the final response, as received.
    pub head: String,
    /// Its body.
    pub body: String,
    /// Standard error.
    pub stderr: String,
}

impl Answer {
    /// One line for error messages.
    pub fn summary(&self) -> String {
        match self.status {
            Some(status) => format!("{status} {}", self.body.trim()),
            None => format!("no response; exit status {:?}: {}", self.exit, self.stderr.trim()),
        }
    }
}

/// The options that every call has: no progress meter but errors, response headers, at most 15 seconds, no proxy and
/// no configuration file of whoever runs this.
pub const OPTIONS: [&str; 7] = ["-q", "-sS", "-i", "--max-time", "15", "--noproxy", "*"];

/// `curl` on the host.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(OPTIONS).args(arguments);
    command
}

/// Runs a command that ends in curl with [`OPTIONS`].
pub fn run(command: &mut Command) -> Result<Answer> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let mut answer = Answer {
        exit: output.status.code(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        ..Answer::default()
    };
    let mut rest = String::from_utf8_lossy(&output.stdout).into_owned();
    // A `100 Continue` comes before the response that counts.
    while rest.starts_with("HTTP/")
        && let Some((head, body)) = rest.split_once("\r\n\r\n")
    {
        answer.status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        head.clone_into(&mut answer.head);
        let informational = answer.status.is_some_and(|status| status < 200);
        rest = String::from(body);
        if !informational {
            break;
        }
    }
    answer.body = rest;
    Ok(answer)
}

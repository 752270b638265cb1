//! What a vector is, what it gets, what it gives.

use std::{
    fmt, io,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::RawFd,
    path::PathBuf,
};

use nix::{errno::Errno, libc};
use serde::{Deserialize, Serialize};

/// Beginning of every token.
pub(super) const TOKEN: &str = "egret-bypass-";
/// Length of a token: the beginning, 16 digits of the run, a dash, two digits of the vector. It fits a DNS label.
pub(super) const TOKEN_LENGTH: usize = TOKEN.len() + 16 + 1 + 2;

/// What the battery was told.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The witness (or another server), IPv4.
    pub target: Option<SocketAddrV4>,
    /// The same, IPv6.
    pub target_v6: Option<SocketAddrV6>,
    /// The gateway's tunnel port.
    pub gateway: Option<SocketAddr>,
    /// Where another workload's connections go.
    pub listener: Option<SocketAddr>,
    /// A TCP socket that was opened outside and inherited.
    pub inherited: Option<RawFd>,
    /// Unix socket of a process outside that hands out sockets.
    pub helper: Option<PathBuf>,
    /// Whether 169.254.169.254 may be tried.
    pub metadata: bool,
}

/// How a vector should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// It goes through the gateway.
    Captured,
    /// The kernel refuses it, or it is dropped.
    Blocked,
}

impl Expected {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::Blocked => "blocked",
        }
    }
}

/// A way out, maybe.
#[derive(Clone, Copy)]
pub(super) struct Vector {
    /// Name, for people and programs.
    pub(super) name: &'static str,
    /// How it should end.
    pub(super) expected: Expected,
    /// Tries it, within [`super::PATIENCE`].
    pub(super) attempt: fn(&Probe<'_>) -> Attempt,
}

/// What one attempt works with.
pub(super) struct Probe<'a> {
    /// What the battery was told.
    pub(super) context: &'a Context,
    /// Put into everything that is sent.
    pub(super) token: String,
}

impl Probe<'_> {
    /// The IPv4 target.
    pub(super) fn target(&self) -> Result<SocketAddrV4, Attempt> {
        self.context.target.ok_or_else(|| Attempt::not_available("no IPv4 --target"))
    }
}

/// The token of a vector in a run.
pub(super) fn token(run: u64, vector: usize) -> String {
    format!("{TOKEN}{run:016x}-{vector:02}")
}

/// What an attempt saw from inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Seen {
    /// It was sent to the workload's listener, or came out of the gateway.
    Captured(String),
    /// It went to the target itself.
    Direct(String),
    /// The kernel took it; whether it arrived is for the witness to say.
    Sent,
    /// The kernel, the listener or the gateway refused.
    Refused(String),
    /// Nothing happened in time.
    Dropped,
    /// It cannot be tried here.
    NotAvailable(String),
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub(super) seen: Seen,
    /// The source port, where the protocol has one that only we use.
    pub(super) port: Option<u16>,
}

impl Attempt {
    pub(super) fn new(seen: Seen) -> Self {
        Self { seen, port: None }
    }

    /// The kernel took it.
    pub(super) fn sent() -> Self {
        Self::new(Seen::Sent)
    }

    pub(super) fn not_available(why: impl fmt::Display) -> Self {
        Self::new(Seen::NotAvailable(why.to_string()))
    }

    /// An error of the system call that would have let something out.
    pub(super) fn refused(error: &io::Error) -> Self {
        Self::new(refused(error))
    }

    pub(super) fn at_port(self, port: u16) -> Self {
        Self { port: Some(port), ..self }
    }
}

/// An attempt that may end early, with what came of it.
pub(super) fn attempt(steps: impl FnOnce() -> Result<Attempt, Attempt>) -> Attempt {
    steps().unwrap_or_else(|ended| ended)
}

/// Judges an error: time is up, or a refusal by its name.
pub(super) fn refused(error: &io::Error) -> Seen {
    match error.raw_os_error() {
        // What SO_SNDTIMEO and SO_RCVTIMEO make of connect() and recv().
        Some(libc::EINPROGRESS | libc::EAGAIN | libc::ETIMEDOUT) => Seen::Dropped,
        None if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => Seen::Dropped,
        _ => Seen::Refused(name(error)),
    }
}

/// The name of an errno, such as `EPERM`.
pub(super) fn name(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| format!("{:?}", Errno::from_raw(number)))
}

#[cfg(test)]
mod tests {
    use std::io;

    use nix::libc;

    use super::{Seen, TOKEN_LENGTH, refused, token};

    #[test]
    fn tokens_have_one_length_and_fit_a_dns_label() {
        assert_eq!(token(0, 0).len(), TOKEN_LENGTH);
        assert_eq!(token(u64::MAX, 99).len(), TOKEN_LENGTH);
        const { assert!(TOKEN_LENGTH <= 63) };
        assert_ne!(token(1, 2), token(1, 3));
    }

    #[test]
    fn silence_is_told_from_refusal() {
        assert_eq!(refused(&io::Error::from_raw_os_error(libc::EINPROGRESS)), Seen::Dropped);
        assert_eq!(refused(&io::ErrorKind::TimedOut.into()), Seen::Dropped);
        assert_eq!(refused(&io::Error::from_raw_os_error(libc::EPERM)), Seen::Refused("EPERM".to_owned()));
    }
}

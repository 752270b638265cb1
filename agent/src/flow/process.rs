//! The process behind a flow: part of a [`FlowRecord`](super::FlowRecord).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who opened it. For people: a process can hand its sockets on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Its number in the PID namespace of the node.
    pub pid: u32,
    /// The name of the thread that called (`comm`, 15 bytes at most).
    pub name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

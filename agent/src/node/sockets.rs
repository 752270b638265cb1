//! The sockets that workloads have, as the kernel lists them: connections that are older than the enrolment, connections that
//! escaped, and sockets that came from elsewhere.
//!
//! `node::life` has every workload looked at, by `watch`. The kernel programs see what begins and what leaves; this sees what
//! is there, whoever let it begin.

mod diag;
mod examine;
mod judge;
mod message;

pub use self::{
    diag::{destroy, list},
    examine::{Findings, Subject, examine},
    judge::{Direct, Rules},
    message::{Protocol, Socket, State},
};

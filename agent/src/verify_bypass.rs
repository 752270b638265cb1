//! `egret verify-bypass`: tries to get out of a workload by every way we know, and says which ones hold. Called by
//! `cli::verify_bypass`.
//!
//! Two halves. The *battery* runs inside a workload. The *witness* runs outside, in another network namespace or on another
//! machine, and sees what reaches it. Every datagram of the battery carries a token of its vector, every connection comes
//! from a source port below the ephemeral range, which no gateway uses for its own connections. What the witness got with
//! one of these came directly: it escaped. The battery asks the witness through the captured path.
//!
//! Without a witness a vector is judged by what can be seen locally, and the report says so. Sends nothing to any address but
//! the given ones and loopback.
//!
//! ```text
//!  battery ── vectors: tcp, surroundings, handed_in, udp, raw, frames, devices, gateway ── each gives an Attempt
//!     └── judge (pure): Attempt, arrivals of the witness ──► Verdict
//!  witness ── sniff: every incoming packet ──► arrivals
//! ```

mod answer;
mod battery;
mod devices;
mod frames;
mod gateway;
mod handed_in;
mod judge;
mod link;
mod local;
mod mapping;
mod netlink;
mod packet;
mod raw;
mod sniff;
mod surroundings;
mod tcp;
mod udp;
mod vector;
pub mod witness;

pub use self::{
    battery::{Report, run, single},
    handed_in::hand_out,
    judge::{Outcome, Verdict},
    vector::{Attempt, Context, Expected},
};

/// What an attempt may take, and a question to the witness.
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(1500);

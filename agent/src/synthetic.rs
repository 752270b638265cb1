//! Synthetic addresses: what DNS capture answers for hosts that ServiceEntries register without addresses of their own, so
//! that a connection to one says which host is meant.
//!
//! Pure. `allocation` gives every host one address per family; `names` says which hosts those are and what a name is answered
//! with. `node::dns` asks both; `explain` asks `names`. The gateway never sees a synthetic address: it gets the name.

mod allocation;
mod names;

pub use allocation::{Allocation, Assigned, Meaning};
pub use names::{Answer, answer, hosts, listed};

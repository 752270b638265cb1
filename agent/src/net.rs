//! Byte streams: copying between two of them, giving bytes that were looked at back to one, and what the kernel knows of one; and where
//! services are.
//!
//! `gateway` and `node` use it. Knows no protocol.

pub mod copy;
pub mod counted;
pub mod endpoints;
pub mod gauge;
pub mod input;
pub mod linger;
pub mod pacing;
pub mod read_ahead;
pub mod rewind;
pub mod scratch;
pub mod take;
#[cfg(test)]
pub(crate) mod testing;

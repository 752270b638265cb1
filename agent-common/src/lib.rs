//! The contract between Egret's kernel programs (`agent-ebpf`) and its user space (`agent`): the keys and values of the
//! maps, their names and sizes, and the decisions that are counted.
//!
//! Both sides compile it. Everything that a map holds is `repr(C)` without padding, addresses and ports are bytes in
//! network order, and fields are private: nothing can be misread on the other side. No code here touches a map.
#![no_std]
#![expect(
    clippy::inline_always,
    reason = "kernel programs must not make calls that the verifier has to follow"
)]

mod conversation;
mod decision;
mod endpoint;
mod event;
mod flow;
mod guard;
pub mod names;
mod older;
mod original;
mod policy;
mod process;
#[cfg(test)]
mod tests;

pub use self::{
    conversation::Conversation,
    decision::Decision,
    endpoint::Endpoint,
    event::{Bypassed, Event, EventKind, Figures},
    flow::{Flow, Heard, LinkSource},
    guard::Guard,
    older::{Older, Standing},
    original::{Captured, Original, OriginalKey},
    policy::Policy,
    process::Process,
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), Copy, 'static, without padding (`tests` asserts the sizes), and every bit pattern is valid.
    unsafe impl aya::Pod for crate::Endpoint {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Policy {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Guard {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::OriginalKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Original {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Older {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Flow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Heard {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::LinkSource {}
}

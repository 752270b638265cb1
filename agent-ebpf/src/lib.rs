//! The pure part of Egret's kernel programs: what to do with a connection, a socket, a packet. Compiled for the BPF target with the
//! programs (`main.rs`), and for the host with its tests. Calls no helper, touches no map.
#![no_std]
#![expect(
    clippy::inline_always,
    reason = "kernel programs must not make calls that the verifier has to follow"
)]

pub mod backstop;
pub mod classify;
pub mod datagram;
pub mod destinations;
pub mod guard;
pub mod header;
pub mod lifetime;
pub mod link;
mod numbers;
pub mod resolver;
pub mod socket_class;
pub mod spread;
#[cfg(test)]
mod testing;
pub mod verdict;

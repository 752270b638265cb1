//! Harness of the end-to-end tests and of `cargo xtask demo`: an external service in its own network namespace, the
//! product's real binary beside it, and the proofs (access logs, packet capture, what is left afterwards).
//!
//! Everything here that makes something in the kernel removes it on drop, and what a killed run left behind is removed
//! by the next one. Nothing here knows how Egret works inside: it only sees the command line, files and packets.
//!
//! Run the tests with `cargo xtask test`. By hand: `cargo test -p egret-tests`, as root.

pub mod application;
pub mod bpf;
pub mod browser;
pub mod capture;
pub mod cgroup;
pub mod cluster;
pub mod config;
pub mod curl;
pub mod egret;
pub mod external;
pub mod foreign;
pub mod hex;
pub mod json_log;
pub mod load;
pub mod netns;
#[cfg(feature = "service")]
pub mod pki;
pub mod privileges;
pub mod process;
pub mod quartiles;
pub mod residue;
pub mod scenario;
#[cfg(feature = "service")]
pub mod service;
pub mod signals;
pub mod transfers;
pub mod wait;

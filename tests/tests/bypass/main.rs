//! The operator's tools that examine a machine, on a real one: `egret verify-bypass` with its witness in another network
//! namespace, and `egret doctor`.
//!
//! Needs root, and `egret` built: `EGRET_BIN`, else `target/release/egret`. Without root it fails, unless
//! `EGRET_TESTS_ALLOW_SKIP=1` says that it may leave itself out.

mod battery;
mod doctor;
mod linked;
mod privileges;
mod rig;
mod unwatched;

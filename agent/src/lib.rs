//! Egret: the code map. Every module opens with what it is, who calls it and what it leaves to others.
//!
//! ```text
//!  cli ──► app ──► node ──────► hbone ──► tls          source ──► mesh (Snapshot)
//!                │   └► datapath (aya)                              ▲
//!                │   └► synthetic ──────────────────────────────────┤
//!                └► gateway ──► hbone, tls, dns                     │
//!                      └──────► route, authz, balance ──────────────┘
//!                └► ca (signs; on a cluster `kubernetes` says who asks)
//!                │     └──────► denials ──► kubernetes (events of pods)
//!                └► kubernetes (the cluster's API: configuration into source, pods into node, gateways into hbone)
//!  cli ──► kubernetes ──► survey (what all of a cluster's Egret says, merged)
//!  cli ──► ui (the page of `egret ui`, over survey)
//!  cli ──► doctor (probes the machine), verify_bypass (tries to get out)
//! ```
//!
//! Bytes are carried on the threads of `workers`; `node` and `gateway` put them there.
//!
//! Invariants:
//! - `mesh`, `route`, `authz`, `balance`, `survey` and `synthetic` are pure: no tokio, no hyper, no kube, no aya, no clock, no I/O.
//! - Only `datapath` names aya; only `kubernetes` names kube; only `tls::provider` names a cryptography crate.
//! - A connection or request ends for exactly one [`reason::Reason`].
//! - A configuration [`mesh::Snapshot`] is immutable; whoever serves traffic reads one atomically.

pub mod admin;
pub mod app;
pub mod authz;
pub mod balance;
pub mod ca;
pub mod cli;
pub mod datapath;
pub mod denials;
pub mod dns;
pub mod doctor;
pub mod explain;
pub mod flow;
pub mod gateway;
pub mod hbone;
pub mod kubernetes;
pub mod memory;
pub mod mesh;
pub mod net;
pub mod node;
pub mod reason;
pub mod route;
pub mod source;
pub mod survey;
pub mod synthetic;
pub mod telemetry;
pub mod tls;
pub mod ui;
pub mod verify_bypass;
pub mod workers;

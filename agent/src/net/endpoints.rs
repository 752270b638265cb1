//! Where the replicas of one of Egret's own services are, and what each may be asked for.
//!
//! `kubernetes` finds out; `hbone::client` chooses among gateways.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// What an endpoint may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Condition {
    /// Anything.
    Ready,
    /// It is ending, and still serves: what it has goes on, nothing new.
    Draining,
}

/// The endpoints of a service at one of its ports. Those that do not serve are not in it.
pub type Endpoints = BTreeMap<SocketAddr, Condition>;

//! A pod as the node sees it, in plain types: what is asked for it, and what is said of it. `kubernetes::pods` reads and writes them.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::hbone::baggage::Baggage;

/// The pods of this node, by the uid in the name of their cgroup.
pub type Pods = BTreeMap<String, Pod>;

/// What is to be said of pods, by namespace and name.
pub type Verdicts = BTreeMap<(String, String), (Pod, Said)>;

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The uid in the name of its cgroup: static pods have another one there.
    pub cgroup: String,
    /// Service account.
    pub service_account: String,
    /// What is asked for it.
    pub wish: Wish,
    /// A label that means nothing, in a sentence.
    pub odd: Option<String>,
    /// A container of it runs.
    pub runs: bool,
    /// All of its containers have ended, for good.
    pub ended: bool,
    /// How its tunnels are described.
    pub baggage: Baggage,
    /// The condition that it has.
    pub condition: Option<Condition>,
}

/// What is asked for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// That it is captured.
    Enrolled,
    /// By its own label, that it is not.
    OptedOut,
    /// Nothing.
    Nobody,
    /// Nobody knows: it stays as it is.
    Unclear,
    /// That it is captured, but it is Egret's own.
    Own,
}

/// A condition of a pod: whether it is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// It is.
    pub holds: bool,
    /// One word for machines.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Since when it is, or is not.
    pub since: Timestamp,
}

/// What is said of a pod now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// It is captured.
    pub holds: bool,
    /// One word for machines.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

//! Which flows are asked for: the filters of `egret flows`, as each side applies them, and as they apply to the joined view.
//!
//! `admin` reads one from the query of `/flows`, `cli` writes it there, and filters again what was joined: no side knows everything.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{FlowId, FlowIdPrefix, FlowRecord, Side, Verdict};
use crate::{mesh::HostPattern, reason::Reason};

/// The order in which flows come, and by which a limit cuts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// The newest count most.
    #[default]
    Started,
    /// Those that moved most bytes, both ways together.
    Bytes,
    /// Those that took longest.
    Duration,
}

impl Sort {
    /// What counts.
    pub fn key(self, record: &FlowRecord) -> i128 {
        match self {
            Self::Started => record.started.as_nanosecond(),
            Self::Bytes => i128::from(bytes(record)),
            Self::Duration => i128::from(record.elapsed_us),
        }
    }
}

/// Flows that somebody wants to see. As the query of a URL: its fields by name, all of them optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowQuery {
    /// Of workloads in this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Of the pods of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// To this host, or `*.example.com`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostPattern>,
    /// Bypassed ones, too; without it they have to be asked for by verdict, reason or id.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bypassed: bool,
    /// With this verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// With this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// That moved so many bytes or more, both ways together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_bytes: Option<u64>,
    /// That were open then, or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// That began or ended then, or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_since: Option<Timestamp>,
    /// Ids or beginnings of ids.
    #[serde(with = "list", skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<FlowIdPrefix>,
    /// By what a limit cuts.
    pub sort: Sort,
    /// So many at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl FlowQuery {
    /// For these flows and nothing else.
    pub fn of(ids: &[FlowId]) -> Self {
        Self { ids: ids.iter().map(|id| (*id).into()).collect(), ..Self::default() }
    }

    /// Whether a flow is asked for, by all that is known of it.
    pub fn selects(&self, flow: &FlowRecord) -> bool {
        self.matcher().selects(flow)
    }

    /// To be asked about many flows.
    pub fn matcher(&self) -> Matcher<'_> {
        Matcher {
            query: self,
            any: self.ids.is_empty(),
            whole: self.ids.iter().filter_map(|id| id.whole()).collect(),
            beginnings: self.ids.iter().copied().filter(|id| id.whole().is_none()).collect(),
        }
    }

    /// As a server-side limit it holds only where the side knows all that counts.
    fn limit(&self) -> usize {
        let outcome = self.host.is_some() || self.verdict.is_some() || self.reason.is_some();
        self.limit.filter(|_| !(self.pod.is_some() && outcome)).unwrap_or(usize::MAX)
    }

    /// Leaves those that count most by their [`Sort::key`], if there are more than asked for; in any order.
    pub fn cut<T>(&self, found: &mut Vec<T>, key: impl Fn(&T) -> i128) {
        let limit = self.limit();
        if limit < found.len() {
            found.select_nth_unstable_by_key(limit, |found| -key(found));
            found.truncate(limit);
        }
    }

    fn concerns(&self, flow: &FlowRecord) -> bool {
        let ended = || flow.ended().unwrap_or(Timestamp::MAX);
        let changed = |since| flow.started >= since || flow.ended().is_some_and(|ended| ended >= since);
        self.namespace.as_ref().is_none_or(|namespace| flow.workload.namespace() == namespace)
            && self.min_bytes.is_none_or(|least| bytes(flow) >= least)
            && self.since.is_none_or(|since| ended() >= since)
            && self.changed_since.is_none_or(changed)
    }

    fn is_of_pod(&self, flow: &FlowRecord) -> bool {
        self.pod.as_ref().is_none_or(|pod| flow.pod.as_deref() == Some(pod))
    }

    fn ended_so(&self, flow: &FlowRecord) -> bool {
        let host = |pattern: &HostPattern| flow.host.as_deref().is_some_and(|host| pattern.matches(host));
        let wanted = self.bypassed || self.verdict.is_some() || self.reason.is_some() || !self.ids.is_empty();
        (wanted || flow.verdict != Verdict::Bypassed)
            && self.host.as_ref().is_none_or(host)
            && self.verdict.is_none_or(|verdict| flow.verdict == verdict)
            && self.reason.is_none_or(|reason| flow.reason == reason)
    }
}

/// A query, made ready for many flows: of a thousand ids none is compared one by one.
#[derive(Debug)]
pub struct Matcher<'a> {
    query: &'a FlowQuery,
    /// No ids are asked for.
    any: bool,
    whole: HashSet<FlowId>,
    beginnings: Vec<FlowIdPrefix>,
}

impl Matcher<'_> {
    /// Whether a flow is asked for, by all that is known of it.
    pub fn selects(&self, flow: &FlowRecord) -> bool {
        self.is_of_ids(flow.id)
            && self.query.concerns(flow)
            && self.query.is_of_pod(flow)
            && self.query.ended_so(flow)
    }

    /// Whether it may be, as far as one side's record tells. Each side answers for what it may be the one to know: pods are known to
    /// the agent only, hosts and most reasons to the gateway.
    pub fn may_select(&self, record: &FlowRecord) -> bool {
        let Self { query, .. } = self;
        let tunnelled = record.legs.tunnel.is_some();
        self.is_of_ids(record.id)
            && query.concerns(record)
            && match record.side {
                Side::Gateway => query.pod.is_none() && query.ended_so(record),
                Side::Agent => {
                    query.is_of_pod(record)
                        && (query.ended_so(record)
                            || tunnelled && query.pod.is_some()
                            || tunnelled && record.verdict != Verdict::Allowed && record.host.is_none())
                }
            }
    }

    fn is_of_ids(&self, id: FlowId) -> bool {
        self.any || self.whole.contains(&id) || self.beginnings.iter().any(|beginning| beginning.matches(id))
    }
}

fn bytes(flow: &FlowRecord) -> u64 {
    flow.sent + flow.received
}

/// Beginnings of ids with commas between them.
mod list {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::flow::FlowIdPrefix;

    pub(super) fn serialize<S: Serializer>(ids: &[FlowIdPrefix], serializer: S) -> Result<S::Ok, S::Error> {
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        serializer.serialize_str(&ids.join(","))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<FlowIdPrefix>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.split(',').map(|id| id.parse().map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests;

//! Counts what records say, in the series of their route: the gateway's half of `telemetry::metrics`.
//!
//! `record` calls it once per request or connection. The series is looked up by what tells it apart, and remembered for the next
//! request of the same connection: then counting is a few comparisons of short strings and a few additions.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{Gateway, tunnel::Session};
use crate::{
    flow::Verdict,
    mesh::{HostPattern, ObjectRef, Snapshot, SpiffeId, without_port},
    reason::Reason,
    telemetry::{
        access_log::Entry,
        metrics::{
            refusals::RefusalLabels,
            traffic::{Carried, Code, GrpcStatus, Http, HttpLabels, Route, Source, Tcp, TcpLabels, UNKNOWN},
        },
    },
};

/// The service of hosts that are not registered and pass, and of those that are refused: Istio's names.
const PASSTHROUGH: &str = "PassthroughCluster";
const BLACK_HOLE: &str = "BlackHoleCluster";

/// The object and rule behind a refusal.
#[derive(Debug, Default)]
pub(super) struct Blame {
    /// The object.
    pub(super) object: Option<ObjectRef>,
    /// The rule that allowed or denied it.
    pub(super) rule: Option<usize>,
}

/// Counts what one connection carries.
pub(super) struct Meter {
    identity: SpiffeId,
    source: Source,
    last: Mutex<Option<Last>>,
}

/// The last request, and its series.
struct Last {
    target: Target,
    status: u16,
    reason: Reason,
    grpc_status: Option<u16>,
    http: Http,
}

/// What tells destinations apart.
#[derive(PartialEq, Eq)]
enum Target {
    /// Where it was routed to.
    Cluster(Arc<str>),
    /// What was asked for and not routed.
    Asked(Option<Box<str>>),
}

impl Target {
    fn of(entry: &Entry) -> Self {
        match &entry.upstream_cluster {
            Some(cluster) => Self::Cluster(Arc::clone(cluster)),
            None => Self::Asked(entry.asked().map(Into::into)),
        }
    }

    fn is_of(&self, entry: &Entry) -> bool {
        match (self, &entry.upstream_cluster) {
            (Self::Cluster(last), Some(cluster)) => last == cluster,
            (Self::Asked(last), None) => last.as_deref() == entry.asked(),
            _ => false,
        }
    }
}

impl Meter {
    /// Of a connection of this workload, with the name that its agent gives it.
    pub(super) fn new(identity: &SpiffeId, workload: Option<Arc<str>>) -> Self {
        Self {
            source: Source {
                workload: workload.unwrap_or_else(|| UNKNOWN.into()),
                namespace: identity.namespace().into(),
                principal: identity.to_string().into(),
            },
            identity: identity.clone(),
            last: Mutex::default(),
        }
    }

    /// Counts a request, or a connection, that has ended. `carried`: as one that is not HTTP, and is counted already.
    pub(super) fn count(
        &self,
        gateway: &Gateway,
        entry: &Entry,
        blame: &Blame,
        carried: bool,
        took: Duration,
    ) {
        if entry.protocol.is_some() || entry.response_code != 0 {
            self.request(gateway, entry, took);
        } else if !carried && Verdict::of(entry.reason) != Verdict::Allowed {
            self.tcp(gateway, entry, entry.response_flags).fail();
        }
        let verdict = match Verdict::of(entry.reason) {
            Verdict::Allowed | Verdict::Bypassed => return,
            Verdict::Denied => "denied",
            Verdict::Failed => "failed",
        };
        let text = |object: Option<String>| object.unwrap_or_default().into();
        gateway.refusals.count(&RefusalLabels {
            verdict,
            reason: entry.reason.as_str(),
            object: text(blame.object.as_ref().map(ToString::to_string)),
            // One that allowed is not behind what failed later.
            rule: text(
                blame.rule.filter(|_| entry.reason == Reason::PolicyDenied).map(|rule| rule.to_string()),
            ),
            source_workload_namespace: Arc::clone(&self.source.namespace),
        });
    }

    /// Counts a connection that is not HTTP until the answer is dropped.
    pub(super) fn carry(&self, session: &Session, entry: &Entry) -> Carried {
        let tcp = self.tcp(&session.gateway, entry, Reason::Completed.response_flags());
        session.gateway.traffic.carry(tcp, &session.flow)
    }

    fn request(&self, gateway: &Gateway, entry: &Entry, took: Duration) {
        let mut last = self.last.lock();
        let is_same = |last: &&mut Last| {
            last.status == entry.response_code
                && last.reason == entry.reason
                && last.grpc_status == entry.grpc_status
                && last.target.is_of(entry)
        };
        let found = match last.as_mut().filter(is_same) {
            Some(same) => same,
            None => last.insert(Last {
                target: Target::of(entry),
                status: entry.response_code,
                reason: entry.reason,
                grpc_status: entry.grpc_status,
                http: gateway.traffic.http.series(&HttpLabels {
                    route: self.route(&gateway.snapshot(), entry),
                    request_protocol: if entry.grpc_status.is_some() { "grpc" } else { "http" },
                    response_code: Code::of(entry.response_code),
                    grpc_response_status: GrpcStatus::of(entry.grpc_status),
                    response_flags: entry.response_flags,
                }),
            }),
        };
        found.http.count(took, entry.bytes_received, entry.bytes_sent);
    }

    fn tcp(&self, gateway: &Gateway, entry: &Entry, response_flags: &'static str) -> Tcp {
        let route = self.route(&gateway.snapshot(), entry);
        gateway.traffic.tcp.series(&TcpLabels { route, request_protocol: "tcp", response_flags })
    }

    fn route(&self, snapshot: &Snapshot, entry: &Entry) -> Route {
        let (service, namespace) = match &entry.upstream_cluster {
            Some(cluster) if **cluster == *PASSTHROUGH => (PASSTHROUGH.into(), UNKNOWN.into()),
            // outbound|443|subset|host
            Some(cluster) => self.registered(snapshot, cluster.rsplit('|').next()),
            None if entry.reason == Reason::NotRegistered => (BLACK_HOLE.into(), UNKNOWN.into()),
            None => self.registered(snapshot, entry.asked()),
        };
        Route::new(&self.source, &service, &namespace)
    }

    /// The service that registers `host`, by the name that it has in its ServiceEntry: never by one that somebody made up.
    fn registered(&self, snapshot: &Snapshot, host: Option<&str>) -> (Arc<str>, Arc<str>) {
        let eyes = [&*snapshot.settings.gateway.namespace, self.identity.namespace()];
        let name = host.and_then(|host| match HostPattern::parse(without_port(host)) {
            Ok(HostPattern::Exact(name)) => Some(name),
            _ => None,
        });
        let service = name.and_then(|name| snapshot.registry.visible(&name, &eyes).next().cloned());
        match service {
            Some(service) => {
                (service.host.to_string().into(), Arc::clone(&service.entries[0].object.namespace))
            }
            None => (UNKNOWN.into(), UNKNOWN.into()),
        }
    }
}

#[cfg(test)]
mod tests;

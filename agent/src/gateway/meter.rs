//! Counts what records say, in the series of their route: the gateway's half of `telemetry::metrics`.
//!
//! `record` calls it once per request or connection. The series is looked up by what tells it apart, and remembered for the next
//! request of the same connection: then counting is a few comparisons of short strings and a few additions.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{Gateway, tunnel::Session};
use crate::{
    flow::Verdict,
    mesh::{HostPattern, ObjectRef, Snapshot, SpiffeId},
    reason::Reason,
    telemetry::{
        access_log::Entry,
        metrics::{
            refusals::RefusalLabels,
            traffic::{Carried, Code, Http, HttpLabels, Route, Tcp, TcpLabels, UNKNOWN},
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
    source: SpiffeId,
    namespace: Arc<str>,
    principal: Arc<str>,
    last: Mutex<Option<Last>>,
}

/// The last request, and its series.
struct Last {
    target: Target,
    status: u16,
    reason: Reason,
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
            None => Self::Asked(asked(entry).map(Into::into)),
        }
    }

    fn is_of(&self, entry: &Entry) -> bool {
        match (self, &entry.upstream_cluster) {
            (Self::Cluster(last), Some(cluster)) => last == cluster,
            (Self::Asked(last), None) => last.as_deref() == asked(entry),
            _ => false,
        }
    }
}

/// The name that was asked for, as it was sent.
fn asked(entry: &Entry) -> Option<&str> {
    entry.authority.as_deref().or(entry.requested_server_name.as_deref()).or(entry.dialled_host.as_deref())
}

impl Meter {
    /// Of a connection of this workload.
    pub(super) fn new(source: &SpiffeId) -> Self {
        Self {
            source: source.clone(),
            namespace: source.namespace().into(),
            principal: source.to_string().into(),
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
            source_workload_namespace: Arc::clone(&self.namespace),
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
            last.status == entry.response_code && last.reason == entry.reason && last.target.is_of(entry)
        };
        let found = match last.as_mut().filter(is_same) {
            Some(same) => same,
            None => last.insert(Last {
                target: Target::of(entry),
                status: entry.response_code,
                reason: entry.reason,
                http: gateway.traffic.http.series(&HttpLabels {
                    route: self.route(&gateway.snapshot(), entry),
                    request_protocol: "http",
                    response_code: Code::of(entry.response_code),
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
            None => self.registered(snapshot, asked(entry)),
        };
        Route::new(&self.namespace, &self.principal, &service, &namespace)
    }

    /// The service that registers `host`, by the name that it has in its ServiceEntry: never by one that somebody made up.
    fn registered(&self, snapshot: &Snapshot, host: Option<&str>) -> (Arc<str>, Arc<str>) {
        let eyes = [&*snapshot.settings.gateway.namespace, self.source.namespace()];
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

/// `test.com:80` is `test.com`; what is no port stays.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests;

//! What is written down about one request or connection: its access log line, and its part of the flow record.
//!
//! A [`Record`] writes its line when it is dropped, so no path can forget to; until somebody says how it ended, the
//! client went away.

use std::{
    cell::RefCell,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderMap;
use jiff::Timestamp;
use opentelemetry::trace::SpanContext;

use super::{decide::Decided, http::grpc::status_of_http, meter::Blame, originate::Peer, tunnel::Session};
use crate::{
    denials::Denial,
    flow::{DecidedBy, Part, UpstreamLeg, Verdict},
    mesh::ObjectRef,
    reason::{Reason, Refusal},
    route::{RoutePath, Upstream},
    telemetry::{
        access_log::Entry,
        metrics::traffic::Carried,
        traces::{
            Finished,
            context::{self, Begun},
        },
    },
};

/// What one request took at its upstream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    /// Until its name was resolved, where there was one to resolve.
    pub(super) dns_us: Option<u64>,
    /// From the connection to the head of the answer.
    pub(super) first_byte_us: Option<u64>,
}

/// The record of one request or connection.
pub(super) struct Record {
    session: Arc<Session>,
    started: Instant,
    entry: Option<Box<Entry>>,
    /// It is a gRPC call.
    grpc: bool,
    span: Option<Begun>,
    blame: Blame,
    /// Counts a connection that is not HTTP, once it is open.
    carried: Option<Carried>,
}

impl Record {
    /// A record that starts now.
    pub(super) fn start(session: &Arc<Session>) -> Self {
        let mut entry = Entry::new(
            Timestamp::now(),
            Arc::clone(&session.principal),
            session.flow.id(),
            session.original_destination,
            session.caller.address,
        );
        entry.dialled_host.clone_from(&session.dialled_host);
        entry.reason = Reason::ClientGone;
        entry.response_flags = Reason::ClientGone.response_flags();
        entry.response_code_details = Reason::ClientGone.as_str();
        Self {
            session: Arc::clone(session),
            started: Instant::now(),
            entry: Some(Box::new(entry)),
            grpc: false,
            span: None,
            blame: Blame::default(),
            carried: None,
        }
    }

    /// Traces it, if that is to be, as part of what `parent` says.
    pub(super) fn trace(&mut self, parent: impl FnOnce() -> Option<SpanContext>) {
        self.span = self.session.gateway.parts.traces.as_ref().and_then(|traces| traces.begin(parent()));
    }

    /// Makes what is sent on part of the trace. What is not traced here stays as it is.
    pub(super) fn propagate(&self, headers: &mut HeaderMap) {
        if let Some(span) = &self.span {
            context::propagate(span, headers);
        }
    }

    /// Changes the access log line.
    pub(super) fn note(&mut self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = &mut self.entry {
            change(entry);
        }
    }

    /// It is a gRPC call.
    pub(super) fn is_grpc(&mut self) {
        self.grpc = true;
    }

    /// Notes the objects that decided.
    pub(super) fn decided(&mut self, decided: &Decided) {
        let Told { by, texts } = told(decided);
        self.session.flow.update(|flow| {
            // The next request of a connection is decided as the one before, nearly always.
            if !flow.decided_by.as_ref().is_some_and(|known| Arc::ptr_eq(known, &by)) {
                flow.decided_by = Some(by);
            }
        });
        let RoutePath { mesh_route, gateway_route, .. } = &decided.path;
        self.blame.rule = decided.policy.as_ref().map(|rule| rule.rule);
        self.note(|entry| {
            entry.route_name =
                gateway_route.as_ref().or(mesh_route.as_ref()).map(|(_, name)| Arc::clone(name));
            entry.mesh_route = texts.mesh_route;
            entry.gateway_route = texts.gateway_route;
            entry.gateway = texts.gateway;
            entry.service_entry = texts.service_entry;
            entry.destination_rule = texts.destination_rule;
            entry.policy = texts.policy;
        });
    }

    /// Notes where it goes.
    pub(super) fn upstream(&mut self, upstream: &Upstream) {
        let cluster = Arc::clone(&upstream.cluster);
        self.session.flow.update(|flow| {
            if flow.upstream_cluster.as_ref() != Some(&cluster) {
                flow.upstream_cluster = Some(Arc::clone(&cluster));
            }
        });
        self.note(|entry| entry.upstream_cluster = Some(cluster));
    }

    /// Notes which connection carries it, and how that went.
    pub(super) fn peer(&mut self, peer: &Peer, reused: bool, times: Times) {
        let Times { dns_us, first_byte_us } = times;
        self.session.flow.served(|| {
            let connection = Arc::clone(&peer.connection);
            (UpstreamLeg { connection, reused, dns_us, first_byte_us, tcp: None }, peer.gauge.clone())
        });
        self.note(|entry| {
            entry.upstream_host = Some(peer.connection.endpoint);
            entry.upstream_local_address = peer.connection.local;
            entry.upstream_tls_version = peer.tls_version;
            entry.upstream_peer.clone_from(&peer.connection.peer);
        });
    }

    /// It is a connection that is not HTTP, and both of its sides are open: counted until its end.
    pub(super) fn carried(&mut self) {
        self.carried = self.entry.as_ref().map(|entry| self.session.meter.carry(&self.session, entry));
    }

    /// Notes the endpoint at which it failed.
    pub(super) fn attempted(&mut self, address: Option<SocketAddr>) {
        self.session.flow.attempted(address);
        self.note(|entry| entry.upstream_host = address);
    }

    /// Milliseconds since the start.
    pub(super) fn elapsed(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// It ended as its two ends wanted.
    pub(super) fn completed(&mut self) {
        self.note(|entry| {
            entry.reason = Reason::Completed;
            entry.response_flags = Reason::Completed.response_flags();
            entry.response_code_details = "via_upstream";
        });
    }

    /// It was refused, or failed.
    pub(super) fn failed(&mut self, refusal: &Refusal) {
        self.session.flow.fail(refusal);
        self.blame.object.clone_from(&refusal.object);
        self.note(|entry| {
            entry.reason = refusal.reason;
            entry.response_flags = refusal.reason.response_flags();
            entry.response_code_details = match refusal.reason {
                Reason::PolicyDenied => "rbac_access_denied",
                reason => reason.as_str(),
            };
            entry.reason_detail = Some(match &refusal.object {
                Some(object) => format!("{object}: {}", refusal.detail),
                None => refusal.detail.clone(),
            });
            if matches!(
                refusal.reason,
                Reason::UpstreamConnect | Reason::UpstreamTls | Reason::Credential | Reason::UpstreamReset
            ) {
                entry.upstream_transport_failure_reason = Some(refusal.detail.clone());
            }
        });
    }
}

impl Record {
    /// Ends its span.
    fn finish(&mut self, entry: &Entry, took: Duration) {
        if let (Some(begun), Some(traces)) = (self.span.take(), &self.session.gateway.parts.traces) {
            traces.finish(Finished {
                begun,
                entry: entry.clone(),
                took,
                workload: self.session.workload.clone(),
                object: self.blame.object.as_ref().map(ToString::to_string),
            });
        }
    }

    /// Of what was denied, where the peer said which pod it is.
    fn tell_pod(&self, entry: &Entry) {
        let Session { gateway, caller, pod, original_destination, .. } = &*self.session;
        let Some(pod) = pod.clone() else { return };
        let object = self.blame.object.clone();
        let detail = entry.reason_detail.as_deref().unwrap_or_default();
        let prefix = object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
        gateway.parts.denials.offer(Denial {
            pod,
            source: caller.source.clone(),
            reason: entry.reason,
            host: entry.asked().map_or_else(|| original_destination.ip().to_string(), str::to_owned),
            port: original_destination.port(),
            method: entry.method.clone(),
            detail: detail.strip_prefix(&prefix).unwrap_or(detail).to_owned(),
            object,
        });
    }
}

fn decided_by(decided: &Decided) -> DecidedBy {
    let RoutePath { mesh_route, gateway, gateway_route, service_entry, destination_rule } = &decided.path;
    let route = |(object, name): &(ObjectRef, Arc<str>)| Part::of(object.clone(), Arc::clone(name));
    let whole = |object: &ObjectRef| Part::whole(object.clone());
    DecidedBy {
        policy: decided.policy.as_ref().map(|rule| Part::of(rule.policy.clone(), rule.rule.to_string())),
        mesh_route: mesh_route.as_ref().map(route),
        gateway: gateway.as_ref().map(whole),
        gateway_route: gateway_route.as_ref().map(route),
        service_entry: service_entry.as_ref().map(whole),
        destination_rule: destination_rule.as_ref().map(whole),
    }
}

/// The objects of a decision, for flow records and for the access log.
#[derive(Clone)]
struct Told {
    by: Arc<DecidedBy>,
    texts: Texts,
}

/// The same as the access log has them.
#[derive(Clone)]
struct Texts {
    mesh_route: Option<Arc<str>>,
    gateway: Option<Arc<str>>,
    gateway_route: Option<Arc<str>>,
    service_entry: Option<Arc<str>>,
    destination_rule: Option<Arc<str>>,
    policy: Option<Arc<str>>,
}

impl Told {
    fn new(decided: &Decided) -> Self {
        let RoutePath { mesh_route, gateway, gateway_route, service_entry, destination_rule } = &decided.path;
        let route = |(object, name): &(ObjectRef, Arc<str>)| format!("{object} {name}").into();
        let whole = |object: &ObjectRef| object.to_string().into();
        let texts = Texts {
            mesh_route: mesh_route.as_ref().map(route),
            gateway: gateway.as_ref().map(whole),
            gateway_route: gateway_route.as_ref().map(route),
            service_entry: service_entry.as_ref().map(whole),
            destination_rule: destination_rule.as_ref().map(whole),
            policy: decided.policy.as_ref().map(|rule| format!("{}[{}]", rule.policy, rule.rule).into()),
        };
        Self { by: Arc::new(decided_by(decided)), texts }
    }
}

thread_local! {
    /// What decided last on this thread.
    static LAST: RefCell<Option<Told>> = const { RefCell::new(None) };
}

/// The objects of a decision; what is decided about alike, one after the other, shares them.
fn told(decided: &Decided) -> Told {
    LAST.with_borrow_mut(|last| match last {
        Some(told) if is_by(&told.by, decided) => told.clone(),
        _ => last.insert(Told::new(decided)).clone(),
    })
}

/// Whether these are the objects of this decision.
fn is_by(known: &DecidedBy, decided: &Decided) -> bool {
    let RoutePath { mesh_route, gateway, gateway_route, service_entry, destination_rule } = &decided.path;
    let is_whole = |known: &Option<Part>, object: &Option<ObjectRef>| {
        known.as_ref().map(|part| &part.object) == object.as_ref()
    };
    let is_route = |known: &Option<Part>, route: &Option<(ObjectRef, Arc<str>)>| {
        known.as_ref().map(|part| (&part.object, part.part.as_ref()))
            == route.as_ref().map(|(object, name)| (object, Some(name)))
    };
    let is_policy = match (&known.policy, &decided.policy) {
        (None, None) => true,
        (Some(known), Some(rule)) => {
            known.object == rule.policy
                && known.part.as_deref().and_then(|part| part.parse().ok()) == Some(rule.rule)
        }
        _ => false,
    };
    is_policy
        && is_route(&known.mesh_route, mesh_route)
        && is_whole(&known.gateway, gateway)
        && is_route(&known.gateway_route, gateway_route)
        && is_whole(&known.service_entry, service_entry)
        && is_whole(&known.destination_rule, destination_rule)
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(mut entry) = self.entry.take() {
            entry.duration = self.elapsed();
            entry.grpc_status =
                self.grpc.then(|| entry.grpc_status.unwrap_or_else(|| status_of_http(entry.response_code)));
            let took = self.started.elapsed();
            let is_carried = self.carried.take().is_some();
            if Verdict::of(entry.reason) == Verdict::Denied && self.session.gateway.parts.denials.are_told() {
                self.tell_pod(&entry);
            }
            self.session.meter.count(&self.session.gateway, &entry, &self.blame, is_carried, took);
            self.finish(&entry, took);
            self.session.gateway.parts.access_log.write(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Record;
    use crate::{
        denials::Denial,
        gateway::testing::Bench,
        mesh::{Kind, ObjectRef},
        reason::{Reason, Refusal},
    };

    const POD: &str = "k8s.namespace.name=default,k8s.pod.name=sleep-1,k8s.pod.uid=u";

    /// What the pod is told of a request to `test.com:80` that ended so.
    fn told(baggage: Option<&str>, refusal: Option<&Refusal>) -> Vec<Denial> {
        let bench = Bench::new();
        let mut record = Record::start(&bench.described(baggage, None));
        record.note(|entry| {
            (entry.method, entry.authority) = (Some("GET".to_owned()), Some("test.com".to_owned()));
            entry.path = Some("/?token=secret".to_owned());
        });
        match refusal {
            Some(refusal) => record.failed(refusal),
            None => record.completed(),
        }
        drop(record);
        bench.denied()
    }

    fn denied() -> Refusal {
        let policy = ObjectRef::new(Kind::AuthorizationPolicy, "istio-system", "no");
        Refusal::new(Reason::PolicyDenied, format!("denied by rule 0 of {policy}")).by(policy)
    }

    #[tokio::test]
    async fn a_pod_is_told_what_was_denied_to_it_and_no_secret() {
        let told = told(Some(POD), Some(&denied()));
        assert_eq!(told.len(), 1);
        let note = "GET of test.com:80 was denied, policy_denied: denied by rule 0 of AuthorizationPolicy istio-system/no; to see why: \
                    egret explain --cluster --from default/sleep GET http://test.com:80/";
        assert_eq!((&*told[0].pod.name, &*told[0].pod.uid, told[0].note().as_str()), ("sleep-1", "u", note));
    }

    #[tokio::test]
    async fn nothing_else_is_told_and_nobody_elses_pod() {
        let failed = Refusal::new(Reason::UpstreamConnect, "connection refused");
        for (baggage, refusal) in [
            (Some(POD), None),
            (Some(POD), Some(failed)),
            (None, Some(denied())),
            (Some("k8s.namespace.name=other,k8s.pod.name=sleep-1,k8s.pod.uid=u"), Some(denied())),
            (Some("k8s.namespace.name=default,k8s.deployment.name=sleep"), Some(denied())),
        ] {
            assert_eq!(told(baggage, refusal.as_ref()), [], "{baggage:?} {refusal:?}");
        }
    }
}

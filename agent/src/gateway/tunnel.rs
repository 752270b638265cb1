//! One tunnel: one egress connection of a workload, from CONNECT to its end.
//!
//! `gateway` calls [`serve`] per CONNECT stream. Decides what the connection speaks and hands it to `http`, `tls` or
//! `opaque`.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{io::AsyncRead, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Gateway, decide, http,
    meter::Meter,
    opaque,
    protocol::{Protocol, detect},
    record::Record,
    tls,
    upstream::check_original_destination,
};
use crate::{
    authz,
    flow::{FlowHandle, FlowId, TunnelLeg, Wait},
    hbone::{
        baggage::{Baggage, PodName},
        headers::Connect,
        server::Incoming,
        tunnel::Carrier,
    },
    mesh::SpiffeId,
    net::{rewind::Rewind, take::TakeBytes},
    reason::{Reason, Refusal},
    route::{self, AppProtocol, Connection, HttpRequest},
    telemetry::traces::context,
};

/// Who opened a tunnel.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// The verified identity.
    pub(super) source: SpiffeId,
    /// Its address.
    pub(super) address: SocketAddr,
    /// The gateway's address it connected to.
    pub(super) local: SocketAddr,
    /// The connection that carries its tunnels.
    pub(super) carrier: Option<Carrier>,
}

/// One egress connection. Dropping the last reference ends the flow.
pub(super) struct Session {
    pub(super) gateway: Arc<Gateway>,
    pub(super) caller: Caller,
    /// The address the workload dialled.
    pub(super) original_destination: SocketAddr,
    /// The host that this address is synthetic for.
    pub(super) dialled_host: Option<Arc<str>>,
    /// The caller's identity without its scheme, as policies and the access log have it.
    pub(super) principal: Arc<str>,
    /// Name of the workload, as its agent gives it.
    pub(super) workload: Option<Arc<str>>,
    /// The span that opened the tunnel, as it was sent.
    traceparent: Option<String>,
    pub(super) flow: Arc<FlowHandle>,
    pub(super) meter: Meter,
    /// The workload's pod, where the peer says it.
    pub(super) pod: Option<PodName>,
}

impl Session {
    /// Opens the flow of a connection.
    pub(super) fn open(gateway: Arc<Gateway>, caller: Caller, connect: &Connect) -> Arc<Self> {
        let id = connect.flow_id.unwrap_or_else(FlowId::random);
        let (original_destination, dialled_host) =
            (connect.original_destination, connect.dialled_host.clone());
        let flow = Arc::new(gateway.parts.flows.open(id, caller.source.clone(), original_destination));
        let described = connect.baggage.as_deref().and_then(|text| described(text, &caller.source));
        flow.update(|flow| {
            flow.host.clone_from(&dialled_host);
            if let Some(baggage) = &described {
                flow.describe(baggage);
            }
        });
        if let Some(Carrier { connection, gauge }) = &caller.carrier {
            flow.tunnelled(|| {
                let connection = Arc::clone(connection);
                let leg =
                    TunnelLeg { connection, reused: None, certificate_us: None, setup_us: None, tcp: None };
                (leg, gauge.clone())
            });
        }
        gateway.tunnels.fetch_add(1, Relaxed);
        let workload = described.as_ref().and_then(Baggage::workload).cloned();
        let meter = Meter::new(&caller.source, workload.clone());
        let traceparent = connect.traceparent.clone();
        let pod = described.and_then(|baggage| baggage.pod);
        Arc::new(Self {
            gateway,
            principal: caller.source.principal().into(),
            caller,
            original_destination,
            dialled_host,
            workload,
            traceparent,
            flow,
            meter,
            pod,
        })
    }

    /// A record of the whole connection, traced as the tunnel says.
    pub(super) fn record(self: &Arc<Self>) -> Record {
        let mut record = Record::start(self);
        record.trace(|| context::parse(self.traceparent.as_deref()?, ""));
        record
    }

    /// What a policy may look at.
    pub(super) fn request<'a>(
        &'a self,
        sni: Option<&'a str>,
        http: Option<&'a HttpRequest<'a>>,
    ) -> authz::Request<'a> {
        authz::Request {
            source: &self.caller.source,
            source_address: self.caller.address,
            original_destination: self.original_destination,
            dialled_host: self.dialled_host.as_deref(),
            sni,
            http,
        }
    }
}

/// What a peer says of its workload: believed of its own namespace, as a description.
fn described(text: &str, source: &SpiffeId) -> Option<Baggage> {
    let baggage: Baggage = text
        .parse()
        .inspect_err(|e| tracing::debug!(%source, "the baggage of a tunnel is passed over: {e}"))
        .ok()?;
    let of_source = baggage.namespace.as_deref() == Some(source.namespace());
    if !of_source {
        tracing::debug!(%source, "the baggage of a tunnel is passed over: it is of another namespace than the peer");
    }
    of_source.then_some(baggage)
}

impl Drop for Session {
    fn drop(&mut self) {
        self.gateway.tunnels.fetch_sub(1, Relaxed);
    }
}

/// What carries one connection to its end.
type Carried = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves one CONNECT stream: decides at once whether it is accepted; what is awaited carries it.
pub(super) fn serve(
    incoming: Incoming,
    gateway: Arc<Gateway>,
    caller: Caller,
    drain: CancellationToken,
) -> impl Future<Output = ()> + Send {
    let accepted = accept(incoming, gateway, caller, drain);
    async move {
        if let Some(carried) = accepted {
            carried.await;
        }
    }
}

fn accept(
    incoming: Incoming,
    gateway: Arc<Gateway>,
    caller: Caller,
    drain: CancellationToken,
) -> Option<Carried> {
    let session = Session::open(gateway, caller, incoming.connect());
    // A name is looked up in the registry, and nothing is dialled on the workload's word.
    if session.dialled_host.is_none()
        && let Err(refusal) =
            check_original_destination(session.original_destination, session.caller.local.ip())
    {
        session.record().failed(&refusal);
        incoming.refuse(&refusal);
        return None;
    }
    let snapshot = session.gateway.snapshot();
    let connection = Connection {
        source: &session.caller.source,
        original_destination: session.original_destination,
        dialled_host: session.dialled_host.as_deref(),
    };
    let declared = route::declared_protocol(&snapshot, &connection);
    drop(snapshot);
    // Whether opaque bytes may pass is known before the first of them: the agent is told, and its client is refused at once.
    let planned = match declared {
        AppProtocol::Tcp => match opaque::plan(&session, decide::tcp) {
            Ok(planned) => Some(planned),
            Err(refusal) => {
                incoming.refuse(&refusal);
                return None;
            }
        },
        _ => None,
    };
    match (incoming.accept(), planned) {
        (Ok(tunnel), Some(planned)) => Some(Box::pin(opaque::run(tunnel, planned, session, decide::tcp))),
        (Ok(tunnel), None) => Some(Box::pin(async move {
            if let Some(carried) = Box::pin(tell_apart(tunnel, declared, session, drain)).await {
                carried.await;
            }
        })),
        (Err(error), _) => {
            let detail = format!("the tunnel ended before it was accepted: {error}");
            session.record().failed(&Refusal::new(Reason::ClientGone, detail));
            None
        }
    }
}

/// Tells what `io` speaks, and who carries it therefore. Each step is boxed: what stays while nothing moves is the one that is needed.
async fn tell_apart<IO>(
    mut io: IO,
    declared: AppProtocol,
    session: Arc<Session>,
    drain: CancellationToken,
) -> Option<Carried>
where
    IO: AsyncRead + TakeBytes + Unpin + Send + 'static,
{
    let began = Instant::now();
    session.flow.waits(Wait::SilentNear, began);
    let (protocol, start) = match detect(&mut io, session.gateway.settings.detection_timeout).await {
        Ok((protocol, start)) => {
            note_detection(&session.flow, began.elapsed(), protocol == Protocol::Opaque && start.is_empty());
            (protocol, start)
        }
        Err(error) => {
            let detail = format!("the workload's connection broke before it said anything: {error}");
            session.record().failed(&Refusal::new(Reason::ClientGone, detail));
            return None;
        }
    };
    let io = Rewind::new(start, io);
    Some(match (declared, protocol) {
        (_, Protocol::Tls(sni)) => Box::pin(tls::serve(io, sni, session, decide::tls)),
        (AppProtocol::Tls | AppProtocol::Tcp, _) => Box::pin(opaque::serve(io, session, decide::tcp)),
        (_, Protocol::Http2) => Box::pin(http::serve_http2(io, session, drain, decide::http)),
        // A port declared HTTP is HTTP whatever comes: what is not is answered 400.
        (AppProtocol::Http | AppProtocol::Http2, _) | (_, Protocol::Http1) => {
            Box::pin(http::serve_http1(io, session, drain, decide::http))
        }
        (AppProtocol::Https | AppProtocol::Detect, Protocol::Opaque) => {
            Box::pin(opaque::serve(io, session, decide::tcp))
        }
    })
}

/// A workload that says nothing has been waited for in vain: its server speaks first.
fn note_detection(flow: &FlowHandle, took: Duration, in_vain: bool) {
    if in_vain {
        flow.update(|record| record.undetected_us = Some(took.as_micros() as u64));
    } else {
        flow.waited(Wait::SilentNear, took);
    }
    // What comes next is up to the upstream, or to whoever says something else.
    flow.waits(Wait::SilentFar, Instant::now());
}

#[cfg(test)]
mod tests {
    use crate::gateway::testing::Bench;

    /// Name of the workload and of its pod in the flow of a tunnel with this baggage, from namespace `default`.
    fn known(baggage: &str) -> (Option<String>, Option<String>) {
        let bench = Bench::new();
        drop(bench.described(Some(baggage), None));
        let record = bench.gateway.parts.flows.records().remove(0);
        let [workload, pod] =
            [record.workload_name, record.pod].map(|name| name.map(|name| name.to_string()));
        assert_eq!(pod.is_some(), record.pod_uid.is_some());
        (workload, pod)
    }

    #[tokio::test]
    async fn a_peer_describes_workloads_of_its_own_namespace_only() {
        let of = |namespace: &str| {
            known(&format!("{namespace}k8s.pod.name=cart-1,k8s.pod.uid=u,k8s.deployment.name=cart"))
        };
        let both = (Some("cart".to_owned()), Some("cart-1".to_owned()));
        assert_eq!(of("k8s.namespace.name=default,"), both);
        for other in
            ["k8s.namespace.name=shop,", "k8s.namespace.name=,", "", "nonsense,k8s.namespace.name=default,"]
        {
            assert_eq!(of(other), (None, None), "{other}");
        }
    }
}

//! One captured connection, from accept to close: original destination, certificate, tunnel, bytes.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use super::{
    agent::{Agent, Enrolled},
    description::Description,
    presence::Presence,
    refuse,
};
use crate::{
    datapath::{Caller, Taken},
    flow::{FlowHandle, FlowId, Process, TunnelLeg, shared},
    hbone::{client, headers::Connect, tunnel::Tunnel},
    net::{copy, gauge::Gauged},
    reason::{Reason, Refusal},
};

/// A connection on which no byte moves is closed after this long. Istio's default for TCP is 1 h
/// (`tcp_proxy.idle_timeout`); the gateway ends idle HTTP sooner.
const IDLE_TIMEOUT: Duration = Duration::from_hours(1);

/// Serves a connection that a listener of the workload accepted from `peer` at `port`.
pub(super) async fn serve(
    agent: Arc<Agent>,
    enrolled: Arc<Enrolled>,
    presence: Arc<Presence>,
    stream: TcpStream,
    peer: SocketAddr,
    port: u16,
) {
    let taken = agent.capture.take_original_destination(enrolled.workload.id, peer, port);
    if presence.hop.arrived(peer, taken.as_ref().map(|taken| taken.destination)) {
        // Of the self-check, and at its end here: no traffic.
        return;
    }
    let Some(Taken { destination: original_destination, caller }) = taken else {
        // Somebody dialled the listener itself, or the client is gone: never a guess, never traffic (design D5).
        agent.counters.original_destination_miss.increment();
        tracing::debug!(workload = %enrolled.workload.identity, %peer, "no original destination; connection reset");
        refuse::reset(stream);
        return;
    };
    agent.counters.accepted.increment();
    let flow = agent.flows.open(FlowId::random(), enrolled.workload.identity.clone(), original_destination);
    let description = enrolled.description();
    flow.update(|record| {
        record.pod = enrolled.workload.pod().map(shared);
        record.describe(description.baggage());
        record.process = caller.map(|Caller { pid, name }| Process { pid, name }.into());
    });
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY: {e}");
    }
    let mut stream = Gauged::new(stream);
    flow.captured(|| stream.gauge().clone());
    // Boxed: gone once the tunnel is there.
    let opening =
        Box::pin(open_tunnel(&agent, &enrolled, &presence, &flow, &description, original_destination));
    match opening.await {
        Ok(mut tunnel) => {
            if !carry(&mut stream, &mut tunnel, &flow).await {
                refuse::reset(stream.into_inner());
            }
        }
        Err(refusal) => {
            agent.counters.refused.increment(refusal.reason);
            tracing::debug!(workload = %enrolled.workload.identity, %original_destination, reason = %refusal.reason,
                "refused: {refusal}");
            flow.fail(&refusal);
            flow.add_received(Box::pin(refuse::refuse(stream.into_inner(), &refusal)).await);
        }
    }
}

/// Moves the bytes until both sides have ended. False: the workload's connection is to be reset.
async fn carry(stream: &mut Gauged<TcpStream>, tunnel: &mut Tunnel, flow: &FlowHandle) -> bool {
    let failure = match copy::bidirectional_tunnel(stream, tunnel, flow, IDLE_TIMEOUT).await {
        Ok(()) => return true,
        Err(copy::Error::Io(copy::Side::Left, e)) => {
            flow.fail(&Refusal::new(Reason::ClientGone, format!("the workload's connection broke: {e}")));
            return true;
        }
        // The far side ended regularly and takes no more; what the workload still sends meets a reset, as without us.
        Err(copy::Error::Io(copy::Side::Right, e)) if e.kind() == io::ErrorKind::BrokenPipe => return false,
        Err(copy::Error::Io(copy::Side::Right, e)) => {
            // The gateway reset the tunnel: so is the workload's connection, which must not take it for a regular end.
            Refusal::new(Reason::UpstreamReset, format!("the tunnel was reset: {e}"))
        }
        Err(e @ copy::Error::Idle(_)) => Refusal::new(Reason::UpstreamTimeout, e.to_string()),
    };
    flow.fail(&failure);
    false
}

async fn open_tunnel(
    agent: &Agent,
    enrolled: &Enrolled,
    presence: &Presence,
    flow: &FlowHandle,
    description: &Description,
    original_destination: SocketAddr,
) -> Result<Tunnel, Refusal> {
    let dialled_host = agent.dns.dialled_host(original_destination.ip())?;
    if dialled_host.is_some() {
        flow.update(|flow| flow.host.clone_from(&dialled_host));
    }
    // Only records have these times.
    let now = || flow.is_recorded().then(Instant::now);
    let began = now();
    let certificate = agent
        .certificates
        .fetch(&enrolled.workload.identity)
        .await
        .map_err(|e| Refusal::new(Reason::IdentityUnavailable, e.to_string()))?;
    let certified = now();
    let connect = Connect {
        original_destination,
        dialled_host,
        flow_id: Some(flow.id()),
        traceparent: None,
        baggage: Some(description.header()),
    };
    let tunnel = presence.tunnels.open(&certificate, &agent.gateways, &connect).await.map_err(|e| {
        let reason = match &e {
            client::Error::Refused { .. } => Reason::GatewayRefused,
            client::Error::NoGateway
            | client::Error::Dial(..)
            | client::Error::Tls(..)
            | client::Error::Http2(..)
            | client::Error::Timeout(_) => Reason::GatewayUnreachable,
        };
        Refusal::new(reason, e.to_string())
    })?;
    if let Some((carrier, reused)) = tunnel.carrier() {
        flow.tunnelled(|| {
            let leg = TunnelLeg {
                connection: Arc::clone(&carrier.connection),
                reused: Some(reused),
                certificate_us: certified
                    .zip(began)
                    .map(|(certified, began)| microseconds(certified - began)),
                setup_us: certified.map(|certified| microseconds(certified.elapsed())),
                tcp: None,
            };
            (leg, carrier.gauge.clone())
        });
    }
    Ok(tunnel)
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

//! Sends one request upstream and brings the answer back.
//!
//! A request is sent a second time only when not a byte of it was taken, which happens when a kept connection went
//! stale; one that an upstream may have seen is never repeated.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ::http::{
    HeaderValue, Request, Response, Uri, Version,
    header::{EXPECT, HOST},
    uri::PathAndQuery,
};
use tokio::time::Instant;

use super::{
    body::{Answered, Progress, RequestBody, ResponseBody, Upstream as UpstreamBody},
    exchange::{Exchange, refuse, refuse_with},
    grpc, headers,
    http1::{client, request::Violation},
    upgrade,
};
use crate::{
    gateway::{
        originate::{self, Transport},
        pool::{Key, Lease, SendError, Unsent},
        record::Times,
        tunnel::Session,
        upstream::{self, Addresses},
    },
    reason::{Reason, Refusal},
    route::{AppProtocol, Forward, Upstream},
    tls::originate::Alpn,
};

/// Forwards `exchange` as `forward` says.
pub(super) async fn send(exchange: Exchange, forward: Forward) -> Response<ResponseBody> {
    let Exchange { session, snapshot, mut parts, body, head, mut record, websocket } = exchange;
    let upstream = Arc::clone(&forward.upstream);
    record.upstream(&upstream);
    let http2 = match upstream.protocol {
        AppProtocol::Http2 => true,
        // Nobody said what the port speaks, so the workload is believed.
        AppProtocol::Detect => parts.version == Version::HTTP_2,
        _ => false,
    };
    if http2 && websocket.is_some() {
        let why = "a WebSocket needs an HTTP/1 upstream, and this port is declared HTTP2";
        return refuse_with(record, &Violation { status: 403, why });
    }
    let alpn: Alpn = if http2 { &[b"h2"] } else { &[b"http/1.1"] };
    let transport = upstream::require_tls(&upstream).and_then(|()| {
        Transport::prepare(&session.gateway, &snapshot, &upstream, Some(&head.host.host), alpn)
    });
    drop(snapshot);
    let transport = match transport {
        Ok(transport) => transport,
        Err(refusal) => return refuse(record, &refusal),
    };

    headers::remove_hop_by_hop(&mut parts.headers);
    headers::remove_mesh(&mut parts.headers);
    record.propagate(&mut parts.headers);
    // The workload was told to go on already, or is when its body is asked for.
    parts.headers.remove(EXPECT);
    let idle = session.gateway.settings.stream_idle_timeout;
    let progress = Arc::new(Progress::default());
    let body = RequestBody::new(body, Arc::clone(&progress), idle);
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.headers_mut() = parts.headers;
    let authority = forward.authority.clone().unwrap_or_else(|| head.host.to_header());
    let target = forward.path_and_query.clone().unwrap_or_else(|| head.path_and_query());
    if let Err(refusal) = address(&mut request, &forward, authority, target, http2.then_some(&transport)) {
        return refuse(record, &refusal);
    }
    if websocket.is_some() {
        upgrade::ask(request.headers_mut());
    }

    let patience = forward.timeout.unwrap_or(idle);
    let mut attempt = Attempt::default();
    let sent = tokio::select! {
        biased;
        sent = send_to_any(&session, &upstream, &transport, request, &mut attempt) => sent,
        () = late(&progress, patience) => Err(timed_out(&upstream, patience)),
    };
    let (mut response, lease) = match sent {
        Ok(sent) => sent,
        Err(refusal) => {
            record.attempted(attempt.address);
            return refuse(record, &refusal);
        }
    };
    record.peer(&lease.peer, lease.reused, attempt.times);
    let (status, elapsed) = (response.status().as_u16(), record.elapsed());
    record.note(|entry| {
        entry.response_code = status;
        entry.grpc_status = grpc::status(response.headers());
        entry.upstream_service_time = Some(elapsed);
    });
    *response.version_mut() = Version::HTTP_11;
    if status == 101 {
        return match websocket {
            Some(revoked) => upgrade::accept(session, response, record, revoked),
            None => refuse(
                record,
                &Refusal::new(
                    Reason::UpstreamReset,
                    "the upstream switched protocols, and nobody asked it to",
                ),
            ),
        };
    }
    headers::remove_hop_by_hop(response.headers_mut());
    headers::apply(response.headers_mut(), &forward.response_headers);
    let deadline = forward.timeout.map(|timeout| Instant::now() + timeout);
    let pool = Arc::clone(session.gateway.pool());
    response.map(|body| {
        ResponseBody::upstream(UpstreamBody::new(body, (lease, pool), deadline, idle), record, progress)
    })
}

/// Gives the request its target and Host, and its header changes between the two: they may set Host. HTTP/2 requests also
/// bear the scheme that goes with their transport.
fn address(
    request: &mut Request<RequestBody>,
    forward: &Forward,
    authority: String,
    target: String,
    http2: Option<&Transport>,
) -> Result<(), Refusal> {
    let internal =
        |what: &str| Refusal::new(Reason::Internal, format!("the {what} is not valid in a request"));
    let host = HeaderValue::try_from(authority).map_err(|_| internal("rewritten authority"))?;
    request.headers_mut().insert(HOST, host);
    headers::apply(request.headers_mut(), &forward.request_headers);
    let target = PathAndQuery::try_from(target).map_err(|_| internal("rewritten path"))?;
    *request.uri_mut() = if let Some(transport) = http2 {
        let host = request.headers_mut().remove(HOST).ok_or_else(|| internal("Host"))?;
        let scheme = match transport {
            Transport::Plain => "http",
            Transport::Tls(..) => "https",
        };
        *request.version_mut() = Version::HTTP_2;
        Uri::builder()
            .scheme(scheme)
            .authority(host.as_bytes())
            .path_and_query(target)
            .build()
            .map_err(|_| internal("authority"))?
    } else {
        request.headers_mut().remove(::http::header::TE);
        Uri::from(target)
    };
    Ok(())
}

/// Ready when the answer is overdue: a route's timeout runs from the end of the request.
async fn late(progress: &Progress, patience: Duration) {
    progress.finished().await;
    tokio::time::sleep(patience).await;
}

fn timed_out(upstream: &Upstream, patience: Duration) -> Refusal {
    Refusal::new(
        Reason::UpstreamTimeout,
        format!("{} did not answer within {patience:?} of the end of the request", upstream.host),
    )
}

/// How far a request came.
#[derive(Default)]
struct Attempt {
    /// The endpoint that was tried last.
    address: Option<SocketAddr>,
    times: Times,
}

/// Sends to the first endpoint that takes the request.
async fn send_to_any(
    session: &Session,
    upstream: &Upstream,
    transport: &Transport,
    mut request: Request<RequestBody>,
    attempt: &mut Attempt,
) -> Result<(Response<Answered>, Lease), Refusal> {
    let gateway = &session.gateway;
    let http2 = request.version() == Version::HTTP_2;
    let mut last = None;
    let Addresses { list, dns_us } = upstream::addresses(session, upstream).await?;
    attempt.times.dns_us = dns_us;
    let balanced = list.len() > 1;
    for address in list {
        attempt.address = Some(address);
        let in_flight = balanced.then(|| gateway.balancer.start(address));
        let key = Key::new(address, http2, transport);
        // Every round takes a connection out of the pool, or is the last.
        loop {
            let mut lease = match gateway.pool().take(&key) {
                Some(lease) => lease,
                None => match open(session, upstream, transport, &key, address).await {
                    Ok(lease) => lease,
                    Err(refusal) => {
                        last = Some(refusal);
                        break;
                    }
                },
            };
            let began = Instant::now();
            let Unsent { error, request: unsent } = match lease.send(request).await {
                Ok(response) => {
                    attempt.times.first_byte_us = Some(began.elapsed().as_micros() as u64);
                    lease.in_flight = in_flight;
                    return Ok((response, lease));
                }
                Err(unsent) => unsent,
            };
            let refusal = explain(&error, transport, &lease);
            match unsent {
                Some(unsent) => request = *unsent,
                None => return Err(refusal),
            }
            if !lease.reused {
                last = Some(refusal);
                break;
            }
        }
    }
    Err(last
        .unwrap_or_else(|| Refusal::new(Reason::NoEndpoint, format!("{} has no endpoint", upstream.cluster))))
}

async fn open(
    session: &Session,
    upstream: &Upstream,
    transport: &Transport,
    key: &Key,
    address: SocketAddr,
) -> Result<Lease, Refusal> {
    let gateway = &session.gateway;
    let (stream, peer) =
        originate::connect(address, upstream, transport, gateway.settings.handshake_timeout).await?;
    let lease = Lease::open(*key, stream, peer).await?;
    gateway.pool().share(&lease);
    Ok(lease)
}

/// Why an exchange broke before there was an answer.
fn explain(error: &SendError, transport: &Transport, lease: &Lease) -> Refusal {
    if let Some(refusal) = transport.explain(error) {
        return refusal;
    }
    let remote = lease.peer.connection.endpoint;
    match error {
        SendError::Http1(client::Error::Body(_)) => match malformed(error) {
            Some(why) => Refusal::new(Reason::BadRequest, why),
            None => client_gone(error),
        },
        SendError::Http2(error) if error.is_user() || error.is_body_write_aborted() => client_gone(error),
        SendError::Http1(client::Error::Answer(why)) => Refusal::new(
            Reason::UpstreamReset,
            format!("{remote} sent an answer that is not HTTP, or could be read in two ways: {why}"),
        ),
        SendError::Http1(_) | SendError::Http2(_) => {
            let cause =
                std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
            Refusal::new(
                Reason::UpstreamReset,
                format!("{remote} ended the connection before it answered: {error}{cause}"),
            )
        }
    }
}

fn client_gone(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(Reason::ClientGone, format!("the workload's request broke off: {error}"))
}

/// What is wrong with the request's body, if that is what broke the exchange.
fn malformed(error: &SendError) -> Option<String> {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .find(|error| error.kind() == std::io::ErrorKind::InvalidData)
        .map(ToString::to_string)
}

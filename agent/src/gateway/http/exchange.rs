//! One request and its answer: validate, normalise, authorize, route, then act.
//!
//! `http` calls [`serve`] per request, and [`refuse_violation`] for one that breaks the rules of HTTP/1.

use std::{pin::Pin, sync::Arc};

use ::http::{Request, Response, Version, header::USER_AGENT, request::Parts};
use bytes::Bytes;

use super::{
    Decide,
    body::{Incoming, ResponseBody},
    forward, grpc,
    head::Head,
    http1::request::Violation,
    upgrade,
};
use crate::{
    gateway::{record::Record, refuse, revoke::revoked, tunnel::Session},
    mesh::Snapshot,
    reason::{Reason, Refusal},
    route::{Action, Forward},
    telemetry::traces::context,
};

/// What ends a WebSocket before its two ends do.
pub(super) type Revoked = Pin<Box<dyn Future<Output = Refusal> + Send>>;

/// A request that is about to be forwarded.
pub(super) struct Exchange {
    pub(super) session: Arc<Session>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) parts: Parts,
    pub(super) body: Incoming,
    pub(super) head: Head,
    pub(super) record: Record,
    /// Where the request asks for a WebSocket: what ends it.
    pub(super) websocket: Option<Revoked>,
}

/// Serves one request. `upgradable`: its connection can become a WebSocket.
pub(super) async fn serve<D: Decide>(
    request: Request<Incoming>,
    session: Arc<Session>,
    upgradable: bool,
    decide: D,
) -> Response<ResponseBody> {
    let (parts, body) = request.into_parts();
    let mut record = Record::start(&session);
    record.trace(|| context::parent_of(&parts.headers));
    session.flow.update(|flow| flow.requests += 1);
    note_request(&mut record, &parts);

    let head = match Head::read(&parts, session.gateway.settings.path_normalisation) {
        Ok(head) => head,
        Err(violation) => return refuse_with(record, &violation),
    };
    record.note(|entry| entry.authority = Some(head.authority.clone()));
    session.flow.asked_for(&head.host.host);
    let websocket = match upgrade::requested(&parts.headers) {
        Some(upgrade::Kind::WebSocket) => upgradable,
        Some(upgrade::Kind::Other) => {
            let why = "no upgrade other than websocket is served";
            return refuse_with(record, &Violation { status: 403, why });
        }
        // h2c is an offer that a server may ignore (RFC 9113 §3.1); its fields end here.
        Some(upgrade::Kind::H2c) | None => false,
    };

    let snapshot = session.gateway.snapshot();
    let decided =
        decide(&snapshot, &session.request(None, Some(&head.request(&parts.method, &parts.headers))));
    record.decided(&decided);
    let action = match decided.outcome {
        Ok(action) => action,
        Err(refusal) => return refuse(record, &refusal),
    };
    if let Some(response) = refuse::local(&action) {
        record.completed();
        record.note(|entry| {
            entry.response_code = response.status().as_u16();
            entry.response_code_details = "direct_response";
        });
        return local(response, record);
    }
    match action {
        Action::Forward(forward) => {
            let websocket = websocket.then(|| revocation(&session, &parts, &head, decide));
            let exchange = Exchange { session, snapshot, parts, body, head, record, websocket };
            send(exchange, forward).await
        }
        Action::Redirect { .. } | Action::Respond { .. } => {
            refuse(record, &Refusal::new(Reason::Internal, "a local answer was not given"))
        }
    }
}

/// Ready once a later policy denies the request that opened a WebSocket.
fn revocation<D: Decide>(session: &Arc<Session>, parts: &Parts, head: &Head, decide: D) -> Revoked {
    let (session, head) = (Arc::clone(session), head.clone());
    let (method, headers) = (parts.method.clone(), parts.headers.clone());
    Box::pin(async move {
        let again = |snapshot: &Snapshot| {
            decide(snapshot, &session.request(None, Some(&head.request(&method, &headers))))
        };
        revoked(&session, again).await
    })
}

async fn send(exchange: Exchange, forward: Forward) -> Response<ResponseBody> {
    // Boxed: the largest future of the data path would otherwise be part of every idle connection.
    Box::pin(forward::send(exchange, forward)).await
}

fn note_request(record: &mut Record, parts: &Parts) {
    let field =
        |name| parts.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    if grpc::is_call(&parts.headers) {
        record.is_grpc();
    }
    record.note(|entry| {
        entry.method = Some(parts.method.as_str().to_owned());
        entry.path = parts.uri.path_and_query().map(|target| target.as_str().to_owned());
        entry.protocol = Some(match parts.version {
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        });
        entry.user_agent = field(USER_AGENT.as_str());
        entry.request_id = field("x-request-id");
    });
}

/// Answers a request that was refused.
pub(super) fn refuse(mut record: Record, refusal: &Refusal) -> Response<ResponseBody> {
    record.failed(refusal);
    let response = refuse::http(refusal, None);
    record.note(|entry| entry.response_code = response.status().as_u16());
    local(response, record)
}

/// Answers a request that breaks the rules.
pub(super) fn refuse_with(mut record: Record, violation: &Violation) -> Response<ResponseBody> {
    let refusal = Refusal::new(Reason::BadRequest, violation.why);
    record.failed(&refusal);
    record.note(|entry| entry.response_code = violation.status);
    local(refuse::http(&refusal, Some(violation.status)), record)
}

/// Answers what is no request.
pub(super) fn refuse_violation(session: &Arc<Session>, violation: &Violation) -> Response<ResponseBody> {
    session.flow.update(|flow| flow.requests += 1);
    let mut record = Record::start(session);
    record.trace(|| None);
    refuse_with(record, violation)
}

fn local(response: Response<Bytes>, record: Record) -> Response<ResponseBody> {
    response.map(|body| ResponseBody::local(body, Some(record)))
}

//! Predicts what the gateway will do with a request, and says why.
//!
//! Calls [`authz::evaluate`] and [`route::http`](fn@crate::route::http), as the data path does, and
//! only puts their answers into words. Called by `egret explain` and the admin socket. Sends nothing.

mod text;

use std::net::SocketAddr;

use serde::Serialize;

use crate::{
    authz::{self, Decision},
    mesh::Snapshot,
    reason::Reason,
    route::{
        self, Action, Connection, Endpoints, Forward, HttpRequest, LoadBalancer, RouteDecision, RoutePath,
        TlsMode, TlsOrigination,
    },
};

/// What will happen to a request, and why. `Display` gives the text for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Version of the configuration that was asked.
    pub snapshot: u64,
    /// The request, in one line.
    pub request: String,
    /// The authorization decision.
    pub authorization: Authorization,
    /// The objects of the route, in order; also where authorization denies, to show what would come next.
    pub route: Vec<Step>,
    /// What comes out.
    pub outcome: Outcome,
}

/// The authorization decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Authorization {
    /// Whether the request may go on.
    pub allowed: bool,
    /// The policy that decided, where one did.
    pub policy: Option<String>,
    /// Index of the rule in it.
    pub rule: Option<usize>,
    /// As a sentence.
    pub detail: String,
}

/// One object on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What it is asked for: `mesh_route`, `gateway`, `gateway_route`, `service_entry`, `destination_rule`.
    pub stage: &'static str,
    /// The object.
    pub object: String,
    /// Name or index of the route in it.
    pub route: Option<String>,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Outcome {
    /// Sent upstream.
    Forward {
        /// Cluster name, as in the access log.
        cluster: String,
        /// Where the endpoints come from: `static`, `dns` or `original_destination`.
        resolution: &'static str,
        /// The endpoints, as `address:port` or `name:port`.
        endpoints: Vec<String>,
        /// `round_robin`, `random` or `least_request`.
        load_balancer: &'static str,
        /// Path and query, where they change.
        path: Option<String>,
        /// Host, where it changes.
        authority: Option<String>,
        /// Transport.
        tls: Option<Tls>,
    },
    /// Answered by the gateway, by configuration.
    Answer {
        /// Status.
        status: u16,
        /// `Location` or body.
        content: String,
    },
    /// Refused.
    Refuse {
        /// Why.
        reason: Reason,
        /// The status the client gets; none where it speaks TLS, and gets an alert.
        status: Option<u16>,
        /// As a sentence.
        detail: String,
        /// The object behind it.
        object: Option<String>,
    },
}

/// TLS origination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// `SIMPLE` or `MUTUAL`.
    pub mode: &'static str,
    /// Server name indication.
    pub sni: String,
    /// The names of which the certificate must bear one; empty when nothing is verified.
    pub verified_names: Vec<String>,
    /// The Secret, as `namespace/name`.
    pub credential: Option<String>,
    /// Whether the Secret is there, with all that the mode needs; absent where Secrets may not be read.
    pub credential_present: Option<bool>,
}

/// Explains an HTTP request. `request` is normalised already; `source_address` is what policies on addresses see.
pub fn http(
    snapshot: &Snapshot,
    connection: &Connection<'_>,
    source_address: SocketAddr,
    request: &HttpRequest<'_>,
) -> Explanation {
    let asked = authz::Request {
        source: connection.source,
        source_address,
        original_destination: connection.original_destination,
        dialled_host: connection.dialled_host,
        sni: None,
        http: Some(request),
    };
    let what = format!("{} http://{}{}", request.method, request.host, request.path);
    explanation(snapshot, &asked, &what, route::http(snapshot, connection, request))
}

/// Explains a TLS connection of the workload's own, which passes through by its server name.
pub fn tls(
    snapshot: &Snapshot,
    connection: &Connection<'_>,
    source_address: SocketAddr,
    sni: &str,
) -> Explanation {
    let asked = authz::Request {
        source: connection.source,
        source_address,
        original_destination: connection.original_destination,
        dialled_host: connection.dialled_host,
        sni: Some(sni),
        http: None,
    };
    explanation(snapshot, &asked, &format!("TLS to {sni}"), route::tls(snapshot, connection, Some(sni)))
}

fn explanation(
    snapshot: &Snapshot,
    asked: &authz::Request<'_>,
    what: &str,
    RouteDecision { path, outcome }: RouteDecision,
) -> Explanation {
    let decision = authz::evaluate(snapshot, asked);
    let status = |reason: Reason| asked.http.is_some().then(|| reason.http_status());
    let authorization = authorization(snapshot, &decision);
    let outcome = if authorization.allowed {
        match outcome {
            Ok(Action::Forward(forward)) => forwarded(snapshot, &forward),
            Ok(Action::Redirect { status, location }) => Outcome::Answer { status, content: location },
            Ok(Action::Respond { status, body }) => Outcome::Answer { status, content: body.to_string() },
            Err(refusal) => Outcome::Refuse {
                reason: refusal.reason,
                status: status(refusal.reason),
                detail: refusal.detail,
                object: refusal.object.map(|object| object.to_string()),
            },
        }
    } else {
        Outcome::Refuse {
            reason: Reason::PolicyDenied,
            status: status(Reason::PolicyDenied),
            detail: authorization.detail.clone(),
            object: authorization.policy.clone(),
        }
    };
    Explanation {
        snapshot: snapshot.version,
        request: request(asked, what),
        authorization,
        route: steps(path),
        outcome,
    }
}

/// The request in one line; the address dialled only where the question names one.
fn request(asked: &authz::Request<'_>, what: &str) -> String {
    let (who, dialled) = (asked.source.principal(), asked.original_destination);
    if dialled.ip().is_unspecified() {
        format!("{who} {what}")
    } else {
        format!("{who} {what} (dialled {dialled})")
    }
}

fn authorization(snapshot: &Snapshot, decision: &Decision) -> Authorization {
    let (allowed, by) = match decision {
        Decision::Allow(by) => (true, by),
        Decision::Deny(by) => (false, by),
    };
    Authorization {
        allowed,
        policy: by.as_ref().map(|by| by.policy.to_string()),
        rule: by.as_ref().map(|by| by.rule),
        detail: authz::describe(snapshot, decision),
    }
}

fn steps(path: RoutePath) -> Vec<Step> {
    let plain = |stage, object: Option<crate::mesh::ObjectRef>| {
        object.map(|object| Step { stage, object: object.to_string(), route: None })
    };
    let routed = |stage, hit: Option<(crate::mesh::ObjectRef, std::sync::Arc<str>)>| {
        hit.map(|(object, route)| Step { stage, object: object.to_string(), route: Some(route.to_string()) })
    };
    [
        routed("mesh_route", path.mesh_route),
        plain("gateway", path.gateway),
        routed("gateway_route", path.gateway_route),
        plain("service_entry", path.service_entry),
        plain("destination_rule", path.destination_rule),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn forwarded(snapshot: &Snapshot, forward: &Forward) -> Outcome {
    let upstream = &forward.upstream;
    let (resolution, endpoints) = match &upstream.endpoints {
        Endpoints::Static(list) => ("static", list.iter().map(ToString::to_string).collect()),
        Endpoints::Dns(list) => ("dns", list.iter().map(|(name, port)| format!("{name}:{port}")).collect()),
        Endpoints::OriginalDestination(address) => ("original_destination", vec![address.to_string()]),
    };
    let tls = match &upstream.tls {
        TlsMode::Plain => None,
        TlsMode::Originate(origination) => Some(origination_of(snapshot, origination, &upstream.host)),
    };
    Outcome::Forward {
        cluster: upstream.cluster.to_string(),
        resolution,
        endpoints,
        load_balancer: match upstream.load_balancer {
            LoadBalancer::RoundRobin => "round_robin",
            LoadBalancer::Random => "random",
            LoadBalancer::LeastRequest => "least_request",
        },
        path: forward.path_and_query.clone(),
        authority: forward.authority.clone(),
        tls,
    }
}

fn origination_of(snapshot: &Snapshot, origination: &TlsOrigination, host: &str) -> Tls {
    let sni = origination.sni.as_deref().unwrap_or(host);
    let verified_names = if origination.insecure_skip_verify {
        Vec::new()
    } else if origination.subject_alt_names.is_empty() {
        vec![sni.to_owned()]
    } else {
        origination.subject_alt_names.iter().map(ToString::to_string).collect()
    };
    let credential = origination.credential_name.as_deref();
    let secret = credential.and_then(|name| snapshot.credentials.get(name));
    let credential_present = match (credential, secret) {
        (None, _) => Some(true),
        (Some(_), None) => (!snapshot.credentials_unknown).then_some(false),
        (Some(_), Some(secret)) => {
            Some(!origination.mutual || (secret.certificate.is_some() && secret.key.is_some()))
        }
    };
    Tls {
        mode: if origination.mutual { "MUTUAL" } else { "SIMPLE" },
        sni: sni.to_owned(),
        verified_names,
        credential: credential.map(|name| format!("{}/{name}", snapshot.settings.gateway.namespace)),
        credential_present,
    }
}

//! What a real Istio (istiod and Envoy 1.40 of August 2026) answered, as fixtures: routing and authorization decide alike.
//!
//! Where Egret deliberately decides otherwise, the tests of `authz` and `route` say so; those cases are not in here.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::{Sent, load};
use crate::{authz::Decision, mesh::Snapshot, route::Action};

/// The fixtures begin at the gateway; this leads everything there, as the mesh stage would.
const MESH_STAGE: &str = "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: to-the-gateway, namespace: harness}
spec:
  hosts: ['*']
  http: [{route: [{destination: {host: istio-egressgateway.istio-system.svc.cluster.local, port: {number: 80}}}]}]
";

/// Sends the request of a fixture; `None` for a principal that no tunnel can have.
fn send<T>(request: &Value, to: &str, then: impl FnOnce(&Sent<'_>) -> T) -> Option<T> {
    let text = |key: &str, default: &'static str| request[key].as_str().unwrap_or(default).to_owned();
    let target = text("target", "/");
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*target, None),
    };
    let principal = text("principal", "default/sleep");
    let from = match principal.split_once('/') {
        Some((namespace, account)) if !principal.starts_with("spiffe://") => {
            format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
        }
        _ => principal.clone(),
    };
    from.parse::<crate::mesh::SpiffeId>().ok()?;
    let mut headers = HeaderMap::new();
    for pair in request["headers"].as_array().into_iter().flatten() {
        let name = HeaderName::from_bytes(pair[0].as_str()?.as_bytes()).ok()?;
        // White space around a value is not part of it (RFC 9110 §5.5).
        headers.append(name, HeaderValue::from_str(pair[1].as_str()?.trim()).ok()?);
    }
    let (method, authority) = (text("method", "GET"), text("host", "test.com"));
    Some(then(&Sent {
        from: &from,
        to,
        method: &method,
        authority: &authority,
        path,
        query,
        headers,
        dialled_host: None,
    }))
}

fn routed(snapshot: &Snapshot, request: &Value) -> Option<Result<(), String>> {
    let expected = &request["expect"];
    let (denied, decision) = send(request, "198.51.100.9:80", |sent| {
        // Istio's policies see the port of the gateway's pod.
        let denied =
            Sent { to: "198.51.100.9:8080", headers: sent.headers.clone(), ..*sent }.authorize(snapshot);
        (matches!(denied, Decision::Deny(_)), sent.route(snapshot))
    })?;
    let status = expected["status"].as_u64()?;
    let target = request["target"].as_str().unwrap_or("/");
    let found = if denied {
        format!("denied {denied}")
    } else {
        match decision.outcome {
            Ok(Action::Forward(forward)) => {
                let path = forward.path_and_query.as_deref().unwrap_or(target);
                format!("{} {path}", forward.upstream.cluster)
            }
            Ok(Action::Redirect { status, location }) => {
                format!("{status} {}", location.replacen("https://", "http://", 1))
            }
            Ok(Action::Respond { status, body }) => format!("{status} {body}"),
            Err(refusal) => refusal.reason.http_status().to_string(),
        }
    };
    let wanted = if expected["denied"] == true {
        "denied true".to_owned()
    } else if let Some(cluster) = expected["cluster"].as_str() {
        format!("{cluster} {}", expected["line"].as_str()?.split(' ').nth(1)?)
    } else if let Some(location) = expected["location"].as_str() {
        // The fixtures' clients speak TLS to the gateway, so a scheme that is not configured is https there.
        format!("{status} {}", location.replacen("https://", "http://", 1))
    } else if let Some(body) = expected["body"].as_str() {
        format!("{status} {body}")
    } else {
        status.to_string()
    };
    Some(if found == wanted { Ok(()) } else { Err(format!("{request}: {found}, Istio {wanted}")) })
}

fn authorized(snapshot: &Snapshot, request: &Value) -> Option<Result<(), String>> {
    let decision = send(request, "198.51.100.9:8080", |sent| sent.authorize(snapshot))?;
    let denied = matches!(decision, Decision::Deny(_));
    Some(if request["denied"] == denied { Ok(()) } else { Err(format!("{request}: denied {denied}")) })
}

fn run(
    cases: &str,
    config: impl Fn(&Value) -> String,
    check: impl Fn(&Snapshot, &Value) -> Option<Result<(), String>>,
) -> usize {
    let mut failures = Vec::new();
    let mut checked = 0;
    for line in cases.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let loaded = load(&config(&case));
        assert!(!loaded.report.has_errors(), "{}: {:#?}", case["id"], loaded.report);
        for request in case["requests"].as_array().unwrap() {
            match check(&loaded.snapshot, request) {
                None => {}
                Some(Ok(())) => checked += 1,
                Some(Err(failure)) => failures.push(format!("{}: {failure}", case["id"])),
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    checked
}

#[test]
fn routes_as_istio() {
    let config = |case: &Value| case["config"].as_str().unwrap().to_owned() + MESH_STAGE;
    assert!(run(include_str!("golden/routing.jsonl"), config, routed) > 300);
}

#[test]
fn authorizes_as_istio() {
    let base = include_str!("golden/authorization-base.yaml");
    let config = |case: &Value| format!("{base}{}", case["policies"].as_str().unwrap());
    assert!(run(include_str!("golden/authorization.jsonl"), config, authorized) > 400);
}

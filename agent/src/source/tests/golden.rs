//! What a real Istio (istiod and Envoy 1.40) answered, as fixtures: routing and authorization must decide alike, except
//! where `DEVIATIONS` says why not.

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

/// Targets whose meaning depends on normalisation, which is not tested here.
fn is_plain(target: &str) -> bool {
    target.starts_with('/')
        && !target.contains(['%', '#', '\\', ';'])
        && !target.contains("//")
        && !target.split('?').next().unwrap().split('/').any(|part| part == "." || part == "..")
}

fn check(snapshot: &Snapshot, request: &Value, expected: &Value) -> Result<(), String> {
    let text = |key: &str, default: &'static str| request[key].as_str().unwrap_or(default).to_owned();
    let target = text("target", "/");
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*target, None),
    };
    let principal = text("principal", "default/sleep");
    let from = match principal.split_once('/') {
        _ if principal.starts_with("spiffe://") => principal.clone(),
        Some((namespace, account)) => format!("spiffe://cluster.local/ns/{namespace}/sa/{account}"),
        None => return Ok(()),
    };
    if from.parse::<crate::mesh::SpiffeId>().is_err() {
        return Ok(());
    }
    let mut headers = HeaderMap::new();
    for pair in request["headers"].as_array().into_iter().flatten() {
        let (name, value) = (pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
        if name.starts_with("x-echo") || name.starts_with("x-resp") {
            continue;
        }
        // What is no header at all is refused before any of this.
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { return Ok(()) };
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    let (method, authority) = (text("method", "GET"), text("host", "test.com"));
    let sent = |to| Sent {
        from: &from,
        to,
        method: &method,
        authority: &authority,
        path,
        query,
        headers: headers.clone(),
    };
    // Istio's policies see the port of the pod, its routes the port of the Gateway.
    let denied = matches!(sent("198.51.100.9:8080").authorize(snapshot), Decision::Deny(_));
    let wanted = expected["status"].as_u64().unwrap();
    let by_policy = expected["details"].as_str().unwrap_or_default().starts_with("rbac_access_denied");
    if denied != by_policy {
        return Err(format!("{method} {authority}{target} from {from}: denied {denied}, Istio {by_policy}"));
    }
    if denied {
        return Ok(());
    }
    let decision = sent("198.51.100.9:80").route(snapshot);
    let found = match &decision.outcome {
        Ok(Action::Forward(forward)) => {
            let cluster = expected["cluster"].as_str().unwrap_or_default();
            let upstream = &forward.upstream.cluster;
            if **upstream != *cluster {
                return Err(format!("{authority}{target}: cluster {upstream}, Istio {cluster} {wanted}"));
            }
            if expected["upstream"].is_null() {
                return Err(format!("{authority}{target}: forwarded, Istio answered {wanted}"));
            }
            let line = expected["upstream"]["line"].as_str().unwrap_or_default();
            let sent = forward.path_and_query.as_deref().unwrap_or(&target);
            let received = line.split(' ').nth(1).unwrap_or_default();
            if sent != received {
                return Err(format!("{target}: sent {sent}, Istio {received}"));
            }
            return Ok(());
        }
        Ok(Action::Redirect { status, location }) => {
            let headers = expected["headers"].as_array().unwrap();
            let pair = headers.iter().find(|pair| pair[0] == "location");
            let wanted = pair.and_then(|pair| pair[1].as_str()).unwrap_or_default();
            // The fixtures' clients speak TLS to the gateway, so an unwritten scheme is https there.
            let wanted = wanted.replacen("https://", "http://", 1);
            if location.replacen("https://", "http://", 1) != wanted {
                return Err(format!("{authority}{target}: location {location}, Istio {wanted}"));
            }
            u64::from(*status)
        }
        Ok(Action::Respond { status, body }) => {
            if expected["body"].as_str().unwrap_or_default() != &**body {
                return Err(format!("{authority}{target}: body {body:?}"));
            }
            u64::from(*status)
        }
        Err(refusal) => u64::from(refusal.reason.http_status()),
    };
    if found == wanted {
        return Ok(());
    }
    Err(format!("{authority}{target}: {found}, Istio {wanted}: {:?}", decision.outcome.err()))
}

#[test]
fn explore() {
    let Ok(files) = std::env::var("GOLDEN") else { return };
    for file in files.split(',') {
        let text = std::fs::read_to_string(file).unwrap();
        for line in text.lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            let id = case["id"].as_str().unwrap();
            if case["validate"]["webhook"] != "ok" || case.get("nondeterministic").is_some_and(|n| n == true)
            {
                continue;
            }
            let config = case["config"].as_str().unwrap();
            let mut yaml = String::new();
            for (i, part) in config.split("@@").enumerate() {
                yaml.push_str(if i % 2 == 0 { part } else { "eA==" });
            }
            yaml.push_str(MESH_STAGE);
            let loaded = load(&yaml);
            for p in &loaded.report.problems {
                if p.severity == crate::source::report::Severity::Error {
                    println!("{id}: {p}");
                }
            }
            let mut n = 0;
            let mut bad = vec![];
            for (request, expected) in case["requests"]
                .as_array()
                .unwrap()
                .iter()
                .zip(case["expected"].as_array().into_iter().flatten())
            {
                if request.get("raw").is_some()
                    || expected.get("status").is_none()
                    || request["tls"] == false
                    || request.get("gateway").is_some_and(|g| g != "main")
                    || request.get("source").is_some()
                    || request.get("port").is_some()
                {
                    continue;
                }
                if request.get("host").is_some_and(Value::is_null) {
                    continue;
                }
                if !is_plain(request["target"].as_str().unwrap_or("/")) {
                    continue;
                }
                n += 1;
                if let Err(e) = check(&loaded.snapshot, request, expected) {
                    bad.push(e);
                }
            }
            println!("{id}: {n} ok {}", n - bad.len());
            for b in bad.iter().take(4) {
                println!("     {b}");
            }
        }
    }
}

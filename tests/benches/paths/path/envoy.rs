//! The incumbent: an Envoy beside the client, to which netfilter redirects it, and an Envoy as egress gateway on this machine.
//!
//! Configured in favour of speed where there is a choice: one nat rule and no user match, no Lua or Wasm, no tracing, no xDS.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use egret_tests::{cgroup::Cgroup, egret::free_port, netns::Namespace, pki, process, process::Process};
use serde_json::{Value, json};

use super::{Ground, Running, client_side, namespace_of};
use crate::{
    place,
    policies::{self, METHODS},
    server::HOST,
};

/// Where the sidecar listens, as Istio's does.
const SIDECAR_PORT: u16 = 15_001;
const TYPE: &str = "type.googleapis.com/envoy.extensions";

/// Puts it in place, with so many more policies at the gateway.
pub(super) fn pair(running: &mut Running, ground: &Ground, policies: usize) -> Result<()> {
    running.namespace = Some(client_side()?);
    let namespace = namespace_of(running)?;
    let gateway = namespace.host_address();
    let gateway_port = free_port(gateway)?;
    let pki = ground.server.certificates().display().to_string();
    let directory = running.directory.clone();
    let log = |name: &str| directory.join(format!("{name}-access.log"));
    let logs = [log("sidecar"), log("gateway")];
    running.logs.extend(logs.clone());

    let server = ground.server.tls();
    let gateway_config = bootstrap(
        &listener(
            &gateway.to_string(),
            gateway_port,
            &[],
            &manager("HTTP2", &logs[1], authorization(policies), false),
            Some(&downstream_tls(&pki)),
        ),
        &cluster(
            &server.ip().to_string(),
            server.port(),
            false,
            &upstream_tls(&pki, ["client", "external-ca"], HOST, None),
        ),
    );
    let sidecar_config = bootstrap(
        &listener(
            "0.0.0.0",
            SIDECAR_PORT,
            &[json!({ "name": "original_dst", "typed_config": {
                "@type": format!("{TYPE}.filters.listener.original_dst.v3.OriginalDst") } })],
            &manager("HTTP1", &logs[0], Vec::new(), true),
            None,
        ),
        &cluster(
            &gateway.to_string(),
            gateway_port,
            true,
            &upstream_tls(&pki, ["workload", "mesh-ca"], "gateway", Some(pki::GATEWAY)),
        ),
    );

    let cgroup = place::cgroup()?;
    let gateway = envoy("gateway", None, &cgroup, ground, &directory, &gateway_config)?;
    let sidecar = envoy("sidecar", running.namespace.as_ref(), &cgroup, ground, &directory, &sidecar_config)?;
    running.proxies = Some(cgroup);
    running.add(gateway);
    running.add(sidecar);
    let listening = [("the Envoy gateway", gateway_port), ("the Envoy sidecar", SIDECAR_PORT)];
    for (process, (name, port)) in running.processes.iter_mut().zip(listening) {
        place::listens(process, name, port)?;
    }
    redirect(namespace_of(running)?)
}

/// Netfilter, inside the client's namespace only.
fn redirect(namespace: &Namespace) -> Result<()> {
    let rule = format!("-t nat -A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports {SIDECAR_PORT}");
    let mut arguments = vec!["netns", "exec", namespace.name(), "iptables"];
    arguments.extend(rule.split(' '));
    process::run("ip", &arguments).map(drop)
}

fn envoy(
    role: &str,
    namespace: Option<&Namespace>,
    cgroup: &Cgroup,
    ground: &Ground,
    directory: &Path,
    config: &Value,
) -> Result<Process> {
    let file = directory.join(format!("{role}.json"));
    fs::write(&file, config.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
    let program = ground.peers.envoy.as_deref().context("no envoy")?;
    let mut command: Command = place::command(namespace, cgroup, program);
    command.args([
        "--concurrency",
        &ground.workers.to_string(),
        "--disable-hot-restart",
        "--log-level",
        "warning",
    ]);
    command.arg("-c").arg(&file);
    place::start(&format!("the Envoy {role}"), &mut command, &directory.join(format!("{role}.out")))
}

fn bootstrap(listener: &Value, cluster: &Value) -> Value {
    json!({ "static_resources": { "listeners": [listener], "clusters": [cluster] } })
}

fn listener(
    address: &str,
    port: u16,
    listener_filters: &[Value],
    filter: &Value,
    tls: Option<&Value>,
) -> Value {
    let mut chain = json!({ "filters": [filter] });
    if let Some(tls) = tls {
        chain["transport_socket"] = tls.clone();
    }
    json!({
        "name": "listener",
        "address": { "socket_address": { "address": address, "port_value": port } },
        "tcp_backlog_size": 4096,
        "listener_filters": listener_filters,
        "filter_chains": [chain],
    })
}

/// HTTP connection manager. `pairs`: whether the next one is the gateway of the pair.
fn manager(codec: &str, log: &Path, mut filters: Vec<Value>, sidecar: bool) -> Value {
    filters.push(json!({ "name": "router", "typed_config": { "@type": format!("{TYPE}.filters.http.router.v3.Router") } }));
    let mut manager = json!({
        "@type": format!("{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "bench",
        "codec_type": codec,
        "http_filters": filters,
        "access_log": [access_log(log)],
        "route_config": { "virtual_hosts": [{
            "name": HOST,
            "domains": [HOST],
            // An upload takes as long as it takes.
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "next", "timeout": "0s" } }],
        }] },
    });
    if !sidecar {
        // What an Istio gateway sets: the client's certificate is not passed on.
        manager["forward_client_cert_details"] = "SANITIZE".into();
    }
    json!({ "name": "http", "typed_config": manager })
}

/// A line of JSON per request, with what Istio's default format has.
fn access_log(path: &Path) -> Value {
    json!({ "name": "file", "typed_config": {
        "@type": format!("{TYPE}.access_loggers.file.v3.FileAccessLog"),
        "path": path,
        "log_format": { "json_format": {
            "start_time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
            "protocol": "%PROTOCOL%", "response_code": "%RESPONSE_CODE%", "response_flags": "%RESPONSE_FLAGS%",
            "response_code_details": "%RESPONSE_CODE_DETAILS%", "bytes_received": "%BYTES_RECEIVED%",
            "bytes_sent": "%BYTES_SENT%", "duration": "%DURATION%",
            "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", "user_agent": "%REQ(USER-AGENT)%",
            "request_id": "%REQ(X-REQUEST-ID)%", "authority": "%REQ(:AUTHORITY)%", "upstream_host": "%UPSTREAM_HOST%",
            "upstream_cluster": "%UPSTREAM_CLUSTER%", "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
            "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
            "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
            "downstream_peer_uri_san": "%DOWNSTREAM_PEER_URI_SAN%", "requested_server_name": "%REQUESTED_SERVER_NAME%",
        } },
    } })
}

/// DENY as in the demo's sixth step, then ALLOW.
fn authorization(policies: usize) -> Vec<Value> {
    let header =
        |name: &str, value: &str| json!({ "header": { "name": name, "string_match": { "exact": value } } });
    let policy = |principal: &str, permissions: Vec<Value>| {
        json!({
            "permissions": [{ "and_rules": { "rules": permissions } }],
            "principals": [{ "authenticated": { "principal_name": { "exact": principal } } }],
        })
    };
    let filter = |action: &str, policies: Value| {
        json!({ "name": format!("rbac-{action}"), "typed_config": {
            "@type": format!("{TYPE}.filters.http.rbac.v3.RBAC"),
            "rules": { "action": action, "policies": policies },
        } })
    };
    let path = json!({ "url_path": { "path": { "exact": "/headers" } } });
    let denied = json!({ "test": policy(pki::WORKLOAD, vec![header(":authority", HOST), path]) });
    let allowed = policies::allowed(policies).into_iter().map(|allowed| {
        let methods = METHODS.map(|method| header(":method", method));
        let permissions =
            vec![header(":authority", &allowed.host), json!({ "or_rules": { "rules": methods } })];
        (allowed.name, policy(&format!("spiffe://{}", allowed.principal), permissions))
    });
    vec![filter("DENY", denied), filter("ALLOW", Value::Object(allowed.collect()))]
}

fn cluster(address: &str, port: u16, http2: bool, tls: &Value) -> Value {
    let breaker = json!({
        "max_connections": 1_000_000, "max_pending_requests": 1_000_000, "max_requests": 1_000_000, "max_retries": 1_000,
    });
    let protocol =
        if http2 { json!({ "http2_protocol_options": {} }) } else { json!({ "http_protocol_options": {} }) };
    json!({
        "name": "next",
        "type": "STATIC",
        "connect_timeout": "10s",
        "circuit_breakers": { "thresholds": [breaker] },
        "transport_socket": tls,
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{TYPE}.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": protocol,
        } },
        "load_assignment": { "cluster_name": "next", "endpoints": [{ "lb_endpoints": [{ "endpoint": {
            "address": { "socket_address": { "address": address, "port_value": port } } } }] }] },
    })
}

/// TLS 1.3 with the certificate of this name (Envoy's clients do not offer it by themselves), against this CA.
fn tls(pki: &str, certificate: &str, ca: &str, alpn: &[&str]) -> Value {
    let file = |name: String| json!({ "filename": format!("{pki}/{name}") });
    json!({
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": file(format!("{certificate}.crt")), "private_key": file(format!("{certificate}.key")),
        }],
        "validation_context": { "trusted_ca": file(format!("{ca}.crt")) },
        "alpn_protocols": alpn,
    })
}

fn upstream_tls(pki: &str, [certificate, ca]: [&str; 2], server_name: &str, identity: Option<&str>) -> Value {
    let (san_type, name) = identity.map_or(("DNS", server_name), |identity| ("URI", identity));
    let mut tls = tls(pki, certificate, ca, if identity.is_some() { &["h2"] } else { &[] });
    tls["validation_context"]["match_typed_subject_alt_names"] =
        json!([{ "san_type": san_type, "matcher": { "exact": name } }]);
    json!({ "name": "tls", "typed_config": {
        "@type": format!("{TYPE}.transport_sockets.tls.v3.UpstreamTlsContext"),
        "sni": server_name,
        "common_tls_context": tls,
    } })
}

fn downstream_tls(pki: &str) -> Value {
    json!({ "name": "tls", "typed_config": {
        "@type": format!("{TYPE}.transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true,
        "common_tls_context": tls(pki, "gateway", "mesh-ca", &["h2"]),
    } })
}

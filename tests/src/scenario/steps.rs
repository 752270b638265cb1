//! The steps, as data. Order matters: each builds on the configuration that the ones before left.

use super::{
    Expect,
    Field::{self, Has, Is},
    Origin, Step,
};

const TEAPOT: &str = "-=[ teapot ]=-";
const DENIED: &str = "RBAC: access denied";
const SLEEP: Origin = Origin::Workload("default/sleep");

/// The tutorial's command.
const CALL_418: &[&str] = &["--header", "host:test.com", "{address}/status/418"];
const CALL_HEADERS: &[&str] = &["--header", "host:test.com", "{address}/headers"];

const BY_SLEEP: Field = Is("principal", "cluster.local/ns/default/sa/sleep");
const BY_OTHER: Field = Is("principal", "cluster.local/ns/default/sa/other");
const PLAIN_418: &[Field] = &[Is("tls", "false"), Is("path", "/status/418"), Is("host", "test.com")];

/// The scenario. A process that is no workload comes after it: [`OUTSIDE`].
pub const STEPS: &[Step] = &[
    Step {
        title: "Direct call: with ALLOW_ANY, hosts that nobody registered are passed through and logged",
        apply: &[],
        secret: false,
        origin: SLEEP,
        curl: CALL_418,
        expect: Expect {
            status: 418,
            body: TEAPOT,
            gateway: Some(&[
                Is("response_code", "418"),
                Is("upstream_cluster", "PassthroughCluster"),
                Is("upstream_host", "{address}:80"),
                BY_SLEEP,
            ]),
            external: Some(PLAIN_418),
        },
    },
    Step {
        title: "REGISTRY_ONLY: what is not registered is refused",
        apply: &["2-registry-only/mesh.yaml"],
        secret: false,
        origin: SLEEP,
        curl: CALL_418,
        expect: Expect {
            status: 502,
            body: "",
            gateway: Some(&[Is("response_code", "502"), Is("reason", "not_registered"), BY_SLEEP]),
            external: None,
        },
    },
    Step {
        title: "ServiceEntry: test.com is registered, and reached again",
        apply: &["3-service-entry/service-entry.yaml"],
        secret: false,
        origin: SLEEP,
        curl: CALL_418,
        expect: Expect {
            status: 418,
            body: TEAPOT,
            gateway: Some(&[
                Is("response_code", "418"),
                Is("upstream_cluster", "outbound|80||test.com"),
                Is("upstream_host", "{address}:80"),
                BY_SLEEP,
                Has("service_entry", "default/test-com"),
            ]),
            external: Some(PLAIN_418),
        },
    },
    Step {
        title: "Gateway and VirtualService: through the egress gateway, still plaintext to the outside",
        apply: &["4-egress-gateway/gateway.yaml", "4-egress-gateway/virtual-service.yaml"],
        secret: false,
        origin: SLEEP,
        curl: CALL_418,
        expect: Expect {
            status: 418,
            body: TEAPOT,
            gateway: Some(&[
                Is("response_code", "418"),
                Is("upstream_cluster", "outbound|80||test.com"),
                Is("upstream_host", "{address}:80"),
                BY_SLEEP,
                Has("gateway", "default/egress-gateway"),
                Has("mesh_route", "default/egressgateway-vs"),
                Has("gateway_route", "default/egressgateway-vs"),
            ]),
            external: Some(PLAIN_418),
        },
    },
    Step {
        title: "Upgraded to mutual TLS: same command, allowed path",
        // The credential and the rule that uses it come first: never a moment of plaintext to port 443.
        apply: &["5-mutual-tls/destination-rule.yaml", "5-mutual-tls/virtual-service.yaml"],
        secret: true,
        origin: SLEEP,
        curl: &["--header", "host:test.com", "{address}/status/200", "-I"],
        expect: Expect {
            status: 200,
            body: "",
            gateway: Some(&[
                Is("response_code", "200"),
                Is("upstream_cluster", "outbound|443||test.com"),
                Is("upstream_host", "{address}:443"),
                BY_SLEEP,
                Has("destination_rule", "default/originate-mtls-for-test-com"),
            ]),
            external: Some(&[
                Is("tls", "true"),
                Is("client", "test.client"),
                Is("method", "HEAD"),
                Is("path", "/status/200"),
                Is("refused", "false"),
            ]),
        },
    },
    Step {
        title: "The far side refuses this client certificate one path",
        apply: &[],
        secret: false,
        origin: SLEEP,
        curl: CALL_418,
        expect: Expect {
            status: 403,
            body: DENIED,
            gateway: Some(&[
                Is("response_code", "403"),
                Is("response_code_details", "via_upstream"),
                Is("upstream_cluster", "outbound|443||test.com"),
                Is("upstream_host", "{address}:443"),
                BY_SLEEP,
            ]),
            external: Some(&[
                Is("tls", "true"),
                Is("client", "test.client"),
                Is("path", "/status/418"),
                Is("refused", "true"),
            ]),
        },
    },
    Step {
        title: "AuthorizationPolicy: sleep may not have /headers; the outside never hears of it",
        apply: &["6-authorization/authorization-policy.yaml"],
        secret: false,
        origin: SLEEP,
        curl: CALL_HEADERS,
        expect: Expect {
            status: 403,
            body: DENIED,
            gateway: Some(&[
                Is("response_code", "403"),
                Is("reason", "policy_denied"),
                BY_SLEEP,
                Has("policy", "istio-system/test"),
            ]),
            external: None,
        },
    },
    Step {
        title: "… and another service account may",
        apply: &[],
        secret: false,
        origin: Origin::Workload("default/other"),
        curl: CALL_HEADERS,
        expect: Expect {
            status: 200,
            body: "\"headers\"",
            gateway: Some(&[
                Is("response_code", "200"),
                Is("upstream_cluster", "outbound|443||test.com"),
                BY_OTHER,
            ]),
            external: Some(&[Is("tls", "true"), Is("client", "test.client"), Is("path", "/headers")]),
        },
    },
    Step {
        title: "A workload with no network but loopback gets there too: capture is its only way out",
        apply: &[],
        secret: false,
        origin: Origin::Isolated("default/sleep"),
        curl: &["--header", "host:test.com", "{address}/status/200"],
        expect: Expect {
            status: 200,
            body: "",
            gateway: Some(&[
                Is("response_code", "200"),
                Is("upstream_cluster", "outbound|443||test.com"),
                BY_SLEEP,
            ]),
            external: Some(&[Is("tls", "true"), Is("client", "test.client"), Is("path", "/status/200")]),
        },
    },
];

/// A process that is no workload is not touched: direct, in plaintext, and unknown to the gateway.
pub const OUTSIDE: Step = Step {
    title: "A process that is no workload is not captured",
    apply: &[],
    secret: false,
    origin: Origin::Host,
    curl: CALL_418,
    expect: Expect { status: 418, body: TEAPOT, gateway: None, external: Some(PLAIN_418) },
};

//! A credential that is missing or broken stops its own route, with the reason, and no other.

use anyhow::{Context as _, Result};
use egret_tests::{
    config::{Credential, GOOD, SECRET},
    curl::Answer,
    scenario::World,
};
use serde_json::Value;

use crate::Rig;

/// Another host on the same external service, by the plain port.
const OTHER_ROUTE: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: plain-test
  namespace: default
spec:
  hosts: [plain.test]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints:
  - address: ADDRESS
  ports:
  - name: http
    number: 80
    protocol: HTTP
";

/// The answer for a host, and the gateway's line about it.
fn call(world: &World, host: &str) -> Result<(Answer, Value)> {
    let address = world.external.address();
    let log = world.egret.access_log();
    let mark = log.mark();
    let host = format!("host: {host}");
    let url = format!("http://{address}/status/200");
    let answer = world.egret.curl("default/sleep", false, &["-H", &host, &url])?;
    let lines = log.wait_since(mark, std::time::Duration::from_secs(5), |_| true)?;
    Ok((answer, lines.last().cloned().context("no line in the access log")?))
}

/// test.com answers 503 for one of `reasons`, in words that hold `word`; plain.test still answers.
fn only_this_route_fails(world: &World, case: &str, reasons: &[&str], word: &str) -> Result<()> {
    let seen = world.external.log();
    let mark = seen.mark();
    let (answer, line) = call(world, "test.com")?;
    assert_eq!(answer.status, Some(503), "{case}: {}", answer.summary());
    let reason = line["reason"].as_str().unwrap_or_default();
    assert!(reasons.contains(&reason), "{case}: expected {reasons:?}, seen {line}");
    assert!(
        line["reason_detail"].as_str().unwrap_or_default().contains(word),
        "{case}: no {word:?} in {line}"
    );
    let arrived = seen.since(mark)?;
    assert!(arrived.iter().all(|line| line["event"] != "request"), "{case}: a request arrived: {arrived:?}");

    let (answer, _) = call(world, "plain.test")?;
    assert_eq!(answer.status, Some(200), "{case}, the other route: {}", answer.summary());
    Ok(())
}

#[test]
fn a_broken_credential_stops_its_route_only() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    let other = OTHER_ROUTE.replace("ADDRESS", &world.external.address().to_string());
    world.egret.reconfigure(|| world.config.write("plain-test.yaml", &other))?;
    assert_eq!(call(world, "test.com")?.0.status, Some(200));

    let cases = [
        ("wrong key", Credential { key: "other.key", ..GOOD }, &["credential"][..]),
        ("expired", Credential { certificate: "client-expired.crt", ..GOOD }, &["credential"]),
        ("server signed by another CA", Credential { ca: "other-ca.crt", ..GOOD }, &["upstream_tls"]),
        (
            "certificate of another CA",
            Credential { certificate: "client-other-ca.crt", ..GOOD },
            // TLS 1.3 servers refuse a client's certificate after the client's handshake is done.
            &["upstream_tls", "upstream_reset"],
        ),
    ];
    for (case, credential, reasons) in cases {
        // Without the Secret in between there is no last good version that could stay in force.
        world.egret.reconfigure(|| world.config.remove(SECRET))?;
        only_this_route_fails(world, "missing", &["credential"], "test.client")?;
        world.egret.reconfigure(|| world.config.write_secret(&world.external, credential))?;
        only_this_route_fails(world, case, reasons, "")?;
    }

    world.egret.reconfigure(|| world.config.write_secret(&world.external, GOOD))?;
    assert_eq!(call(world, "test.com")?.0.status, Some(200));
    Ok(())
}

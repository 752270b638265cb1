//! The external service as curl sees it from the host.

use anyhow::Result;
use egret_tests::{
    curl::{self, Answer},
    external::External,
    service::httpbin::TEAPOT,
};
use serde_json::{Value, json};

use crate::outside;

/// curl to the TLS port as test.com, with the options given.
fn secure(external: &External, options: &[&str], path: &str) -> Result<Answer> {
    let resolve = format!("test.com:443:{}", external.address());
    let ca = external.file("external-ca.crt");
    let url = format!("https://test.com{path}");
    let mut command = curl::command(&["--resolve", &resolve, &url]);
    command.arg("--cacert").arg(ca).args(options);
    curl::run(&mut command)
}

#[test]
fn plain_port_answers_like_httpbin() -> Result<()> {
    let Some(outside) = outside()? else { return Ok(()) };
    let external = &outside.external;
    let base = format!("http://{}", external.address());
    let get = |path: &str| curl::run(&mut curl::command(&["-H", "host: test.com", &format!("{base}{path}")]));

    let teapot = get("/status/418")?;
    assert_eq!(teapot.status, Some(418));
    assert_eq!(teapot.body, TEAPOT);
    assert!(teapot.head.contains("server: httpbin"), "{}", teapot.head);
    assert_eq!(get("/status/200")?.status, Some(200));
    assert_eq!(get("/status/99")?.status, Some(400));
    assert_eq!(get("/nothing")?.status, Some(404));
    assert_eq!(get("/bytes/1000")?.body.len(), 1000);
    assert_eq!(get("/delay/0")?.status, Some(200));
    let headers: Value = serde_json::from_str(&get("/headers")?.body)?;
    assert_eq!(headers["headers"]["host"], "test.com");
    let ip: Value = serde_json::from_str(&get("/ip")?.body)?;
    assert_eq!(ip["origin"], external.namespace().host_address().to_string());

    let mark = external.log().mark();
    let url = format!("{base}/anything/a?b=c");
    let anything = curl::run(&mut curl::command(&["-d", "abc", &url]))?;
    let anything: Value = serde_json::from_str(&anything.body)?;
    assert_eq!(anything["method"], "POST");
    assert_eq!(anything["path"], "/anything/a?b=c");
    // SHA-256 of "abc": FIPS 180-2, appendix B.1.
    assert_eq!(
        anything["body"]["sha256"],
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    let logged = external.log().since(mark)?;
    assert_eq!(logged.len(), 1);
    assert_eq!(logged[0]["path"], "/anything/a?b=c");
    assert_eq!(logged[0]["tls"], false);
    assert_eq!(logged[0]["client"], Value::Null);
    Ok(())
}

#[test]
fn tls_port_wants_a_certificate_of_its_clients_ca() -> Result<()> {
    let Some(outside) = outside()? else { return Ok(()) };
    let external = &outside.external;
    let file = |name: &str| external.file(name).display().to_string();
    let (certificate, key) = (file("client.crt"), file("client.key"));

    let mark = external.log().mark();
    for options in [
        vec![],
        vec!["--cert", file("client-expired.crt").leak(), "--key", &key],
        vec!["--cert", file("client-other-ca.crt").leak(), "--key", &key],
    ] {
        let refused = secure(external, &options, "/status/200")?;
        assert_eq!(refused.status, None, "{options:?}: {}", refused.summary());
    }
    let refused = external.log().since(mark)?;
    assert_eq!(refused.len(), 3, "{refused:?}");
    assert!(refused.iter().all(|line| line["event"] == "tls_error"), "{refused:?}");

    let mark = external.log().mark();
    let allowed = secure(external, &["--cert", &certificate, "--key", &key], "/status/200")?;
    assert_eq!(allowed.status, Some(200), "{}", allowed.summary());
    let logged = external.log().since(mark)?;
    assert_eq!(logged[0]["tls"], true);
    assert_eq!(logged[0]["client"], "test.client");
    assert_eq!(logged[0]["host"], "test.com");
    Ok(())
}

#[test]
fn its_own_policy_refuses_one_path() -> Result<()> {
    let Some(outside) = outside()? else { return Ok(()) };
    let external = &outside.external;
    let file = |name: &str| external.file(name).display().to_string();
    let mark = external.log().mark();
    for (version, query) in [("--http1.1", ""), ("--http1.1", "?x=1"), ("--http2", "")] {
        let options = [version, "--cert", &file("client.crt"), "--key", &file("client.key")];
        let refused = secure(external, &options, &format!("/status/418{query}"))?;
        assert_eq!(refused.status, Some(403), "{}", refused.summary());
        assert_eq!(refused.body, "RBAC: access denied");
    }
    let logged = external.log().since(mark)?;
    assert_eq!(logged.iter().map(|line| &line["refused"]).collect::<Vec<_>>(), vec![&json!(true); 3]);
    Ok(())
}

#[test]
fn a_namespace_goes_with_its_owner() -> Result<()> {
    let Some(outside) = outside()? else { return Ok(()) };
    let (name, link) = {
        let namespace = outside.external.namespace();
        (namespace.name().to_owned(), namespace.host_link().to_owned())
    };
    let exists = || std::path::Path::new("/run/netns").join(&name).exists();
    assert!(exists());
    drop(outside);
    assert!(!exists());
    assert!(!std::path::Path::new("/sys/class/net").join(link).exists());
    Ok(())
}

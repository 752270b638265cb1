//! The capture sees plaintext where there is some, and none in TLS.

use anyhow::Result;
use egret_tests::{capture::Capture, curl};

use crate::outside;

#[test]
fn sees_a_marker_in_plaintext_and_not_in_tls() -> Result<()> {
    let Some(outside) = outside()? else { return Ok(()) };
    let external = &outside.external;
    let marker = format!("egret-marker-{}", std::process::id());
    let header = format!("x-marker: {marker}");

    let capture = Capture::start(&[&marker])?;
    let url = format!("http://{}/anything", external.address());
    assert_eq!(curl::run(&mut curl::command(&["-H", &header, &url]))?.status, Some(200));
    let plain = capture.stop()?;
    assert_eq!(plain.dropped, 0);
    let link = external.namespace().host_link();
    let hit = |hit: &&egret_tests::capture::Hit| hit.interface == link;
    assert!(plain.hits.iter().filter(hit).any(|hit| hit.destination_port == Some(80)), "{plain:?}");

    let capture = Capture::start(&[&marker])?;
    let resolve = format!("test.com:443:{}", external.address());
    let mut command = curl::command(&["-H", &header, "--resolve", &resolve, "https://test.com/anything"]);
    command.arg("--cacert").arg(external.file("external-ca.crt"));
    command.arg("--cert").arg(external.file("client.crt")).arg("--key").arg(external.file("client.key"));
    assert_eq!(curl::run(&mut command)?.status, Some(200));
    let tls = capture.stop()?;
    assert_eq!(tls.dropped, 0);
    assert!(tls.data_to_port.get(&443).is_some_and(|frames| *frames > 0), "{tls:?}");
    assert_eq!(tls.hits, []);
    Ok(())
}

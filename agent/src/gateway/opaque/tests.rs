//! Connections that are not HTTP, over real sockets upstream.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::serve;
use crate::{
    gateway::{
        testing::{Bench, Server, always, decided, denied, forward, until, upstream},
        tls,
    },
    reason::{Reason, Refusal},
    route::AppProtocol,
};

#[tokio::test]
async fn a_server_may_speak_first_and_half_close_is_passed_on() {
    let server = Server::raw(|mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let mut request = String::new();
        stream.read_to_string(&mut request).await.unwrap();
        stream.write_all(format!("got {request}").as_bytes()).await.unwrap();
    })
    .await;
    let bench = Bench::new();
    let (mut client, io) = duplex(1024);
    let mut upstream = upstream(server.address);
    upstream.protocol = AppProtocol::Tcp;
    tokio::spawn(serve(io, bench.session(), always(forward(upstream))));
    let mut banner = [0; 11];
    client.read_exact(&mut banner).await.unwrap();
    client.write_all(b"EHLO").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "got EHLO");
    let line = &bench.logged(1).await[0];
    assert_eq!((&line["bytes_received"], &line["bytes_sent"]), (&4.into(), &19.into()));
    assert_eq!(line["reason"], "completed");
    let flow = bench.gateway.parts.flows.records().remove(0);
    assert_eq!((flow.sent, flow.received, flow.protocol.as_deref()), (4, 19, Some("tcp")));
    assert_eq!(flow.upstream_host, Some(server.address));
}

#[tokio::test]
async fn a_denied_connection_reaches_nobody() {
    let server = Server::raw(|_| async {}).await;
    let bench = Bench::new();
    let (mut client, io) = duplex(1024);
    serve(io, bench.session(), denied).await;
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(server.connections(), 0);
    until(|| bench.gateway.parts.flows.records()[0].duration_ms.is_some()).await;
    assert_eq!(bench.gateway.parts.flows.records()[0].reason, Reason::PolicyDenied);
}

#[tokio::test]
async fn opaque_bytes_never_go_to_a_tls_port() {
    let server = Server::raw(|_| async {}).await;
    let bench = Bench::new();
    let (_client, io) = duplex(1024);
    let mut upstream = upstream(server.address);
    upstream.protocol = AppProtocol::Tls;
    serve(io, bench.session(), always(forward(upstream))).await;
    assert_eq!(server.connections(), 0);
    assert_eq!(bench.logged(1).await[0]["reason"], "tls_required");
}

#[tokio::test]
async fn a_tls_client_gets_an_alert_it_understands() {
    let bench = Bench::new();
    let (mut client, io) = duplex(1024);
    let deny = |_: &_, request: &crate::authz::Request<'_>| {
        assert_eq!(request.sni, Some("test.com"));
        decided(Err(Refusal::new(Reason::PolicyDenied, "denied")))
    };
    tokio::spawn(tls::serve(io, Some("test.com".to_owned()), bench.session(), deny));
    let mut alert = Vec::new();
    client.read_to_end(&mut alert).await.unwrap();
    assert_eq!(alert, [21, 3, 3, 0, 2, 2, 49]);
    assert_eq!(bench.logged(1).await[0]["requested_server_name"], "test.com");
    drop(client);
}

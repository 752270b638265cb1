//! Whole exchanges: bytes of a workload in, a real socket upstream, decisions made by hand.

use std::{sync::Arc, time::Duration};

use ::http::Request;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Body;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use super::{Decide, serve_http2};
use crate::{
    gateway::testing::{Bench, Server, always, decided, denied, forward, until, upstream},
    route::{Action, AppProtocol, Endpoints},
};

/// A hyper client over a workload's connection.
async fn client<D: Decide, B>(bench: &Bench, decide: D) -> hyper::client::conn::http1::SendRequest<B>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(bench.http(decide))).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).header("host", "test.com").body(Empty::new()).unwrap()
}

#[tokio::test]
async fn one_spelling_is_authorized_and_forwarded() {
    let server = Server::echo().await;
    let bench = Bench::new();
    let forward = forward(upstream(server.address));
    let decide = move |_: &_, request: &crate::authz::Request<'_>| {
        let http = request.http.unwrap();
        assert_eq!((http.host, http.authority, http.path), ("test.com", "Test.COM:8080", "/admin"));
        assert_eq!(http.query, Some("x=//../y"));
        decided(Ok(Action::Forward(forward.clone())))
    };
    let answer = bench
        .raw(
            decide,
            "GET /app/%2E.//%2fadmin?x=//../y HTTP/1.1\r\nHost: Test.COM:8080\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\
             X-Forwarded-Client-Cert: By=spiffe://a\r\nBaggage: k8s.pod.name=p\r\nX-Envoy-Original-Path: /\r\nX-Request-Id: 7\r\nUser-Agent: t\r\n\r\n",
        )
        .await
        .to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    assert!(answer.contains("seen-target: /admin?x=//../y\r\n"), "{answer}");
    assert!(answer.contains("seen-host: test.com:8080\r\n"), "{answer}");
    assert!(answer.contains("seen-x-request-id: 7\r\n"), "{answer}");
    for gone in ["seen-x-hop", "seen-x-forwarded", "seen-x-envoy", "seen-connection", "baggage"] {
        assert!(!answer.contains(gone), "{gone}: {answer}");
    }
    let line = &bench.logged(1).await[0];
    assert_eq!(line["response_code"], 200);
    assert_eq!(line["path"], "/app/%2E.//%2fadmin?x=//../y");
    assert_eq!(line["authority"], "Test.COM:8080");
    assert_eq!(line["upstream_cluster"], "outbound|80||test.com");
    assert_eq!(line["upstream_host"], server.address.to_string());
    assert_eq!(line["principal"], "cluster.local/ns/default/sa/sleep");
    assert_eq!((&line["reason"], &line["response_flags"]), (&"completed".into(), &"-".into()));
}

#[tokio::test]
async fn an_absolute_target_overrides_host() {
    let server = Server::echo().await;
    let answer = Bench::new()
        .raw(
            always(forward(upstream(server.address))),
            "GET http://b.test/x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
        )
        .await;
    assert!(answer.contains("seen-host: b.test\r\n") && answer.contains("seen-target: /x\r\n"), "{answer}");
}

#[tokio::test]
async fn a_denied_request_never_reaches_the_upstream() {
    let server = Server::echo().await;
    let bench = Bench::new();
    let answer = bench.raw(denied, "GET /x HTTP/1.1\r\nHost: test.com\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nRBAC: access denied"), "{answer}");
    assert_eq!(server.connections(), 0);
    let line = &bench.logged(1).await[0];
    assert_eq!((&line["response_code"], &line["reason"]), (&403.into(), &"policy_denied".into()));
    assert_eq!(line["response_code_details"], "rbac_access_denied");
}

#[tokio::test]
async fn what_breaks_the_rules_is_answered_and_reaches_nobody() {
    let server = Server::echo().await;
    let bench = Bench::new();
    let host = "Host: test.com\r\n";
    for (request, status) in [
        (
            format!(
                "POST / HTTP/1.1\r\n{host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            400,
        ),
        (format!("GET / HTTP/1.0\r\n{host}\r\n"), 426),
        (format!("GET /%00 HTTP/1.1\r\n{host}Connection: close\r\n\r\n"), 400),
        (format!("GET admin HTTP/1.1\r\n{host}Connection: close\r\n\r\n"), 400),
        (format!("GET * HTTP/1.1\r\n{host}Connection: close\r\n\r\n"), 400),
        ("GET / HTTP/1.1\r\nHost: u@test.com\r\nConnection: close\r\n\r\n".to_owned(), 400),
        (format!("GET https://test.com/ HTTP/1.1\r\n{host}Connection: close\r\n\r\n"), 400),
        (format!("CONNECT test.com:443 HTTP/1.1\r\n{host}Connection: close\r\n\r\n"), 405),
        (format!("GET / HTTP/1.1\r\n{host}Connection: upgrade, close\r\nUpgrade: foo\r\n\r\n"), 403),
    ] {
        let answer = bench.raw(always(forward(upstream(server.address))), &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        assert!(answer.contains("egret-reason: bad_request\r\n"), "{answer}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_malformed_body_is_the_workloads_fault() {
    let server = Server::echo().await;
    let bench = Bench::new();
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n";
    let answer = bench.raw(always(forward(upstream(server.address))), request).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let line = &bench.logged(1).await[0];
    assert_eq!((&line["response_code"], &line["reason"]), (&400.into(), &"bad_request".into()));
    assert_eq!(line["reason_detail"], "a chunk has no size");
}

#[tokio::test]
async fn the_body_of_a_denied_request_is_never_a_request() {
    let server = Server::echo().await;
    let bench = Bench::new();
    let forward = forward(upstream(server.address));
    let decide = move |snapshot: &_, request: &crate::authz::Request<'_>| match request.http.unwrap().path {
        "/denied" => denied(snapshot, request),
        _ => decided(Ok(Action::Forward(forward.clone()))),
    };
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let request = format!(
        "POST /denied HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{smuggled}\
         GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        smuggled.len()
    );
    let answer = bench.raw(decide, &request).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(!answer.contains("/smuggled"), "{answer}");
    // Whether the rest of the connection is served is hyper's choice; if so, it is the next request.
    assert!(answer.matches("seen-target").count() <= 1);
    assert!(bench.logged(1).await.iter().all(|line| line["path"] != "/smuggled"));
}

#[tokio::test]
async fn h2c_is_an_offer_that_ends_here() {
    let server = Server::echo().await;
    let bench = Bench::new();
    let mut client = bench.http(always(forward(upstream(server.address))));
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(!answer.contains("seen-upgrade") && !answer.contains("seen-http2"), "{answer}");
    // Closed in order, not dropped: in a tunnel that would be a reset.
    client.write_all(&vec![0; 100 * 1024]).await.unwrap();
}

#[tokio::test]
async fn upstream_connections_are_kept_across_workload_connections() {
    let server = Server::echo().await;
    let bench = Bench::new();
    for _ in 0..2 {
        let mut sender = client(&bench, always(forward(upstream(server.address)))).await;
        for _ in 0..3 {
            sender.ready().await.unwrap();
            let response = sender.send_request(get("/")).await.unwrap();
            assert_eq!(response.status(), 200);
            response.into_body().collect().await.unwrap();
            until(|| bench.gateway.pool().idle() == 1).await;
        }
    }
    assert_eq!(server.connections(), 1);
}

/// Reads one request head.
async fn read_head(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return false,
        }
    }
    true
}

#[tokio::test]
async fn a_stale_connection_is_replaced() {
    let server = Server::raw(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        // Closed without notice, whatever the gateway keeps it for.
    })
    .await;
    let bench = Bench::new();
    let mut sender = client(&bench, always(forward(upstream(server.address)))).await;
    for _ in 0..5 {
        sender.ready().await.unwrap();
        let response = sender.send_request(get("/")).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
        // The close has arrived.
        until(|| bench.gateway.pool().idle() == 0).await;
    }
    assert_eq!(server.connections(), 5);
}

#[tokio::test]
async fn a_request_that_may_have_been_seen_is_not_repeated() {
    let server = Server::raw(|mut stream| async move {
        read_head(&mut stream).await;
    })
    .await;
    let answer = Bench::new()
        .raw(
            always(forward(upstream(server.address))),
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("egret-reason: upstream_reset\r\n"), "{answer}");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn an_answer_with_two_readings_is_refused_and_its_connection_dropped() {
    for fields in [
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Content-Length: 3\r\nContent-Length: 3",
        "Content-Length: 3\r\nContent-Length: 4",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ] {
        let server = Server::raw(move |mut stream| async move {
            read_head(&mut stream).await;
            let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = stream.read_u8().await;
        })
        .await;
        let bench = Bench::new();
        for count in 1..=2 {
            let answer = bench
                .raw(
                    always(forward(upstream(server.address))),
                    "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                )
                .await;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{fields}: {answer}");
            assert!(answer.contains("egret-reason: upstream_reset\r\n"), "{answer}");
            assert_eq!(server.connections(), count);
        }
    }
}

#[tokio::test]
async fn a_refused_upstream_is_503_and_the_next_endpoint_is_tried() {
    // Bound and dropped: nobody listens there.
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let bench = Bench::new();
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = bench.raw(always(forward(upstream(closed))), request).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("egret-reason: upstream_connect\r\n"), "{answer}");
    assert!(
        answer.contains(&format!("{closed} (test.com) cannot be connected: Connection refused")),
        "{answer}"
    );
    let line = &bench.logged(1).await[0];
    assert_eq!((&line["response_flags"], &line["upstream_host"]), (&"UF".into(), &closed.to_string().into()));

    let server = Server::echo().await;
    let mut both = upstream(closed);
    both.endpoints = Endpoints::Static(vec![closed, server.address]);
    for _ in 0..4 {
        let answer = bench.raw(always(forward(both.clone())), request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn plain_bytes_never_go_to_a_tls_port() {
    let server = Server::echo().await;
    let mut upstream = upstream(server.address);
    upstream.protocol = AppProtocol::Https;
    let answer = Bench::new()
        .raw(always(forward(upstream)), "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("egret-reason: tls_required\r\n"), "{answer}");
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn rebound_names_and_the_gateways_own_addresses_are_not_dialled() {
    let bench = Bench::new();
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for (endpoints, reason) in [
        (Endpoints::Dns(vec![("rebound.test".into(), 80)]), "upstream_resolve"),
        (Endpoints::Dns(vec![("missing.test".into(), 80)]), "upstream_resolve"),
        (Endpoints::OriginalDestination("169.254.169.254:80".parse().unwrap()), "not_registered"),
        (Endpoints::OriginalDestination("10.0.0.9:80".parse().unwrap()), "not_registered"),
        (Endpoints::Static(Vec::new()), "no_endpoint"),
    ] {
        let mut upstream = upstream("127.0.0.1:1".parse().unwrap());
        upstream.endpoints = endpoints;
        let answer = bench.raw(always(forward(upstream)), request).await;
        assert!(answer.contains(&format!("egret-reason: {reason}\r\n")), "{answer}");
    }
}

#[tokio::test]
async fn a_late_answer_is_504() {
    let server = Server::raw(|mut stream| async move {
        read_head(&mut stream).await;
        // Says nothing until the gateway gives up.
        let _ = stream.read_u8().await;
    })
    .await;
    let bench = Bench::new();
    let mut forward = forward(upstream(server.address));
    forward.timeout = Some(Duration::from_millis(50));
    let answer = bench.raw(always(forward), "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(answer.contains("egret-reason: upstream_timeout\r\n"), "{answer}");
    let line = &bench.logged(1).await[0];
    assert_eq!(line["response_flags"], "UT");
    assert_eq!(line["upstream_host"], server.address.to_string());
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let server = Server::echo().await;
    let bench = Bench::new();
    let mut sender = client(&bench, always(forward(upstream(server.address)))).await;
    let sent: Bytes = (0..8_000_000u32).map(|i| (i * 31 % 251) as u8).collect::<Vec<_>>().into();
    for chunked in [false, true] {
        let body = Full::new(sent.clone());
        let body = if chunked {
            http_body_util::Either::Left(Unsized(body))
        } else {
            http_body_util::Either::Right(body)
        };
        sender.ready().await.unwrap();
        let request = Request::post("/").header("host", "a").body(body).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert!(response.into_body().collect().await.unwrap().to_bytes() == sent, "chunked: {chunked}");
    }
    let lines = bench.logged(2).await;
    assert_eq!(
        (&lines[1]["bytes_sent"], &lines[1]["bytes_received"]),
        (&8_000_000.into(), &8_000_000.into())
    );
}

/// A body that does not say how long it is, so that it is sent chunked.
struct Unsized(Full<Bytes>);

impl Body for Unsized {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }
}

#[tokio::test]
async fn head_and_no_content_keep_the_connection() {
    let server = Server::raw(|mut stream| async move {
        for answer in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"[..],
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
        ] {
            read_head(&mut stream).await;
            stream.write_all(answer).await.unwrap();
        }
        let _ = stream.read_u8().await;
    })
    .await;
    let bench = Bench::new();
    let mut sender = client(&bench, always(forward(upstream(server.address)))).await;
    for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304)] {
        sender.ready().await.unwrap();
        let mut request = get("/");
        *request.method_mut() = method.parse().unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), status);
        if method == "HEAD" {
            assert_eq!(response.headers()["content-length"], "1000");
        }
        response.into_body().collect().await.unwrap();
        until(|| bench.gateway.pool().idle() == 1).await;
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn expect_continue_is_answered_for_allowed_requests_only() {
    let server = Server::echo().await;
    let bench = Bench::new();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    let mut client = bench.http(always(forward(upstream(server.address))));
    client.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    client.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"hi").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nhi"), "{answer}");
    assert!(!answer.contains("seen-expect"), "{answer}");
    let answer = bench.raw(denied, head).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test]
async fn a_websocket_becomes_a_byte_stream() {
    let server = Server::raw(|mut stream| async move {
        read_head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n")
            .await
            .unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let bench = Bench::new();
    let mut client = bench.http(always(forward(upstream(server.address))));
    client
        .write_all(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: k\r\n\r\n\x81\x01early")
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(head.contains("sec-websocket-accept: x\r\n"), "{head}");
    client.write_all(b" and more, GET / HTTP/1.1\r\n\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    client.read_to_end(&mut echoed).await.unwrap();
    assert_eq!(echoed, b"\x81\x01early and more, GET / HTTP/1.1\r\n\r\n");
    assert_eq!(bench.logged(1).await[0]["response_code"], 101);
}

#[tokio::test]
async fn an_upgrade_that_is_declined_is_an_ordinary_answer() {
    let server = Server::echo().await;
    let bench = Bench::new();
    let websocket = "GET /1 HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let next = "GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = bench.raw(always(forward(upstream(server.address))), &format!("{websocket}{next}")).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{answer}");
    assert!(answer.contains("seen-target: /2\r\n"), "{answer}");
}

#[tokio::test]
async fn http2_is_served_in_the_same_way() {
    let server = Server::echo().await;
    let bench = Bench::new();
    let (client, io) = duplex(64 * 1024);
    tokio::spawn(serve_http2(
        io,
        bench.session(),
        CancellationToken::new(),
        always(forward(upstream(server.address))),
    ));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://Test.com/a/../b").body(Full::new(Bytes::from_static(b"hi"))).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["seen-target"], "/b");
    assert_eq!(response.headers()["seen-host"], "test.com");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hi");
    let request =
        Request::get("http://test.com/").header("host", "evil.com").body(Full::new(Bytes::new())).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 400);
}

#[tokio::test]
async fn http2_goes_on_as_http2_where_the_port_speaks_it_or_nobody_knows() {
    let server = Server::echo_http2().await;
    for protocol in [AppProtocol::Http2, AppProtocol::Detect] {
        let bench = Bench::new();
        let mut upstream = upstream(server.address);
        upstream.protocol = protocol;
        let (client, io) = duplex(64 * 1024);
        let session = bench.session();
        tokio::spawn(serve_http2(io, session, CancellationToken::new(), always(forward(upstream))));
        let io = TokioIo::new(client);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..3 {
            let request = Request::get("http://test.com/x").header("te", "trailers");
            let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
            assert_eq!(response.headers()["seen-target"], "http://test.com/x");
            assert_eq!(response.headers()["seen-te"], "trailers");
        }
    }
    assert_eq!(server.connections(), 2, "one shared connection per gateway");
}

#[tokio::test]
async fn a_client_that_has_ended_its_side_gets_its_answer() {
    let server = Server::echo().await;
    let mut client = Bench::new().http(always(forward(upstream(server.address))));
    let body = vec![b'x'; 300_000];
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    client.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(&body), "{} bytes", answer.len());
}

#[tokio::test]
async fn a_client_that_goes_away_is_written_down() {
    let server = Server::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.read_u8().await;
    })
    .await;
    let mut bench = Bench::new();
    Arc::get_mut(&mut bench.gateway).unwrap().settings.half_close_timeout = Duration::from_millis(50);
    let mut client = bench.http(always(forward(upstream(server.address))));
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    until(|| server.connections() == 1).await;
    drop(client);
    let line = &bench.logged(1).await[0];
    assert_eq!((&line["reason"], &line["response_flags"]), (&"client_gone".into(), &"DC".into()));
}

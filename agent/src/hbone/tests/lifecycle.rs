//! Connections: who is let in, sharing, drain, rotation, breakage.

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{Method, Request};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{Dialer, GATEWAY, Mesh, SLEEP, connect, echo, soon};
use crate::{
    hbone::{
        client::{Error, Gateway, Gateways, Pool},
        server::Incoming,
    },
    reason::{Reason, Refusal},
    tls::testing::TestAuthority,
};

async fn ping(tunnel: &mut crate::hbone::tunnel::Tunnel) -> io::Result<()> {
    tunnel.write_all(b"ping").await?;
    tunnel.read_exact(&mut [0; 4]).await.map(|_| ())
}

#[tokio::test]
async fn a_gateway_with_another_identity_gets_no_tunnel() {
    let mesh = Mesh::start_as("spiffe://cluster.local/ns/default/sa/impostor", echo).await;
    match mesh.open().await.unwrap_err() {
        Error::Tls(_, e) => assert!(
            e.to_string()
                .starts_with("the peer's certificate is refused: it is the certificate of spiffe://"),
            "{e}"
        ),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_workload_the_gateway_does_not_trust_is_refused_in_the_handshake() {
    let mut mesh = Mesh::start(echo).await;
    // Trusts the gateway's authority, but is signed by another: two authorities with the same roots on one side only.
    let stranger = TestAuthority::new().issue(&crate::tls::testing::with_uris(&[SLEEP]));
    let certificate = crate::tls::certificate::WorkloadCertificate::new(
        vec![stranger.certificate.clone()],
        stranger.key_der(),
        &[mesh.authority.root()],
    );
    mesh.sleep = Arc::new(certificate.unwrap());
    match mesh.open().await.unwrap_err() {
        Error::Tls(_, e) => assert!(e.to_string().contains("alert"), "{e}"),
        other => panic!("{other}"),
    }
    assert_eq!(*mesh.served.borrow(), 0);
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_named() {
    let mesh = Mesh::start(echo).await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gateway = Gateway { address: free, identity: GATEWAY.parse().unwrap() };
    let gateways = Gateways::only(gateway);
    let error = mesh.pool.open(&mesh.sleep, &gateways, &connect()).await.unwrap_err();
    assert!(matches!(error, Error::Dial(address, _) if address == free), "{error}");
    assert!(error.to_string().contains(&free.to_string()), "{error}");
}

#[tokio::test]
async fn a_refusal_brings_status_and_sentence() {
    let mesh = Mesh::start(|incoming: Incoming| async move {
        incoming.refuse(&Refusal::new(Reason::PolicyDenied, "denied by \u{201c}x\u{201d}\r\nset-cookie: y"));
    })
    .await;
    match mesh.open().await.unwrap_err() {
        Error::Refused { status: 403, detail, .. } => assert_eq!(detail, "denied by ?x???set-cookie: y"),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_unanswered_request_is_reset() {
    let mesh = Mesh::start(|incoming: Incoming| async move { drop(incoming) }).await;
    let error = mesh.open().await.unwrap_err();
    assert!(matches!(&error, Error::Http2(_, e) if e.is_reset()), "{error}");
}

#[tokio::test]
async fn what_is_no_connect_is_answered_400() {
    let mesh = Mesh::start(|_: Incoming| async move { panic!("reached the handler") }).await;
    let tcp = TcpStream::connect(mesh.gateway.address).await.unwrap();
    let config = mesh.sleep.client_config(&mesh.gateway.identity);
    let name = rustls::pki_types::ServerName::try_from("gateway").unwrap();
    let tls = TlsConnector::from(config).connect(name, tcp).await.unwrap();
    let (mut send, connection) = h2::client::handshake::<_>(tls).await.unwrap();
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let get = Request::get("https://192.0.2.1/").body(()).unwrap();
    let name = Request::builder().method(Method::CONNECT).uri("0177.0.0.1:443").body(()).unwrap();
    let zero = Request::builder().method(Method::CONNECT).uri("192.0.2.1:0").body(()).unwrap();
    for request in [get, name, zero] {
        let what = format!("{request:?}");
        send = send.ready().await.unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        assert_eq!(soon("the answer", response).await.unwrap().status(), 400, "{what}");
    }
}

#[tokio::test]
async fn draining_finishes_streams_and_sends_new_ones_elsewhere() {
    let mut mesh = Mesh::start(echo).await;
    let mut old = mesh.open().await.unwrap();
    ping(&mut old).await.unwrap();
    mesh.drain.cancel();
    // A second connection is drained from its start, so opening stops working; the open tunnel does not.
    for _ in 0..10 {
        soon("the old tunnel", ping(&mut old)).await.unwrap();
    }
    assert_eq!(*mesh.served.borrow(), 1);
    old.shutdown().await.unwrap();
    assert_eq!(soon("the end", old.read(&mut [0])).await.unwrap(), 0);
    drop(old);
    soon("the connection's end", mesh.served.wait_for(|n| *n == 0)).await.unwrap();
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Sends frames in one go; whether the gateway still answers a ping afterwards.
async fn survives(mesh: &Mesh, frames: &[u8]) -> bool {
    let tcp = TcpStream::connect(mesh.gateway.address).await.unwrap();
    let config = mesh.sleep.client_config(&mesh.gateway.identity);
    let name = rustls::pki_types::ServerName::try_from("gateway").unwrap();
    let mut tls = TlsConnector::from(config).connect(name, tcp).await.unwrap();
    let mut attack = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    attack.extend(frame(4, 0, 0, &[]));
    attack.extend(frames);
    attack.extend(frame(6, 0, 0, b"are you?"));
    // The gateway may be gone before it has read all of it.
    tls.write_all(&attack).await.ok();
    loop {
        let mut head = [0; 9];
        if tls.read_exact(&mut head).await.is_err() {
            return false;
        }
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        tls.read_exact(&mut payload).await.unwrap();
        match (head[3], head[4]) {
            // GOAWAY: ENHANCE_YOUR_CALM.
            (7, _) => {
                assert_eq!(payload[4..8], [0, 0, 0, 11]);
                return false;
            }
            (6, 1) => return payload == b"are you?",
            _ => {}
        }
    }
}

/// H2-01, rapid reset: streams that are opened and reset faster than anybody could look at them.
#[tokio::test]
async fn a_peer_that_opens_and_resets_streams_is_sent_away() {
    let mesh = Mesh::start(echo).await;
    let resets = |streams: u32| -> Vec<u8> {
        // HEADERS with :method and :authority as literals (RFC 7541 §6.2.2), then RST_STREAM CANCEL.
        let pair = |n| {
            let headers = frame(1, 4, 2 * n + 1, b"\x02\x07CONNECT\x01\x0d192.0.2.1:443");
            [headers, frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()
        };
        (0..streams).flat_map(pair).collect()
    };
    assert!(soon("a look for open ports", survives(&mesh, &resets(1000))).await);
    assert!(!soon("many resets", survives(&mesh, &resets(20_000))).await);
    // Everybody else is served.
    ping(&mut mesh.open().await.unwrap()).await.unwrap();
}

/// H2-05 and H2-06: h2 itself takes these for ever.
#[tokio::test]
async fn a_peer_that_floods_control_frames_is_sent_away() {
    let mesh = Mesh::start(echo).await;
    let priority = frame(2, 0, 1, &[0, 0, 0, 0, 1]);
    let update = frame(8, 0, 0, &[0, 0, 0, 1]);
    for (name, flood) in [("PRIORITY", priority), ("WINDOW_UPDATE", update)] {
        assert!(soon(name, survives(&mesh, &flood.repeat(5000))).await, "{name}");
        assert!(!soon(name, survives(&mesh, &flood.repeat(200_000))).await, "{name}");
    }
}

#[tokio::test]
async fn a_gateway_that_only_says_goaway_is_given_up() {
    let mesh = Mesh::start(echo).await;
    mesh.drain.cancel();
    let error = mesh.open().await.unwrap_err();
    assert!(error.to_string().contains("shutting down"), "{error}");
    assert!(mesh.dialled() <= 4);
}

#[tokio::test]
async fn a_goaway_moves_new_tunnels_to_a_new_connection() {
    let mesh = Mesh::start(echo).await;
    let mut old = mesh.open().await.unwrap();
    // A gateway that ends gracefully, and its successor on the same address.
    let successor = Mesh::start(echo).await;
    let (listener, authority) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), &mesh.authority);
    let acceptor = TlsAcceptor::from(authority.workload(GATEWAY).server_config());
    let gateway = Gateway { address: listener.local_addr().unwrap(), ..successor.gateway.clone() };
    let gateways = Gateways::only(gateway);
    let drain = CancellationToken::new();
    let first = drain.clone();
    let _server = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut token = Some(first);
        while let Ok((tcp, _)) = listener.accept().await {
            let tls = acceptor.accept(tcp).await.unwrap();
            let token = token.take().unwrap_or_default();
            tokio::spawn(crate::hbone::server::serve(tls, Arc::new(echo), token));
        }
    }));
    let open = || async { soon("open", mesh.pool.open(&mesh.sleep, &gateways, &connect())).await };
    let mut before = open().await.unwrap();
    drain.cancel();
    let mut after = open().await.unwrap();
    // Which of the two the tunnel got depends on whether the GOAWAY was there already; in the end there is a new one.
    while mesh.dialled() < 3 {
        after = open().await.unwrap();
        tokio::task::yield_now().await;
    }
    for tunnel in [&mut before, &mut after, &mut old] {
        soon("a tunnel", ping(tunnel)).await.unwrap();
    }
}

#[tokio::test]
async fn a_rotated_certificate_makes_a_new_connection() {
    let mut mesh = Mesh::start(echo).await;
    let mut old = mesh.open().await.unwrap();
    mesh.sleep = Arc::new(mesh.authority.workload(SLEEP));
    let mut new = mesh.open().await.unwrap();
    assert_eq!(mesh.dialled(), 2);
    for tunnel in [&mut old, &mut new] {
        soon("a tunnel", ping(tunnel)).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_broke_is_replaced() {
    let mesh = Mesh::start(echo).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway { address: listener.local_addr().unwrap(), ..mesh.gateway.clone() };
    let gateways = Gateways::only(gateway);
    let acceptor = TlsAcceptor::from(mesh.authority.workload(GATEWAY).server_config());
    let kill = Arc::new(tokio::sync::Notify::new());
    let killed = Arc::clone(&kill);
    let _server = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let tls = acceptor.accept(tcp).await.unwrap();
            let serve = crate::hbone::server::serve(tls, Arc::new(echo), CancellationToken::new());
            let killed = Arc::clone(&killed);
            tokio::spawn(async move {
                tokio::select! {
                    _ = serve => {}
                    () = killed.notified() => {}
                }
            });
        }
    }));
    let open = || async { soon("open", mesh.pool.open(&mesh.sleep, &gateways, &connect())).await };
    let mut tunnel = open().await.unwrap();
    ping(&mut tunnel).await.unwrap();
    kill.notify_one();
    let error = soon("the reset", tunnel.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    ping(&mut open().await.unwrap()).await.unwrap();
    assert_eq!(mesh.dialled(), 2);
}

#[tokio::test]
async fn a_full_connection_is_joined_by_another() {
    let mesh = Mesh::start(echo).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway { address: listener.local_addr().unwrap(), ..mesh.gateway.clone() };
    let gateways = Gateways::only(gateway);
    let acceptor = TlsAcceptor::from(mesh.authority.workload(GATEWAY).server_config());
    let _server = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let tls = acceptor.accept(tcp).await.unwrap();
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                let mut connection =
                    builder.max_concurrent_streams(2).handshake::<_, Bytes>(tls).await.unwrap();
                let mut open = Vec::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let stream = respond.send_response(http::Response::new(()), false).unwrap();
                    open.push((request, stream));
                }
            });
        }
    }));
    let mut tunnels = Vec::new();
    for n in 0..5 {
        tunnels.push(soon("open", mesh.pool.open(&mesh.sleep, &gateways, &connect())).await.unwrap());
        assert_eq!(mesh.dialled(), n / 2 + 1);
    }
    // A place that is given back is used again.
    tunnels.pop();
    tunnels.push(soon("open", mesh.pool.open(&mesh.sleep, &gateways, &connect())).await.unwrap());
    assert_eq!(mesh.dialled(), 3);
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_noticed() {
    let mesh = Mesh::start(echo).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway { address: listener.local_addr().unwrap(), ..mesh.gateway.clone() };
    let gateways = Gateways::only(gateway);
    let acceptor = TlsAcceptor::from(mesh.authority.workload(GATEWAY).server_config());
    let _server = AbortOnDropHandle::new(tokio::spawn(async move {
        let tls = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        let mut connection = h2::server::handshake(tls).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        let _stream = respond.send_response(http::Response::new(()), false).unwrap();
        std::future::poll_fn(|cx| {
            // One more round for the response, then never again.
            let _ = connection.poll_closed(cx);
            std::task::Poll::Ready(())
        })
        .await;
        std::future::pending::<()>().await;
    }));
    let mut tunnel = soon("open", mesh.pool.open(&mesh.sleep, &gateways, &connect())).await.unwrap();
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    let error = tunnel.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(started.elapsed().as_secs() <= 15, "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_used_one_is_not() {
    let mut mesh = Mesh::start(echo).await;
    let tunnel = mesh.open().await.unwrap();
    tokio::time::pause();
    tokio::time::sleep(std::time::Duration::from_mins(10)).await;
    assert_eq!(*mesh.served.borrow(), 1);
    drop(tunnel);
    mesh.served.wait_for(|n| *n == 0).await.unwrap();
    tokio::time::resume();
    ping(&mut mesh.open().await.unwrap()).await.unwrap();
    assert_eq!(mesh.dialled(), 2);
}

#[tokio::test]
async fn who_gives_up_waiting_does_not_stop_the_others() {
    let mesh = Mesh::start(echo).await;
    let connect = connect();
    let gateways = Gateways::only(mesh.gateway.clone());
    let mut first = Box::pin(mesh.pool.open(&mesh.sleep, &gateways, &connect));
    // One poll starts the connection.
    std::future::poll_fn(|cx| {
        assert!(Future::poll(first.as_mut(), cx).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    drop(first);
    mesh.open().await.unwrap();
    assert_eq!(mesh.dialled(), 1);
}

#[tokio::test]
async fn a_dropped_pool_lets_its_tunnels_finish() {
    let mut mesh = Mesh::start(echo).await;
    let mut tunnel = mesh.open().await.unwrap();
    mesh.pool = Arc::new(Pool::new(Arc::new(Dialer::default())));
    ping(&mut tunnel).await.unwrap();
    drop(tunnel);
    soon("the connection's end", mesh.served.wait_for(|n| *n == 0)).await.unwrap();
}

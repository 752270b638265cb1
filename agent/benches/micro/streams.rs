//! What bytes cost: telling what a connection speaks, framing of tunnels, copying between two streams. Over memory, on one thread.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use egret::{
    gateway::protocol,
    hbone::{headers::Connect, server},
    net::copy,
    tls::provider::{INTERNET_VERSIONS, provider},
};
use h2::client::SendRequest;
use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    runtime::{Builder, Runtime},
};
use tokio_util::sync::CancellationToken;

const HTTP1: &[u8] =
    b"GET /some/path HTTP/1.1\r\nHost: test.com\r\nUser-Agent: curl/8.14.1\r\nAccept: */*\r\n\r\n";
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Of one write.
const PIECE: usize = 16 * 1024;
/// Of one transfer.
const TOTAL: usize = 1024 * 1024;
const PATIENCE: Duration = Duration::from_mins(1);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Tells the protocol from bytes that are there.
pub(crate) fn sniffing(criterion: &mut Criterion) {
    let hello = client_hello();
    let runtime = runtime();
    let mut group = criterion.benchmark_group("sniff");
    for (name, bytes) in [("http1", HTTP1), ("http2", HTTP2), ("tls", &hello)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut io = bytes;
                runtime.block_on(protocol::detect(&mut io, PATIENCE)).expect("bytes in memory")
            });
        });
    }
}

fn client_hello() -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(INTERNET_VERSIONS)
        .expect("versions of the provider")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from("test.com").expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("memory");
    }
    bytes
}

/// A CONNECT answered by the gateway's end, and bytes through such a tunnel. The other end is plain h2, so that no TCP and no
/// TLS is in it.
pub(crate) fn tunnels(criterion: &mut Criterion) {
    let runtime = runtime();
    let client = runtime.block_on(gateway_end());
    let mut group = criterion.benchmark_group("tunnel");
    group.bench_function("connect", |bencher| {
        bencher.iter(|| runtime.block_on(through(client.clone(), 0)));
    });
    group.throughput(Throughput::Bytes(TOTAL as u64));
    group.bench_function("mebibyte_up", |bencher| {
        bencher.iter(|| runtime.block_on(through(client.clone(), TOTAL / PIECE)));
    });
}

/// A connection whose gateway's end takes every tunnel, and all that comes through it.
async fn gateway_end() -> SendRequest<Bytes> {
    let (near, far) = duplex(256 * 1024);
    let handler = |incoming: server::Incoming| async move {
        let Ok(mut tunnel) = incoming.accept() else { return };
        let mut buffer = vec![0; 64 * 1024];
        while tunnel.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        tunnel.shutdown().await.ok();
    };
    tokio::spawn(server::serve(far, Arc::new(handler), CancellationToken::new()));
    let (client, connection) = h2::client::handshake(near).await.expect("HTTP/2 in memory");
    tokio::spawn(connection);
    client
}

/// Opens a tunnel, sends so many pieces, and waits for the end of the other side.
async fn through(client: SendRequest<Bytes>, pieces: usize) {
    static PIECES: [u8; PIECE] = [7; PIECE];
    let connect = Connect {
        original_destination: ([192, 0, 2, 1], 443).into(),
        dialled_host: None,
        flow_id: None,
        traceparent: None,
        baggage: None,
    };
    let mut client = client.ready().await.expect("room for a stream");
    let (response, mut send) = client.send_request(connect.to_request(), false).expect("a request");
    let mut body = response.await.expect("an answer").into_body();
    for _ in 0..pieces {
        let mut left = Bytes::from_static(&PIECES);
        while !left.is_empty() {
            send.reserve_capacity(left.len());
            while send.capacity() == 0 {
                poll_fn(|cx| send.poll_capacity(cx)).await.expect("an open stream").expect("capacity");
            }
            let now = left.split_to(send.capacity().min(left.len()));
            send.send_data(now, false).expect("an open stream");
        }
    }
    send.send_data(Bytes::new(), true).expect("an open stream");
    while let Some(data) = body.data().await {
        assert!(data.expect("an open stream").is_empty());
    }
}

/// A mebibyte from one pair of streams to another.
pub(crate) fn copying(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("copy");
    group.throughput(Throughput::Bytes(TOTAL as u64));
    group.bench_function("mebibyte", |bencher| {
        bencher.iter_batched(
            || (duplex(256 * 1024), duplex(256 * 1024)),
            |(near, far)| runtime.block_on(copied(near, far)),
            BatchSize::PerIteration,
        );
    });
}

async fn copied(
    (mut workload, mut left): (DuplexStream, DuplexStream),
    (mut right, mut upstream): (DuplexStream, DuplexStream),
) {
    let tally = copy::Tally::default();
    let sends = async {
        for _ in 0..TOTAL / PIECE {
            workload.write_all(&[7; PIECE]).await.expect("memory");
        }
        workload.shutdown().await.expect("memory");
    };
    let takes = async {
        let mut buffer = vec![0; 64 * 1024];
        while upstream.read(&mut buffer).await.expect("memory") > 0 {}
        upstream.shutdown().await.expect("memory");
    };
    let copies = copy::bidirectional(&mut left, &mut right, &tally, PATIENCE);
    let ((), (), copied) = tokio::join!(sends, takes, copies);
    copied.expect("memory");
    assert_eq!(tally.bytes(), (TOTAL as u64, 0));
}

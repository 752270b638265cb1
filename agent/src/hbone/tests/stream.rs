//! The byte stream: volume, half-close, resets, back-pressure.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};

use super::{Mesh, echo, soon};
use crate::{
    hbone::server::Incoming,
    net::copy::{self, Tally},
};

/// A prime, so that a block lost or repeated by any power of two shows.
const PATTERN: usize = 65_521;

fn pattern() -> Vec<u8> {
    let mut state = 1_u32;
    (0..PATTERN)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

#[tokio::test]
async fn a_hundred_megabytes_arrive_unchanged_both_ways() {
    const BLOCKS: usize = 1600;
    let mesh = Mesh::start(echo).await;
    let (mut read, mut write) = tokio::io::split(mesh.open().await.unwrap());
    let sender = tokio::spawn(async move {
        let block = pattern();
        for _ in 0..BLOCKS {
            write.write_all(&block).await.unwrap();
        }
        write.shutdown().await.unwrap();
        write
    });
    let (expected, mut got) = (pattern(), vec![0; PATTERN]);
    soon("the transfer", async {
        for block in 0..BLOCKS {
            read.read_exact(&mut got).await.unwrap();
            assert!(got == expected, "block {block} differs");
        }
        assert_eq!(read.read(&mut got).await.unwrap(), 0);
    })
    .await;
    sender.await.unwrap();
}

/// The way of the data path: what arrived is lent out, no buffer in between.
#[tokio::test]
async fn copying_without_a_buffer_keeps_the_bytes() {
    let mesh = Mesh::start(|incoming: Incoming| async move {
        let mut tunnel = incoming.accept().unwrap();
        tunnel.write_all(&pattern().repeat(100)).await.unwrap();
        tunnel.shutdown().await.unwrap();
        tunnel.read_to_end(&mut Vec::new()).await.unwrap();
    })
    .await;
    let mut tunnel = mesh.open().await.unwrap();
    let mut got = Vec::new();
    let copied = soon("the copy", tokio::io::copy_buf(&mut tunnel, &mut got)).await.unwrap();
    assert!(got == pattern().repeat(100));
    assert_eq!(copied, got.len() as u64);
    tunnel.shutdown().await.unwrap();
}

/// The way of an agent: what is read in bulk is given to the tunnel, which takes no more than its window lets it.
#[tokio::test]
async fn what_is_given_to_a_tunnel_arrives_whole_and_comes_back() {
    let mesh = Mesh::start(echo).await;
    let (mut tunnel, (mut client, mut near)) = (mesh.open().await.unwrap(), tokio::io::duplex(200_000));
    let copied = tokio::spawn(async move {
        let count = Tally::default();
        copy::bidirectional_tunnel(&mut near, &mut tunnel, &count, Duration::from_mins(1)).await.unwrap();
        count.bytes()
    });
    client.write_all(b"hello").await.unwrap();
    let mut greeting = [0; 5];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"hello");
    let sent = pattern().repeat(100);
    let (mut read, mut write) = tokio::io::split(client);
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let ((), read) = soon("the transfer", async { tokio::join!(writing, read.read_to_end(&mut got)) }).await;
    read.unwrap();
    assert!(got == sent);
    let bytes = sent.len() as u64 + 5;
    assert_eq!(copied.await.unwrap(), (bytes, bytes));
}

#[tokio::test]
async fn each_side_can_end_while_the_other_goes_on() {
    let mesh = Mesh::start(|incoming: Incoming| async move {
        let mut tunnel = incoming.accept().unwrap();
        let mut request = String::new();
        tunnel.read_to_string(&mut request).await.unwrap();
        tunnel.write_all(format!("got {request}").as_bytes()).await.unwrap();
        tunnel.shutdown().await.unwrap();
    })
    .await;
    let mut tunnel = mesh.open().await.unwrap();
    tunnel.write_all(b"all of it").await.unwrap();
    tunnel.shutdown().await.unwrap();
    assert_eq!(tunnel.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    let mut response = String::new();
    soon("the response", tunnel.read_to_string(&mut response)).await.unwrap();
    assert_eq!(response, "got all of it");
}

#[tokio::test]
async fn the_server_can_end_first() {
    let (send, mut received) = mpsc::channel(1);
    let mesh = Mesh::start(move |incoming: Incoming| {
        let send = send.clone();
        async move {
            let mut tunnel = incoming.accept().unwrap();
            tunnel.write_all(b"banner").await.unwrap();
            tunnel.shutdown().await.unwrap();
            let mut rest = Vec::new();
            tunnel.read_to_end(&mut rest).await.unwrap();
            send.send(rest).await.unwrap();
        }
    })
    .await;
    let mut tunnel = mesh.open().await.unwrap();
    let mut banner = Vec::new();
    soon("the banner", tunnel.read_to_end(&mut banner)).await.unwrap();
    assert_eq!(banner, b"banner");
    tunnel.write_all(b"late").await.unwrap();
    tunnel.shutdown().await.unwrap();
    drop(tunnel);
    assert_eq!(soon("the rest", received.recv()).await.unwrap(), b"late");
}

/// A server that answers and closes, as HTTP/1.0 does, while its client has not ended.
#[tokio::test]
async fn what_was_written_before_a_close_arrives() {
    let mesh = Mesh::start(|incoming: Incoming| async move {
        let mut tunnel = incoming.accept().unwrap();
        tunnel.read_exact(&mut [0; 7]).await.unwrap();
        tunnel.write_all(&pattern().repeat(30)).await.unwrap();
        tunnel.shutdown().await.unwrap();
    })
    .await;
    for ends in [true, false] {
        let mut tunnel = mesh.open().await.unwrap();
        tunnel.write_all(b"request, and more").await.unwrap();
        let mut answer = Vec::new();
        soon("the answer", tunnel.read_to_end(&mut answer)).await.unwrap();
        assert!(answer == pattern().repeat(30));
        if ends {
            tunnel.shutdown().await.unwrap();
        } else {
            let error = soon("the refusal", async {
                loop {
                    if let Err(e) = tunnel.write_all(&[0; 1000]).await {
                        break e;
                    }
                }
            });
            assert_eq!(error.await.kind(), ErrorKind::BrokenPipe);
        }
    }
    assert_eq!(mesh.dialled(), 1);
}

#[tokio::test]
async fn dropping_an_unfinished_tunnel_resets_the_other_end() {
    let (send, mut received) = mpsc::channel(1);
    let mesh = Mesh::start(move |incoming: Incoming| {
        let send = send.clone();
        async move {
            let mut tunnel = incoming.accept().unwrap();
            tunnel.write_all(b"x").await.unwrap();
            let error = tunnel.read_to_end(&mut Vec::new()).await.unwrap_err();
            let write = tunnel.write_all(b"x").await.unwrap_err();
            send.send((error.kind(), write.kind())).await.unwrap();
        }
    })
    .await;
    let mut tunnel = mesh.open().await.unwrap();
    tunnel.read_exact(&mut [0]).await.unwrap();
    drop(tunnel);
    let kinds = soon("the reset", received.recv()).await.unwrap();
    assert_eq!(kinds, (ErrorKind::ConnectionReset, ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_tunnel_dropped_by_the_server_reads_as_reset() {
    let mesh = Mesh::start(|incoming: Incoming| async move {
        let mut tunnel = incoming.accept().unwrap();
        tunnel.read_exact(&mut [0]).await.unwrap();
    })
    .await;
    let mut tunnel = mesh.open().await.unwrap();
    tunnel.write_all(b"x").await.unwrap();
    let error = soon("the reset", tunnel.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // The connection is as good as before.
    assert_eq!(mesh.open().await.map(|_| mesh.dialled()).unwrap(), 1);
}

#[tokio::test]
async fn a_reader_that_stalls_stops_its_writer_and_nobody_else() {
    let (send, mut received) = mpsc::channel(2);
    let mesh = Mesh::start(move |incoming: Incoming| {
        let send = send.clone();
        async move { send.send(incoming.accept().unwrap()).await.unwrap() }
    })
    .await;
    let mut stalled = mesh.open().await.unwrap();
    let mut far_stalled = received.recv().await.unwrap();
    let block = vec![7; 64 << 10];
    let mut written = 0;
    // More than the stream's window and send buffer must not be taken.
    while let Ok(result) = tokio::time::timeout(Duration::from_millis(200), stalled.write(&block)).await {
        written += result.unwrap();
        assert!(written < 4 << 20, "no back-pressure");
    }
    assert!(written >= 1 << 20);

    let mut other = mesh.open().await.unwrap();
    let mut far_other = received.recv().await.unwrap();
    assert_eq!(mesh.dialled(), 1);
    other.write_all(b"hello").await.unwrap();
    let mut hello = [0; 5];
    soon("the other stream", far_other.read_exact(&mut hello)).await.unwrap();
    assert_eq!(&hello, b"hello");

    stalled.shutdown().await.unwrap();
    let mut all = Vec::new();
    soon("the stalled stream", far_stalled.read_to_end(&mut all)).await.unwrap();
    assert_eq!(all.len(), written);
}

#[tokio::test]
async fn five_hundred_streams_share_one_connection() {
    let mesh = Arc::new(Mesh::start(echo).await);
    let tasks: Vec<_> = (0..500_u32)
        .map(|n| {
            let mesh = Arc::clone(&mesh);
            tokio::spawn(async move {
                let mut tunnel = mesh.open().await.unwrap();
                let mut got = Vec::new();
                let sent = n.to_be_bytes().repeat(1000);
                tunnel.write_all(&sent).await.unwrap();
                tunnel.shutdown().await.unwrap();
                tunnel.read_to_end(&mut got).await.unwrap();
                assert!(got == sent, "stream {n}");
            })
        })
        .collect();
    for task in tasks {
        soon("a stream", task).await.unwrap();
    }
    assert_eq!(mesh.dialled(), 1);
}

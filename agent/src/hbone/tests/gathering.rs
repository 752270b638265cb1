//! Gathered writes over pipes so small that every write has to wait: nothing may be lost, reordered or stuck.

use std::{future::poll_fn, io::IoSlice, pin::Pin, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{connect, echo, soon};
use crate::hbone::{
    driver::poll_driven,
    gather::gather,
    headers::Connect,
    server::{Incoming, serve},
    tunnel::Tunnel,
};

/// A client of its own over any pipe, driven like the real one.
async fn client(io: tokio::io::DuplexStream) -> (h2::client::SendRequest<Bytes>, AbortOnDropHandle<()>) {
    let (io, drain) = gather(io, None);
    let (send, mut connection) = h2::client::Builder::new().handshake::<_, Bytes>(io).await.unwrap();
    let driver = tokio::spawn(async move {
        poll_fn(|cx| poll_driven(cx, &drain, |cx| Future::poll(Pin::new(&mut connection), cx))).await.ok();
    });
    (send, AbortOnDropHandle::new(driver))
}

async fn open(send: &h2::client::SendRequest<Bytes>, connect: &Connect) -> Tunnel {
    let mut send = send.clone().ready().await.unwrap();
    let (response, stream) = send.send_request(connect.to_request(), false).unwrap();
    Tunnel::new(stream, response.await.unwrap().into_body(), None)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn streams_survive_any_pipe(
        pipe in prop_oneof![1_usize..64, 64_usize..70_000],
        writes in prop::collection::vec(prop::collection::vec(1_usize..3000, 0..12), 1..6),
    ) {
        runtime().block_on(async {
            let (near, far) = tokio::io::duplex(pipe);
            let server = tokio::spawn(serve(far, Arc::new(|i: Incoming| echo(i)), CancellationToken::new()));
            let (send, driver) = soon("the handshake", client(near)).await;
            let connect = connect();
            let mut streams = Vec::new();
            for lengths in &writes {
                let (mut read, mut write) = tokio::io::split(soon("open", open(&send, &connect)).await);
                let lengths = lengths.clone();
                streams.push(tokio::spawn(async move {
                    let sent: Vec<u8> =
                        (0..lengths.iter().sum::<usize>()).map(|i| (i % 251) as u8).collect();
                    let copy = sent.clone();
                    let writer = tokio::spawn(async move {
                        let mut rest = &copy[..];
                        for length in lengths {
                            let (head, tail) = rest.split_at(length);
                            write.write_all(head).await.unwrap();
                            rest = tail;
                        }
                        write.shutdown().await.unwrap();
                        write
                    });
                    let mut got = Vec::new();
                    read.read_to_end(&mut got).await.unwrap();
                    writer.await.unwrap();
                    assert!(got == sent);
                }));
            }
            for stream in streams {
                soon("a stream", stream).await.unwrap();
            }
            drop(send);
            soon("the end", server).await.unwrap().unwrap();
            drop(driver);
        });
    }

    #[test]
    fn what_is_gathered_leaves_in_order(
        pipe in prop_oneof![1_usize..5_000, 40_000_usize..300_000],
        writes in prop::collection::vec(prop_oneof![0_usize..3_000, 20_000_usize..70_000], 0..30),
    ) {
        runtime().block_on(async {
            let (near, mut far) = tokio::io::duplex(pipe);
            let (mut gathered, drain) = gather(near, None);
            let sent: Vec<u8> = (0..writes.iter().sum::<usize>()).map(|i| (i % 253) as u8).collect();
            let copy = sent.clone();
            let writer = tokio::spawn(async move {
                let mut rest = &copy[..];
                for length in writes {
                    let (mut head, tail) = rest.split_at(length);
                    // A frame as h2 writes it: its header and what is in it.
                    while !head.is_empty() {
                        let (header, data) = head.split_at(head.len().min(9));
                        let slices = [IoSlice::new(header), IoSlice::new(data)];
                        let n = gathered.write_vectored(&slices).await.unwrap();
                        head = &head[n..];
                    }
                    gathered.flush().await.unwrap();
                    rest = tail;
                }
                poll_fn(|cx| drain.poll_drain(cx)).await.unwrap();
                poll_fn(|cx| drain.poll_shutdown(cx)).await.unwrap();
            });
            let mut got = Vec::new();
            soon("reading", far.read_to_end(&mut got)).await.unwrap();
            writer.await.unwrap();
            assert!(got == sent);
        });
    }
}

#[tokio::test]
async fn many_small_frames_leave_in_few_writes() {
    let (io, drain) = gather(tokio_test_writer(), None);
    let mut io = io;
    for _ in 0..100 {
        io.write_all(&[0; 1000]).await.unwrap();
        io.flush().await.unwrap();
    }
    poll_fn(|cx| drain.poll_drain(cx)).await.unwrap();
    assert_eq!(WRITES.load(std::sync::atomic::Ordering::SeqCst), 1);
}

static WRITES: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Counts the writes it gets.
fn tokio_test_writer() -> impl tokio::io::AsyncWrite + Unpin {
    struct Counting;
    impl tokio::io::AsyncWrite for Counting {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buf: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            WRITES.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            std::task::Poll::Ready(Ok(buf.len()))
        }
        fn poll_flush(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn poll_shutdown(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
    }
    Counting
}

//! Copying between in-memory pipes and real sockets.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    net::{TcpListener, TcpStream},
};

use super::{Error, Side, Tally, bidirectional};
use crate::net::testing::Holding;

const IDLE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn passes_a_half_close_on_and_keeps_the_other_direction() {
    let (mut client, mut left) = duplex(64);
    let (mut right, mut server) = duplex(64);
    let copy = tokio::spawn(async move {
        let count = Tally::default();
        bidirectional(&mut left, &mut right, &count, IDLE).await.unwrap();
        count.bytes()
    });
    client.write_all(b"a question longer than the pipes").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = String::new();
    server.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "a question longer than the pipes");
    server.write_all(b"and an answer after it").await.unwrap();
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "and an answer after it");
    assert_eq!(copy.await.unwrap(), (32, 22));
}

#[tokio::test]
async fn large_transfers_with_back_pressure_arrive_whole() {
    let (mut client, mut left) = duplex(1000);
    let (mut right, mut server) = duplex(333);
    let copy =
        tokio::spawn(async move { bidirectional(&mut left, &mut right, &Tally::default(), IDLE).await });
    let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i * 31 % 251) as u8).collect();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        client
    });
    let mut received = Vec::new();
    server.read_to_end(&mut received).await.unwrap();
    assert!(received == expected);
    drop(server);
    writer.await.unwrap();
    copy.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_kept_is_flushed_though_nothing_follows_it() {
    let (mut client, mut left) = duplex(1000);
    let (right, mut server) = duplex(1000);
    let mut right = Holding::new(right);
    let copy =
        tokio::spawn(async move { bidirectional(&mut left, &mut right, &Tally::default(), IDLE).await });
    for length in 1..=40 {
        let sent = vec![length as u8; length];
        client.write_all(&sent).await.unwrap();
        let mut received = vec![0; length];
        let read = tokio::time::timeout(Duration::from_secs(10), server.read_exact(&mut received));
        read.await.expect("it does not stay behind").unwrap();
        assert_eq!(received, sent);
    }
    copy.abort();
}

#[tokio::test]
async fn names_the_side_that_broke() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut right = listener.accept().await.unwrap().0;
    let (_client, mut left) = duplex(64);
    peer.set_zero_linger().unwrap();
    drop(peer);
    let error = bidirectional(&mut left, &mut right, &Tally::default(), IDLE).await.unwrap_err();
    assert!(matches!(error, Error::Io(Side::Right, _)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn ends_an_idle_pair() {
    let (_client, mut left) = duplex(64);
    let (mut right, _server) = duplex(64);
    let error = bidirectional(&mut left, &mut right, &Tally::default(), IDLE).await.unwrap_err();
    assert!(matches!(error, Error::Idle(_)));
}

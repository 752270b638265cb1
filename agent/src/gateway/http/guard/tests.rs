//! The smuggling table (SMUG-01 to SMUG-08, LIM-01, LIM-04) against the guard alone.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::{Guard, GuardHandle, Patience, SUBSTITUTE};

const PATIENCE: Patience = Patience {
    idle: Duration::from_hours(1),
    head: Duration::from_secs(10),
    body: Duration::from_mins(5),
    half_closed: Duration::from_secs(30),
};

/// Sends `input` through a guard in pieces of `piece` bytes; what came out, and the guard's handle.
async fn through(input: &[u8], piece: usize) -> (Vec<u8>, GuardHandle) {
    let (mut client, io) = duplex(piece);
    let (mut guard, handle) = Guard::new(io, PATIENCE);
    let input = input.to_vec();
    let writer = tokio::spawn(async move {
        let _ = client.write_all(&input).await;
        drop(client);
    });
    let mut out = Vec::new();
    loop {
        let mut buffer = [0; 64];
        // A refused request leaves the guard waiting for hyper to end the connection.
        tokio::select! {
            biased;
            read = guard.read(&mut buffer) => match read {
                Ok(0) | Err(_) => break,
                Ok(n) => out.extend_from_slice(&buffer[..n]),
            },
            () = std::future::ready(()), if out.ends_with(SUBSTITUTE) => break,
        }
    }
    drop(guard);
    writer.await.unwrap();
    (out, handle)
}

async fn status(input: &str) -> u16 {
    let mut statuses = Vec::new();
    for piece in [1, 7, 100_000] {
        let (out, handle) = through(input.as_bytes(), piece).await;
        statuses.push(match handle.next_request() {
            Ok(_) => 200,
            Err(violation) => {
                assert_eq!(out, SUBSTITUTE, "nothing of the request reaches hyper: {input:?}");
                violation.status
            }
        });
    }
    assert!(statuses.iter().all(|s| *s == statuses[0]), "{input:?} {statuses:?}");
    statuses[0]
}

#[tokio::test]
async fn the_smuggling_table() {
    let host = "Host: a\r\n";
    for (input, expected) in [
        (format!("GET / HTTP/1.1\r\n{host}\r\n"), 200),
        (format!("POST / HTTP/1.1\r\n{host}Content-Length: 1\r\n\r\nx"), 200),
        (format!("POST / HTTP/1.1\r\n{host}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n"), 400),
        (
            format!(
                "POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"
            ),
            400,
        ),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: gzip, chunked\r\n\r\n"), 501),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked, chunked\r\n\r\n"), 501),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: identity\r\n\r\n"), 501),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: \u{a0}chunked\r\n\r\n"), 501),
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: xchunked\r\n\r\n"), 501),
        (format!("POST / HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n"), 426),
        (format!("GET / HTTP/1.0\r\n{host}\r\n"), 426),
        (format!("GET / HTTP/1.2\r\n{host}\r\n"), 400),
        (format!("GET / HTTP/2.0\r\n{host}\r\n"), 400),
        (format!("GET /\r\n{host}\r\n"), 400),
        (format!("GET  / HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET /a b HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("get / HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("FOO / HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("\r\nGET / HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET / HTTP/1.1\n{host}\r\n"), 400),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\n{host}X: a\rb\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}X: a\0b\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}X : a\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}X: a\r\n folded\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n X: a\r\n{host}\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}no colon\r\n\r\n"), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\n{host}{host}\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}Host: b\r\n\r\n"), 400),
    ] {
        assert_eq!(status(&input).await, expected, "{input:?}");
    }
    for length in
        ["+1", "-1", "1_0", "0x1", "", "1, 1", "18446744073709551616", "18446744073709551615", "1 1"]
    {
        let input = format!("POST / HTTP/1.1\r\n{host}Content-Length: {length}\r\n\r\n");
        assert_eq!(status(&input).await, 400, "{length}");
    }
    let repeated = format!("POST / HTTP/1.1\r\n{host}Content-Length: 1\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(status(&repeated).await, 400);
    let fields = format!("GET / HTTP/1.1\r\n{host}{}\r\n", "X: y\r\n".repeat(101));
    assert_eq!(status(&fields).await, 431);
    let large = format!("GET / HTTP/1.1\r\n{host}X: {}\r\n\r\n", "y".repeat(70_000));
    assert_eq!(status(&large).await, 431);
}

#[tokio::test]
async fn passes_pipelined_requests_and_bodies_on_as_they_are() {
    let input = "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
                 POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                 GET /3 HTTP/1.1\r\nHost: a\r\n\r\n";
    for piece in [1, 5, 1000] {
        let (out, handle) = through(input.as_bytes(), piece).await;
        assert_eq!(String::from_utf8(out).unwrap(), input);
        assert!((0..3).all(|_| handle.next_request().is_ok()));
    }
}

#[tokio::test]
async fn refuses_the_second_request_when_that_one_is_bad() {
    let input = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\n\r\n";
    let (out, handle) = through(input.as_bytes(), 1000).await;
    assert!(out.starts_with(b"GET /1") && out.ends_with(SUBSTITUTE));
    assert!(handle.next_request().is_ok());
    assert_eq!(handle.next_request().unwrap_err().status, 400);
}

#[tokio::test]
async fn holds_everything_after_an_upgrade_until_it_is_decided() {
    for accepted in [true, false] {
        let (mut client, io) = duplex(1000);
        let (mut guard, handle) = Guard::new(io, PATIENCE);
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        client.write_all(head).await.unwrap();
        client.write_all(b"\x81\x05bytes").await.unwrap();
        let mut got = vec![0; head.len()];
        guard.read_exact(&mut got).await.unwrap();
        let mut buffer = [0; 64];
        let mut reading = std::pin::pin!(guard.read(&mut buffer));
        assert!(futures_pending(reading.as_mut()).await, "held");
        handle.decide_upgrade(accepted);
        // Declined, the same bytes are the start of a request that is not complete yet.
        assert_eq!(futures_pending(reading.as_mut()).await, !accepted);
    }
}

/// Whether `future` is still pending after one poll.
async fn futures_pending<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_is_refused_and_an_idle_connection_ended() {
    let (mut client, io) = duplex(1000);
    let (mut guard, handle) = Guard::new(io, PATIENCE);
    client.write_all(b"GET / HT").await.unwrap();
    let mut buffer = [0; 256];
    let read = guard.read(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..read], SUBSTITUTE);
    assert_eq!(handle.next_request().unwrap_err().status, 408);

    let (_client, io) = duplex(1000);
    let (mut guard, _handle) = Guard::new(io, PATIENCE);
    assert_eq!(guard.read(&mut buffer).await.unwrap(), 0);
}

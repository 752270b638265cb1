//! The server alone, behind it a service that says what it saw: the smuggling table (SMUG-01 to SMUG-08, LIM-01, LIM-04), bodies,
//! patience, ends.

use std::{sync::Arc, time::Duration};

use ::http::{Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_util::sync::CancellationToken;

use super::{Incoming, Patience, Violation, serve};
use crate::gateway::{
    http::body::ResponseBody,
    testing::{Bench, Server, always, forward, upstream},
};

const PATIENCE: Patience = Patience {
    idle: Duration::from_hours(1),
    head: Duration::from_secs(10),
    half_closed: Duration::from_secs(30),
};

/// What the service saw.
type Seen = Arc<Mutex<Vec<String>>>;

fn answer(status: u16, text: String) -> Response<ResponseBody> {
    let mut answer = Response::new(ResponseBody::local(Bytes::from(text), None));
    *answer.status_mut() = status.try_into().unwrap();
    answer
}

/// Serves the other end of the stream, until `drain`; every request is answered with its target and body, but for `/unread` its body
/// is left alone.
fn server(capacity: usize, drain: CancellationToken) -> (DuplexStream, Seen) {
    let (client, io) = duplex(capacity);
    let seen = Seen::default();
    let service = {
        let seen = Arc::clone(&seen);
        move |request: Result<Request<Incoming>, Violation>| {
            let seen = Arc::clone(&seen);
            async move {
                let request = match request {
                    Ok(request) => request,
                    Err(violation) => return answer(violation.status, violation.why.to_owned()),
                };
                let path = request.uri().path().to_owned();
                if path == "/never" {
                    return std::future::pending().await;
                }
                let body = if path == "/unread" {
                    Ok(Bytes::new())
                } else {
                    request.into_body().collect().await.map(Collected::to_bytes)
                };
                let text = match body {
                    Ok(body) => format!("{path} {}", String::from_utf8_lossy(&body)),
                    Err(e) => return answer(400, e.to_string()),
                };
                seen.lock().push(text.clone());
                answer(200, text)
            }
        }
    };
    tokio::spawn(serve(io, PATIENCE, drain, service));
    (client, seen)
}

/// Sends `input` in pieces of `piece` bytes, and ends the client's side; everything that was answered, and what the service saw.
async fn through(input: &[u8], piece: usize) -> (String, Vec<String>) {
    let (client, seen) = server(piece, CancellationToken::new());
    let (mut read, mut write) = tokio::io::split(client);
    let input = input.to_vec();
    let writing = tokio::spawn(async move {
        // One that refused does not read on.
        let _ = write.write_all(&input).await;
        let _ = write.shutdown().await;
    });
    let mut answers = Vec::new();
    let _ = read.read_to_end(&mut answers).await;
    writing.await.unwrap();
    let seen = seen.lock().clone();
    (String::from_utf8(answers).unwrap(), seen)
}

async fn status(input: &str) -> u16 {
    let mut statuses = Vec::new();
    for piece in [1, 7, 100_000] {
        let (answer, seen) = through(input.as_bytes(), piece).await;
        let status: u16 = answer["HTTP/1.1 ".len()..][..3].parse().unwrap();
        assert_eq!(seen.len(), usize::from(status == 200), "nothing that is refused is seen: {input:?}");
        statuses.push(status);
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
        (format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: \x0cchunked\r\n\r\n"), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\n{host}{host}\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}Host: b\r\n\r\n"), 400),
    ] {
        assert_eq!(status(&input).await, expected, "{input:?}");
    }
    for length in ["+1", "-1", "1_0", "0x1", "", "1, 1", "18446744073709551616", "1 1"] {
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
async fn requests_follow_one_another_and_bodies_end_where_they_say() {
    let input = "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
                 POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                 GET /3 HTTP/1.1\r\nHost: a\r\n\r\n";
    for piece in [1, 5, 1000] {
        let (answers, seen) = through(input.as_bytes(), piece).await;
        assert_eq!(seen, ["/1 hello", "/2 abc", "/3 "]);
        assert_eq!(answers.matches("HTTP/1.1 200 OK\r\ncontent-length: ").count(), 3, "{answers}");
    }
}

#[tokio::test]
async fn the_second_request_is_refused_when_that_one_is_bad() {
    let input = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n";
    let (answers, seen) = through(input.as_bytes(), 1000).await;
    assert_eq!(seen, ["/1 "]);
    assert!(answers.contains("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n"), "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 2, "{answers}");
}

#[tokio::test]
async fn a_body_that_nobody_read_is_never_a_request() {
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = |length: usize| {
        format!("POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{smuggled}")
    };
    let next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    // It is there as a whole, so the next request follows it.
    let (_, seen) = through(format!("{}{next}", head(smuggled.len())).as_bytes(), 1000).await;
    assert_eq!(seen, ["/unread ", "/next "]);
    // It is not, so nothing does, and its sender is told.
    let (answers, seen) = through(format!("{}{next}", head(100_000)).as_bytes(), 1000).await;
    assert_eq!(seen, ["/unread "]);
    assert!(answers.contains("\r\nconnection: close\r\n"), "{answers}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_is_refused_and_an_idle_connection_ended() {
    let (mut client, _) = server(1000, CancellationToken::new());
    client.write_all(b"GET / HT").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");

    let (mut client, _) = server(1000, CancellationToken::new());
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let began = tokio::time::Instant::now();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(began.elapsed().as_secs(), PATIENCE.idle.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_gone_is_not_waited_for_and_one_that_is_half_closed_is_for_a_while() {
    let request = b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n";
    let (mut client, _) = server(1000, CancellationToken::new());
    client.write_all(request).await.unwrap();
    client.shutdown().await.unwrap();
    let began = tokio::time::Instant::now();
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(began.elapsed().as_secs(), PATIENCE.half_closed.as_secs());
}

#[tokio::test(start_paused = true)]
async fn one_that_is_half_closed_is_given_up_in_the_middle_of_an_answer_too() {
    let server = Server::raw(|mut stream| async move {
        let _ = stream.read(&mut [0; 1000]).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome").await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    });
    let server = server.await;
    let bench = Bench::new();
    let forward = forward(upstream(server.address));
    let mut client = bench.http(always(forward));
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let began = tokio::time::Instant::now();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(b"some"));
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn a_drain_ends_what_is_idle_at_once_and_what_is_busy_with_its_answer() {
    let drain = CancellationToken::new();
    let (mut idle, _) = server(1000, drain.clone());
    let (mut busy, seen) = server(1000, drain.clone());
    busy.write_all(b"POST /busy HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nh").await.unwrap();
    // It has been read up to here.
    busy.write_all(b"i").await.unwrap();
    while seen.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    drain.cancel();
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    let mut answer = String::new();
    busy.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("/busy hi"), "{answer}");
}

//! Tells a client that its connection goes nowhere, in the protocol it speaks: HTTP gets a status with the reason, TLS an
//! alert, everything else a reset.
//!
//! For what fails before the gateway; the gateway has its own `gateway::refuse`. Peeking serves the wording only, never a decision (design D1).

use std::{future::poll_fn, time::Duration};

use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use crate::{net::scratch, reason::Refusal};

/// How long a client may take to show what it speaks, and to read the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A fatal `internal_error` alert in a TLS 1.2 record (RFC 8446 §6): what a client before its handshake understands.
const TLS_ALERT: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 80];

/// Refuses `stream`; returns the bytes written.
pub(super) async fn refuse(mut stream: TcpStream, refusal: &Refusal) -> u64 {
    let mut start = [0; 16];
    let seen = match timeout(PATIENCE, stream.peek(&mut start)).await {
        Ok(Ok(seen)) => &start[..seen],
        Ok(Err(_)) | Err(_) => &[],
    };
    let answer = if looks_like_http(seen) {
        http_answer(refusal)
    } else if seen.first() == Some(&0x16) {
        TLS_ALERT.to_vec()
    } else {
        reset(stream);
        return 0;
    };
    // Closing with unread bytes would send a reset that can overtake the answer, so the client's bytes are read away first.
    let farewell = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await?;
        while poll_fn(|cx| scratch::poll_read(&mut stream, cx, <[u8]>::len)).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    match timeout(PATIENCE, farewell).await {
        Ok(Ok(())) => answer.len() as u64,
        Ok(Err(_)) | Err(_) => 0,
    }
}

/// Ends `stream` with a RST, which no client takes for a regular end.
pub(super) fn reset(stream: TcpStream) {
    if let Err(e) = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)) {
        // The close is an orderly one then: less clear to the client, but still an end.
        tracing::debug!("SO_LINGER: {e}");
    }
    drop(stream);
}

fn looks_like_http(start: &[u8]) -> bool {
    let method = start.split(|&byte| byte == b' ').next().unwrap_or_default();
    // The longest registered method is 16 bytes (RFC 9110 and the IANA registry: UPDATEREDIRECTREF is 17, and WebDAV only).
    method.len() >= 3 && method.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'-')
}

fn http_answer(refusal: &Refusal) -> Vec<u8> {
    let status = refusal.reason.http_status();
    let phrase =
        http::StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason()).unwrap_or("Refused");
    let body = format!("egret: {}: {}\n", refusal.reason, refusal.detail);
    format!(
        "HTTP/1.1 {status} {phrase}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         egret-reason: {}\r\nconnection: close\r\n\r\n{body}",
        body.len(),
        refusal.reason,
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::refuse;
    use crate::reason::{Reason, Refusal};

    async fn answer_to(sent: &[u8]) -> std::io::Result<Vec<u8>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut client = TcpStream::connect(listener.local_addr()?).await?;
        client.write_all(sent).await?;
        let (server, _) = listener.accept().await?;
        let refusal = Refusal::new(Reason::GatewayUnreachable, "nobody is there");
        let serve = tokio::spawn(async move { refuse(server, &refusal).await });
        let mut answer = Vec::new();
        let read = client.read_to_end(&mut answer).await;
        drop(client);
        serve.await?;
        read.map(|_| answer)
    }

    #[tokio::test]
    async fn http_clients_get_the_reason() {
        let answer = answer_to(b"GET / HTTP/1.1\r\nhost: test.com\r\n\r\n").await.unwrap();
        let text = String::from_utf8(answer).unwrap();
        assert!(text.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{text}");
        assert!(text.contains("egret-reason: gateway_unreachable\r\n"), "{text}");
        assert!(text.ends_with("nobody is there\n"), "{text}");
    }

    #[tokio::test]
    async fn tls_clients_get_an_alert_and_others_a_reset() {
        let alert = answer_to(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).await.unwrap();
        assert_eq!(alert[..2], [0x15, 3]);
        let error = answer_to(b"\0\0\0\x08\x04\xd2\x16/").await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

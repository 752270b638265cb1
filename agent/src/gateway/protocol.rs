//! What a connection speaks, told from its first bytes; nothing is lost, nothing is answered.
//!
//! `tunnel` asks for connections whose port declares no protocol. Bounded in bytes and in time: whoever says nothing
//! within the time waits for the server to speak first, so the connection is opaque. Everything that is not clearly TLS
//! or HTTP is opaque as well, which is the strict side: policies with HTTP fields never allow an opaque connection.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::tls::sni::{self, ClientHello};

/// Largest start of a connection that is looked at: a ClientHello with post-quantum keys is about 2 KiB, a request line
/// may be 8 KiB.
const LIMIT: usize = 16 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TLS, with the server name of its ClientHello.
    Tls(Option<String>),
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Anything else, silence included.
    Opaque,
}

/// Reads from `io` until its protocol is clear. Returns the bytes read.
pub async fn detect<IO: AsyncRead + Unpin>(
    io: &mut IO,
    timeout: Duration,
) -> std::io::Result<(Protocol, Bytes)> {
    let mut bytes = BytesMut::new();
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        if let Some(protocol) = classify(&bytes) {
            return Ok((protocol, bytes.freeze()));
        }
        match tokio::time::timeout_at(deadline, io.read_buf(&mut bytes)).await {
            Ok(Ok(0)) | Err(_) => return Ok((Protocol::Opaque, bytes.freeze())),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

/// The protocol that starts with `bytes`; absent: more bytes are needed.
fn classify(bytes: &[u8]) -> Option<Protocol> {
    let full = bytes.len() >= LIMIT;
    match bytes.first()? {
        // A TLS handshake record. Only its parser knows whether it is one.
        0x16 => match sni::parse(bytes) {
            ClientHello::Tls { sni } => Some(Protocol::Tls(sni)),
            ClientHello::Incomplete if !full => None,
            ClientHello::Incomplete | ClientHello::NotTls => Some(Protocol::Opaque),
        },
        first if first.is_ascii_alphabetic() => {
            if bytes.len() >= PREFACE.len() && bytes.starts_with(PREFACE) {
                return Some(Protocol::Http2);
            }
            if PREFACE.starts_with(bytes) {
                return None;
            }
            let line = bytes.iter().position(|&byte| byte == b'\n').map(|end| &bytes[..end]);
            match line {
                Some(line) if is_request_line(line) => Some(Protocol::Http1),
                Some(_) => Some(Protocol::Opaque),
                None if full => Some(Protocol::Opaque),
                None if bytes.iter().any(|&byte| byte != b'\r' && byte < b' ') => Some(Protocol::Opaque),
                None => None,
            }
        }
        _ => Some(Protocol::Opaque),
    }
}

/// Whether a first line, strict or not, is an HTTP/1 request line; the HTTP server refuses what is not strict.
fn is_request_line(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    line.len() > 8 && line[line.len() - 8..].starts_with(b"HTTP/1.")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::{Protocol, classify, detect};

    #[test]
    fn tells_http_from_everything_else() {
        for (bytes, expected) in [
            (&b""[..], None),
            (b"GE", None),
            (b"GET / HTTP/1.1", None),
            (b"GET / HTTP/1.1\r\n", Some(Protocol::Http1)),
            (b"get / HTTP/1.0\n", Some(Protocol::Http1)),
            (b"PRI * HT", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Protocol::Http2)),
            (b"GET key\r\n", Some(Protocol::Opaque)),
            (b"SSH-2.0-OpenSSH_9\r\n", Some(Protocol::Opaque)),
            (b"\x00\x00", Some(Protocol::Opaque)),
            (b"\r\nGET / HTTP/1.1\r\n", Some(Protocol::Opaque)),
            (b"a\x00", Some(Protocol::Opaque)),
        ] {
            assert_eq!(classify(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(classify("G".repeat(20_000).as_bytes()), Some(Protocol::Opaque));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_opaque_and_bytes_survive() {
        let (mut client, mut io) = duplex(64);
        assert_eq!(
            detect(&mut io, Duration::from_secs(5)).await.unwrap(),
            (Protocol::Opaque, bytes::Bytes::new())
        );
        client.write_all(b"GET ").await.unwrap();
        let (protocol, bytes) = detect(&mut io, Duration::from_secs(5)).await.unwrap();
        assert_eq!((protocol, &bytes[..]), (Protocol::Opaque, &b"GET "[..]));
    }

    #[tokio::test]
    async fn split_bytes_are_put_together() {
        let (mut client, mut io) = duplex(3);
        let writer = tokio::spawn(async move { client.write_all(b"GET / HTTP/1.1\r\n").await });
        let (protocol, bytes) = detect(&mut io, Duration::from_secs(5)).await.unwrap();
        assert_eq!((protocol, &bytes[..]), (Protocol::Http1, &b"GET / HTTP/1.1\r\n"[..]));
        writer.await.unwrap().unwrap();
    }
}

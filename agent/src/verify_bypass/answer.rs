//! A request on a connection that an attempt made, and what the answer says about the way it took.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use super::{
    local,
    vector::{Attempt, Seen, refused},
    witness::{self, Testimony},
};

/// A longer answer is not the witness's.
const ANSWER: u64 = 1 << 20;

/// Sends a request with the token over a connected socket, and judges by the answer and the kernel's table of sockets.
pub(super) fn exchange(stream: TcpStream, port: u16, token: &str, host: SocketAddr) -> Attempt {
    let remote = local::remote_of(port);
    let answer = ask(stream, &format!("{}{token}", witness::PATH), host);
    Attempt::new(judge(port, remote, answer)).at_port(port)
}

/// The same where the request is sent already.
pub(super) fn answered(stream: &TcpStream, port: u16) -> Attempt {
    let remote = local::remote_of(port);
    Attempt::new(judge(port, remote, read(stream))).at_port(port)
}

/// One request; the whole answer.
pub(super) fn ask(mut stream: TcpStream, path: &str, host: SocketAddr) -> io::Result<Vec<u8>> {
    stream.write_all(request(path, host).as_bytes())?;
    read(&stream)
}

/// Reads to the end; what came before an error or the time limit is returned.
pub(super) fn read(stream: &TcpStream) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(super::PATIENCE))?;
    let mut answer = Vec::new();
    match stream.take(ANSWER).read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(answer),
    }
}

pub(super) fn request(path: &str, host: SocketAddr) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
}

/// What the witness said, if it was the witness.
pub(super) fn testimony(answer: &[u8]) -> Option<Testimony> {
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    serde_json::from_slice(&answer[body + 4..]).ok()
}

/// `remote` is where the kernel's table has our socket connected to. The table comes before a witness that saw another port:
/// that may be the gateway's, or ours behind NAT.
fn judge(port: u16, remote: Option<SocketAddr>, answer: io::Result<Vec<u8>>) -> Seen {
    let peer = answer.as_ref().ok().and_then(|answer| testimony(answer)).and_then(|said| said.peer);
    if peer.is_some_and(|peer| peer.port() == port) {
        return Seen::Direct(format!("the witness talked to us, port {port}"));
    }
    let what = match (&answer, peer) {
        (_, Some(peer)) => format!("the witness talked to {}", local::unmapped(peer.ip())),
        (Ok(answer), None) => status(answer),
        (Err(error), None) => match refused(error) {
            Seen::Refused(why) => why,
            _ => "no answer".to_owned(),
        },
    };
    match remote {
        Some(remote) if !local::unmapped(remote.ip()).is_loopback() => {
            Seen::Direct(format!("connected to {remote} itself, {what}"))
        }
        _ if peer.is_some() => Seen::Captured(what),
        Some(_) => Seen::Captured(format!("at the listener, {what}")),
        None if answer.is_ok_and(|answer| !answer.is_empty()) => Seen::Captured(what),
        None => Seen::Sent,
    }
}

/// `answered 502`, from a status line.
pub(super) fn status(answer: &[u8]) -> String {
    let line =
        String::from_utf8_lossy(answer.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    match line.split(' ').nth(1) {
        Some(status) if line.starts_with("HTTP/") => format!("answered {status}"),
        _ if answer.is_empty() => "closed".to_owned(),
        _ => "answered with something that is not HTTP".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Seen, judge};

    const LISTENER: &str = "127.0.0.1:40000";
    const TARGET: &str = "192.0.2.7:80";

    fn witness(peer: &str) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\nx: y\r\n\r\n{{\"peer\":\"{peer}\"}}").into_bytes()
    }

    #[test]
    fn the_witness_tells_our_port_from_the_gateways() {
        assert!(matches!(judge(20_000, None, Ok(witness("192.0.2.1:20000"))), Seen::Direct(_)));
        assert!(matches!(judge(20_000, None, Ok(witness("192.0.2.1:40001"))), Seen::Captured(_)));
        let captured = judge(20_000, LISTENER.parse().ok(), Ok(witness("192.0.2.1:40001")));
        assert_eq!(captured, Seen::Captured("the witness talked to 192.0.2.1".to_owned()));
        // NAT gave us another port on the way.
        let seen = judge(20_000, TARGET.parse().ok(), Ok(witness("192.0.2.1:40001")));
        assert!(matches!(seen, Seen::Direct(_)), "{seen:?}");
    }

    #[test]
    fn without_it_the_socket_table_decides() {
        let bad_gateway = || Ok(b"HTTP/1.1 502 Bad Gateway\r\n\r\n".to_vec());
        let seen = judge(20_000, LISTENER.parse().ok(), bad_gateway());
        assert_eq!(seen, Seen::Captured("at the listener, answered 502".to_owned()));
        assert!(matches!(judge(20_000, TARGET.parse().ok(), bad_gateway()), Seen::Direct(_)));
        let reset = || Err(std::io::Error::from_raw_os_error(nix::libc::ECONNRESET));
        assert!(matches!(judge(20_000, TARGET.parse().ok(), reset()), Seen::Direct(_)));
        assert!(matches!(judge(20_000, LISTENER.parse().ok(), reset()), Seen::Captured(_)));
        assert_eq!(judge(20_000, None, reset()), Seen::Sent);
        let mapped = "[::ffff:127.0.0.1]:40000".parse().ok();
        assert!(matches!(judge(20_000, mapped, bad_gateway()), Seen::Captured(_)));
    }
}

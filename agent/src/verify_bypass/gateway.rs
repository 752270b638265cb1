//! Egret's own ports: the workload's listener and the gateway, dialled by somebody who should not.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpStream},
};

use super::{
    PATIENCE, answer, local,
    vector::{Attempt, Expected::Blocked, Probe, Seen, Vector, refused},
};

pub(super) const VECTORS: &[Vector] = &[
    Vector { name: "the listener's own port", expected: Blocked, attempt: listener },
    Vector { name: "another workload's listener", expected: Blocked, attempt: another_listener },
    Vector { name: "the gateway without a certificate", expected: Blocked, attempt: gateway },
];

/// A connection that no captured connect() belongs to must not be served.
fn listener(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => SocketAddr::from(target),
        Err(attempt) => return attempt,
    };
    let Some(listener) = find_listener(target).filter(|found| local::unmapped(found.ip()).is_loopback())
    else {
        return Attempt::not_available("no listener: a connection to the target is not captured");
    };
    dial(listener, probe, target)
}

/// Being served there would be somebody else's identity.
fn another_listener(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => SocketAddr::from(target),
        Err(attempt) => return attempt,
    };
    match probe.context.listener {
        Some(listener) => dial(listener, probe, target),
        None => Attempt::not_available("no --listener"),
    }
}

/// A request to a listener, as if it had been captured.
fn dial(listener: SocketAddr, probe: &Probe<'_>, target: SocketAddr) -> Attempt {
    let request = answer::request(&format!("{}{}", super::witness::PATH, probe.token), target);
    served(talk(listener, &request), |answer| !answer.is_empty())
}

/// Where a captured connection really goes.
fn find_listener(target: SocketAddr) -> Option<SocketAddr> {
    let (socket, port) = local::stream(socket2::Domain::IPV4, None).ok()?;
    socket.connect(&target.into()).ok()?;
    local::remote_of(port)
}

/// A CONNECT in plain text, at the port that takes tunnels.
fn gateway(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => target,
        Err(attempt) => return attempt,
    };
    let Some(gateway) = probe.context.gateway else { return Attempt::not_available("no --gateway") };
    let request = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    served(talk(gateway, &request), |answer| answer.starts_with(b"HTTP/1.1 2"))
}

fn talk(to: SocketAddr, request: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.write_all(request.as_bytes())?;
    answer::read(&stream)
}

fn served(answer: io::Result<Vec<u8>>, is_service: impl FnOnce(&[u8]) -> bool) -> Attempt {
    Attempt::new(match answer {
        Ok(answer) if is_service(&answer) => Seen::Direct("it served us".to_owned()),
        Ok(_) => Seen::Refused("closed without an answer".to_owned()),
        Err(error) => refused(&error),
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::served;
    use crate::verify_bypass::vector::Seen;

    #[test]
    fn only_an_answer_is_service() {
        let seen = |answer| served(answer, |answer: &[u8]| !answer.is_empty()).seen;
        assert!(matches!(seen(Ok(b"HTTP/1.1 200".to_vec())), Seen::Direct(_)));
        assert!(matches!(seen(Ok(Vec::new())), Seen::Refused(_)));
        assert!(matches!(seen(Err(io::ErrorKind::ConnectionReset.into())), Seen::Refused(_)));
        assert_eq!(seen(Err(io::ErrorKind::TimedOut.into())), Seen::Dropped);
    }
}

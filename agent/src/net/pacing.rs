//! Connections of a short way are not paced.
//!
//! What an operator prefers for the network (`net.ipv4.tcp_congestion_control`) may spread segments over a round trip by timers (BBR). Where a
//! round trip is shorter than what timers are good for, they cost more than the segments that they hold back: a third of the processor
//! time of a byte, measured (`agent/ARCHITECTURE.md`, "Speed"). `node` has its loopback listeners [`unpaced`]; tunnels, at both ends, and upstream
//! connections are [`settle`]d when they are open. On longer ways the operator's choice stands.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
    time::Duration,
};

use socket2::SockRef;

use super::gauge;

/// Always in the kernel, permitted to everybody, and it does not pace.
const UNPACED: &[u8] = b"reno";

/// How the names of those that pace begin, whatever their version.
const PACED: &[u8] = b"bbr";

/// Round trips up to here are those of one machine, or of machines beside each other.
const NEAR: Duration = Duration::from_micros(200);

/// Has a listener's connections not paced.
pub fn unpaced(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_congestion(UNPACED)
}

/// Has an open connection not paced any more if its peer is near. What cannot be changed stays as the operator wants it.
pub fn settle(socket: &impl AsFd) {
    let settled = || {
        if SockRef::from(socket).tcp_congestion()?.starts_with(PACED) && is_near(socket)? {
            unpaced(socket)?;
        }
        io::Result::Ok(())
    };
    if let Err(error) = settled() {
        tracing::debug!(%error, "a connection stays paced");
    }
}

fn is_near(socket: &impl AsFd) -> io::Result<bool> {
    let rtt = gauge::figures(socket.as_fd().as_raw_fd())?.min_rtt_us;
    // 0: nothing was measured.
    Ok(rtt > 0 && Duration::from_micros(rtt.into()) <= NEAR)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn congestion(socket: &TcpStream) -> Vec<u8> {
        let name = SockRef::from(socket).tcp_congestion().unwrap();
        name.into_iter().take_while(|byte| *byte != 0).collect()
    }

    #[test]
    fn what_is_accepted_is_as_the_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        unpaced(&listener).unwrap();
        let _dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(congestion(&listener.accept().unwrap().0), UNPACED);
    }

    #[test]
    fn a_near_connection_is_not_paced_and_others_stay_as_they_are() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // A machine that is busy elsewhere may make a handshake long.
        let mut tries = (0..50).map(|_| TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let dialled = tries.find(|dialled| is_near(dialled).unwrap()).expect("loopback is near");
        if SockRef::from(&dialled).set_tcp_congestion(PACED).is_ok() {
            settle(&dialled);
            assert_eq!(congestion(&dialled), UNPACED);
        }
        if SockRef::from(&dialled).set_tcp_congestion(b"cubic").is_ok() {
            settle(&dialled);
            assert_eq!(congestion(&dialled), b"cubic", "does not pace");
        }
        let unconnected = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        assert!(!is_near(&unconnected).unwrap(), "nothing was measured");
    }
}

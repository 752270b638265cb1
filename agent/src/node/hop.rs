//! One hop through a workload's own path: a connection that is captured like the workload's own, arrives at its listener, and
//! ends there. Proves hooks, policy, maps, listener and accepting task together. `node::check` asks for it.
//!
//! The probe is a socket of the workload's cgroup and namespace (`socket`), made once and used again. It is bound to loopback, so
//! that it cannot leave the machine where it is not captured, and its destination is one that no network forwards to.

mod socket;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    os::fd::AsRawFd as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use nix::libc;
use parking_lot::Mutex;
use socket2::Socket;
use tokio::{
    sync::oneshot,
    task::spawn_blocking,
    time::{error::Elapsed, timeout},
};

use super::netns::Namespace;
use crate::datapath::WorkloadPolicy;

/// The IPv4 dummy address (RFC 7600, "not globally reachable, not forwardable"), at the discard port.
const DESTINATION_V4: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8)), 9);
/// In the discard-only prefix (RFC 6666).
const DESTINATION_V6: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1)), 9);

/// Index of the loopback device, in every network namespace.
const LOOPBACK_DEVICE: NonZeroU32 = NonZeroU32::MIN;

/// How long a hop may take; it needs microseconds, and a turn of the accepting task.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a hop went.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It arrived, with its destination.
    Arrived,
    /// It was not possible to try, for a reason that is no fault.
    Skipped(String),
    /// It did not arrive, or not as itself.
    Failed(String),
}

/// The probe of one workload.
#[derive(Debug, Default)]
pub(super) struct Hop {
    probe: Mutex<Option<(SocketAddr, Socket)>>,
    /// The probe's own address, and who waits for the destination that it arrives with.
    awaited: Mutex<Option<(SocketAddr, oneshot::Sender<Option<SocketAddr>>)>>,
}

impl Hop {
    /// Where the probe goes for a workload with this policy; None: it has no family that could be tried.
    pub(super) fn destination(policy: &WorkloadPolicy) -> Option<SocketAddr> {
        if policy.listener_v4 != 0 && !policy.no_route_v4 {
            Some(DESTINATION_V4)
        } else if policy.listener_v6 != 0 && !policy.no_route_v6 {
            Some(DESTINATION_V6)
        } else {
            None
        }
    }

    /// Whether a connection that was accepted from `peer` is the probe's. It is told with which destination it came.
    pub(super) fn arrived(&self, peer: SocketAddr, original_destination: Option<SocketAddr>) -> bool {
        let Some((_, waits)) = self.awaited.lock().take_if(|(probe, _)| *probe == peer) else { return false };
        // It may have given up.
        let _ = waits.send(original_destination);
        true
    }

    /// Tries one.
    pub(super) async fn take(
        &self,
        cgroup: &Path,
        namespace: Option<&Arc<Namespace>>,
        destination: SocketAddr,
    ) -> Outcome {
        let probe = self.probe.lock().take_if(|(made_for, _)| *made_for == destination);
        let probe = if let Some((_, probe)) = probe {
            probe
        } else {
            let (cgroup, namespace) = (cgroup.to_owned(), namespace.cloned());
            let made = spawn_blocking(move || {
                socket::in_cgroup(&cgroup, namespace.as_deref(), destination.is_ipv4())
            });
            match made.await.unwrap_or_else(|e| Err(socket::Error::Io(io::Error::other(e)))) {
                Ok(probe) => probe,
                Err(socket::Error::NoRoom(why)) => return Outcome::Skipped(why),
                Err(socket::Error::Io(e)) => return Outcome::Failed(format!("no probe can be made: {e}")),
            }
        };
        let outcome = match self.connect(&probe, destination) {
            Ok(arrival) => match timeout(PATIENCE, arrival).await {
                Ok(Ok(Some(came))) if came == destination => Outcome::Arrived,
                Ok(Ok(Some(came))) => Outcome::Failed(format!("it arrived as one to {came}")),
                Ok(Ok(None)) => Outcome::Failed("it arrived without its destination".to_owned()),
                Ok(Err(_)) | Err(Elapsed { .. }) => {
                    Outcome::Failed(format!("it did not arrive within {PATIENCE:?}"))
                }
            },
            Err(e) => Outcome::Failed(format!("it cannot connect: {e}")),
        };
        self.awaited.lock().take();
        // One that cannot be taken back is closed, and made again.
        if disconnect(&probe).is_ok() {
            *self.probe.lock() = Some((destination, probe));
        }
        outcome
    }

    fn connect(
        &self,
        probe: &Socket,
        destination: SocketAddr,
    ) -> io::Result<oneshot::Receiver<Option<SocketAddr>>> {
        let here: SocketAddr = match destination {
            SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST, 0).into(),
        };
        // Once: only CAP_NET_RAW may bind a socket to a device again.
        if probe.device_index_v4()? != Some(LOOPBACK_DEVICE) {
            probe.bind_device_by_index_v4(Some(LOOPBACK_DEVICE))?;
        }
        match probe.bind(&here.into()) {
            // Bound already: it could not connect the last time.
            Err(e) if e.raw_os_error() != Some(libc::EINVAL) => return Err(e),
            _ => {}
        }
        let here = probe.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let (arrived, arrival) = oneshot::channel();
        // Before it connects: it may be accepted at once.
        *self.awaited.lock() = Some((here, arrived));
        match probe.connect(&destination.into()) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
            _ => Ok(arrival),
        }
    }
}

/// Takes a connection back, whatever its state: the socket can be used again.
fn disconnect(socket: &Socket) -> io::Result<()> {
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: the kernel reads one sockaddr, which lives for the call.
    let result = unsafe {
        libc::connect(socket.as_raw_fd(), &raw const nobody, size_of_val(&nobody) as libc::socklen_t)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // The reset that this sent counts as an error of the socket.
    socket.take_error().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_goes_where_the_workload_can() {
        let both = WorkloadPolicy { listener_v4: 1, listener_v6: 2, ..WorkloadPolicy::default() };
        assert_eq!(Hop::destination(&both), Some(DESTINATION_V4));
        assert_eq!(Hop::destination(&WorkloadPolicy { no_route_v4: true, ..both }), Some(DESTINATION_V6));
        assert_eq!(Hop::destination(&WorkloadPolicy { no_route_v4: true, no_route_v6: true, ..both }), None);
        assert_eq!(Hop::destination(&WorkloadPolicy { no_route_v4: true, listener_v6: 0, ..both }), None);
    }

    #[tokio::test]
    async fn only_the_probe_is_told_from_the_workloads_connections() {
        let hop = Hop::default();
        let (arrived, arrival) = oneshot::channel();
        let probe: SocketAddr = "127.0.0.1:4242".parse().unwrap();
        *hop.awaited.lock() = Some((probe, arrived));
        assert!(!hop.arrived("127.0.0.1:4243".parse().unwrap(), Some(DESTINATION_V4)));
        assert!(hop.arrived(probe, Some(DESTINATION_V4)));
        assert_eq!(arrival.await.unwrap(), Some(DESTINATION_V4));
        assert!(!hop.arrived(probe, Some(DESTINATION_V4)), "once");
    }

    /// Not captured: it goes nowhere, and the socket can be used again.
    #[test]
    fn a_probe_does_not_leave_the_machine() {
        let hop = Hop::default();
        let probe = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        probe.set_nonblocking(true).unwrap();
        let mut outcomes = Vec::new();
        for _ in 0..3 {
            let outcome = hop.connect(&probe, DESTINATION_V4).map(drop);
            outcomes.push(outcome.map_err(|e| e.raw_os_error()));
            let here = probe.local_addr().unwrap().as_socket().unwrap();
            assert!(here.ip().is_loopback(), "{here}");
            disconnect(&probe).unwrap();
        }
        assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{outcomes:?}");
    }
}

//! Which sockets a workload may make. Called by the `sock_create` hook, which the kernel runs for IPv4 and IPv6 sockets of
//! processes only: netlink, unix, vsock and packet sockets never come here. Pure, so it is tested on the host.

use agent_common::Decision;

use crate::numbers::{
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM,
};

/// None: may be made. What is not known is refused: it would be a way past `connect()`.
#[inline(always)]
pub const fn socket_class(kind: u32, protocol: u32) -> Option<Decision> {
    match (kind, protocol) {
        (SOCK_STREAM, IPPROTO_TCP) | (SOCK_DGRAM, IPPROTO_UDP) => None,
        (SOCK_STREAM, IPPROTO_MPTCP) => Some(Decision::RefusedMptcpSocket),
        (SOCK_RAW, _) => Some(Decision::RefusedRawSocket),
        (SOCK_DGRAM, IPPROTO_ICMP | IPPROTO_ICMPV6) => Some(Decision::RefusedPingSocket),
        _ => Some(Decision::RefusedSocketClass),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Verdict, verdict};

    #[test]
    fn tcp_and_udp_only() {
        for (kind, protocol, expected) in [
            (SOCK_STREAM, IPPROTO_TCP, None),
            (SOCK_DGRAM, IPPROTO_UDP, None),
            (SOCK_STREAM, IPPROTO_MPTCP, Some((Decision::RefusedMptcpSocket, 93))),
            (SOCK_RAW, IPPROTO_TCP, Some((Decision::RefusedRawSocket, 1))),
            (SOCK_RAW, IPPROTO_UDP, Some((Decision::RefusedRawSocket, 1))),
            (SOCK_RAW, 255, Some((Decision::RefusedRawSocket, 1))),
            (SOCK_DGRAM, IPPROTO_ICMP, Some((Decision::RefusedPingSocket, 13))),
            (SOCK_DGRAM, IPPROTO_ICMPV6, Some((Decision::RefusedPingSocket, 13))),
            // UDP-Lite, SCTP of both kinds, DCCP, L2TP over IP.
            (SOCK_DGRAM, 136, Some((Decision::RefusedSocketClass, 93))),
            (SOCK_STREAM, 132, Some((Decision::RefusedSocketClass, 93))),
            (5, 132, Some((Decision::RefusedSocketClass, 93))),
            (6, 33, Some((Decision::RefusedSocketClass, 93))),
            (SOCK_DGRAM, 115, Some((Decision::RefusedSocketClass, 93))),
        ] {
            let decided = socket_class(kind, protocol);
            assert_eq!(decided, expected.map(|(decision, _)| decision), "type {kind}, protocol {protocol}");
            if let Some((decision, errno)) = expected {
                assert_eq!(verdict(decision), Verdict::Refuse(errno));
            }
        }
    }
}

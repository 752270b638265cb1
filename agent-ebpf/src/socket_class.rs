//! Which sockets a workload may make, and where. Called by the `sock_create` hook, which the kernel runs for IPv4 and IPv6 sockets of
//! processes only: netlink, unix, vsock and packet sockets never come here; and by the `bind` hooks, which it also runs for sockets of its
//! own. Pure, so it is tested on the host.

use agent_common::{Decision, Policy};

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

/// None: may be bound. A tunnel device (VXLAN, Geneve, WireGuard, …) sends by a socket of the kernel's, which is made for whoever brings
/// the device up, and bound at once. With CAP_NET_ADMIN a workload can have that done in the node's network, where nothing asks it again.
/// None of them is TCP; a process of the workload that went there with TCP is captured.
#[inline(always)]
pub const fn bound_in(policy: &Policy, kind: u32, in_node: bool) -> Option<Decision> {
    if in_node && kind != SOCK_STREAM && (policy.own_network() || policy.workload() == 0) {
        Some(Decision::RefusedNodeSocket)
    } else {
        None
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

    #[test]
    fn tunnels_are_not_bound_in_the_nodes_network() {
        let host = Policy::new(7, 1, 2);
        let own = host.in_own_network(true);
        let refused = Some(Decision::RefusedNodeSocket);
        assert_eq!(bound_in(&own, SOCK_DGRAM, true), refused);
        assert_eq!(bound_in(&own, SOCK_RAW, true), refused);
        assert_eq!(bound_in(&Policy::new(0, 0, 0), SOCK_DGRAM, true), refused, "nobody knows yet");
        assert_eq!(bound_in(&own, SOCK_DGRAM, false), None, "where the workload is");
        assert_eq!(bound_in(&own, SOCK_STREAM, true), None, "captured");
        assert_eq!(bound_in(&host, SOCK_DGRAM, true), None, "it is there itself");
        assert_eq!(verdict(Decision::RefusedNodeSocket), Verdict::Refuse(1));
    }
}

//! Everything that the kernel programs count, with stable numbers and names. What each means for a connection is
//! decided in `agent-ebpf`, in one table.

macro_rules! decisions {
    ($($(#[$doc:meta])* $variant:ident = $number:literal $name:literal,)+) => {
        /// What a kernel program decided or did. The number is the index in the counters' map; never reuse one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Decision {
            $($(#[$doc])* $variant = $number,)+
        }

        impl Decision {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name in metrics, logs and the CLI.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

decisions! {
    /// `connect()`: sent to the workload's listener.
    Captured = 0 "captured",
    /// `connect()`: not a TCP stream; left alone.
    PassedNotTcp = 1 "passed_not_tcp",
    /// `connect()`: loopback or unspecified destination; left alone.
    BypassedLoopback = 2 "bypassed_loopback",
    /// `connect()`: destination in a bypassed range; left alone.
    BypassedRange = 3 "bypassed_range",
    /// `connect()`: captured by another set of programs just before (an upgrade, or a nested cgroup); left alone.
    AlreadyCaptured = 4 "already_captured",
    /// `connect()`: user space has not written the workload's policy yet; refused.
    RefusedUnclassified = 5 "refused_unclassified",
    /// `connect()`: multicast or broadcast destination; refused as the kernel would.
    RefusedMulticast = 6 "refused_multicast",
    /// `connect()`: destination port 0; refused.
    RefusedPortZero = 7 "refused_port_zero",
    /// `connect()`: the workload's network namespace has no route for the family; refused as the kernel would.
    RefusedNoRoute = 8 "refused_no_route",
    /// `connect()`: the socket is bound to a device other than lo, so the listener cannot be reached; refused.
    RefusedBoundDevice = 9 "refused_bound_device",
    /// `connect()`: the workload has no listener for the family; refused.
    RefusedNoListener = 10 "refused_no_listener",
    /// `connect()`: the original destination cannot be remembered (out of memory); refused.
    RefusedNoMemory = 11 "refused_no_memory",
    /// With the SYN: the original destination was published to the agent.
    Published = 12 "published",
    /// With the SYN: the map of original destinations is full. The agent will reset the connection.
    PublishFailed = 13 "publish_failed",
    /// A captured connection was refused, since nobody listens; its original destination was taken back.
    Withdrawn = 14 "withdrawn",
    /// `getpeername()`: answered with the original destination.
    PeerRestored = 15 "peer_restored",
    /// `connect()`: destination is a configured resolver; left alone.
    BypassedResolver = 16 "bypassed_resolver",
    /// `socket()`: a raw socket; refused.
    RefusedRawSocket = 17 "refused_raw_socket",
    /// `socket()`: an ICMP ("ping") socket; refused.
    RefusedPingSocket = 18 "refused_ping_socket",
    /// `socket()`: Multipath TCP; refused, so that clients use TCP.
    RefusedMptcpSocket = 19 "refused_mptcp_socket",
    /// `socket()`: another protocol than TCP and UDP (SCTP, DCCP, UDP-Lite, L2TP, …); refused.
    RefusedSocketClass = 20 "refused_socket_class",
    /// `sendto()`: a UDP destination that is not allowed; refused.
    RefusedDatagram = 21 "refused_datagram",
    /// `sendto()`: a UDP destination that is allowed; left alone.
    PassedDatagram = 22 "passed_datagram",
    /// Somebody outside called a listening socket: the answers of the connections that it accepts pass.
    Accepted = 23 "accepted",
    /// The same, but it cannot be remembered (out of memory); their answers count as those of older connections.
    AcceptFailed = 24 "accept_failed",
    /// Packet out: loopback.
    PassedLoopback = 25 "passed_loopback",
    /// Packet out: destination in a bypassed range.
    PassedRange = 26 "passed_range",
    /// Packet out: to a configured resolver.
    PassedResolver = 27 "passed_resolver",
    /// Packet out: on a TCP connection that came from outside.
    PassedAnswer = 28 "passed_answer",
    /// Packet out: UDP to a peer that had sent to this port before.
    PassedDatagramAnswer = 29 "passed_datagram_answer",
    /// Packet out: neighbour or multicast-listener discovery.
    PassedNeighbour = 30 "passed_neighbour",
    /// Packet out: on a TCP connection that no program saw begin and nobody has judged yet. The only thing that leaves without having
    /// been asked for in the configuration.
    PassedOlderConnection = 31 "passed_older_connection",
    /// Packet out: no policy has been written; dropped.
    DroppedUnclassified = 32 "dropped_unclassified",
    /// Packet out: of a captured connection, but not on loopback; dropped.
    DroppedCaptured = 33 "dropped_captured",
    /// Packet out: a TCP connection being opened that was not captured; dropped. An attempt to escape, or a retransmission of
    /// one that began before the enrolment.
    DroppedTcpOpen = 34 "dropped_tcp_open",
    /// Packet out: UDP to somewhere not allowed; dropped.
    DroppedDatagram = 35 "dropped_datagram",
    /// Packet out: ICMP or ICMPv6; dropped.
    DroppedIcmp = 36 "dropped_icmp",
    /// Packet out: of a raw socket, whatever it holds; dropped.
    DroppedRaw = 37 "dropped_raw",
    /// Packet out: any other protocol, or not readable; dropped.
    DroppedOther = 38 "dropped_other",
    /// Lock on the link, out: TCP to a gateway's address and port.
    LinkPassedTunnel = 40 "link_passed_tunnel",
    /// Lock on the link, out: to a bypassed range, or a configured resolver.
    LinkPassedDirect = 41 "link_passed_direct",
    /// Lock on the link, out: on a flow that came in by this link.
    LinkPassedAnswer = 42 "link_passed_answer",
    /// Lock on the link, out: ARP, neighbour or multicast-listener discovery.
    LinkPassedNeighbour = 43 "link_passed_neighbour",
    /// Lock on the link, out: on a TCP connection that the workload had made before the lock was there.
    LinkPassedOlderConnection = 44 "link_passed_older_connection",
    /// Lock on the link, out: the link has no entry (yet); dropped.
    LinkDroppedUnclassified = 45 "link_dropped_unclassified",
    /// Lock on the link, out: to where it may go, from an address that is not the workload's; dropped.
    LinkDroppedSource = 46 "link_dropped_source",
    /// Lock on the link, out: TCP, UDP or ICMP to somewhere not allowed; dropped.
    LinkDroppedDestination = 47 "link_dropped_destination",
    /// Lock on the link, out: IP options, extension headers or a fragment; dropped.
    LinkDroppedHeader = 48 "link_dropped_header",
    /// Lock on the link, out: not IP, a VLAN tag, another protocol, or not readable; dropped.
    LinkDroppedOther = 49 "link_dropped_other",
    /// `connect()` in a child of a guarded cgroup that is not classified yet; refused.
    GuardRefused = 50 "guard_refused",
    /// `sendto()` of UDP in such a child; refused.
    GuardRefusedDatagram = 51 "guard_refused_datagram",
    /// Packet out, of such a child; dropped.
    GuardDropped = 52 "guard_dropped",
    /// `connect()`, TCP or UDP: to a configured resolver while DNS is captured; sent to the workload's DNS listener.
    CapturedResolver = 55 "captured_resolver",
    /// `sendto()`: the same for a datagram with an address.
    CapturedQuery = 56 "captured_query",
    /// `recvmsg()`: an answer of the DNS listener, shown as the resolver's.
    SourceRestored = 57 "source_restored",
    /// `connect()`: nobody listens at the workload's listener, and its policy says to go out directly then; left alone.
    BypassedAgentDown = 60 "bypassed_agent_down",
    /// Packet out: of a connection that was let out because the agent was down.
    PassedAgentDown = 61 "passed_agent_down",
    /// Packet out: on a TCP connection that is older than the enrolment and may not go on, or began while programs were detached;
    /// dropped.
    DroppedOlderConnection = 65 "dropped_older_connection",
    /// Packet out: on a TCP connection that is older than the enrolment and may go on.
    PassedKeptConnection = 66 "passed_kept_connection",
    /// A bypassed connection was opened or is over, or a call was refused, and there was no room to tell the agent: its ring was
    /// full, or nobody reads it.
    EventLost = 67 "event_lost",
    /// `bind()`: a socket other than TCP's, in the node's network namespace, of a workload that is not in it: a tunnel device would
    /// send by it; refused.
    RefusedNodeSocket = 68 "refused_node_socket",
}

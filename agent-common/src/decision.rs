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
    /// Before the SYN: the original destination was published to the agent.
    Published = 12 "published",
    /// Before the SYN: the map of original destinations is full. The agent will reset the connection.
    PublishFailed = 13 "publish_failed",
    /// A captured connection ended before it was established; its original destination was taken back.
    Withdrawn = 14 "withdrawn",
    /// `getpeername()`: answered with the original destination.
    PeerRestored = 15 "peer_restored",
}

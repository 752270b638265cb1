//! What the kernel programs know of one workload: the value of the cgroup storage. Written by `agent::datapath`.

const NO_ROUTE_V4: u32 = 1;
const NO_ROUTE_V6: u32 = 1 << 1;
const DROPS_OLDER: u32 = 1 << 2;
const BYPASSED_WHEN_DOWN: u32 = 1 << 3;
const DNS: u32 = 1 << 4;
const OWN_NETWORK: u32 = 1 << 5;

/// The policy of one workload. The kernel hands out zeros until user space has written it: zero refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Policy {
    /// Host order; 0 is no workload.
    workload: u32,
    /// Network order.
    listener_v4: [u8; 2],
    /// Network order.
    listener_v6: [u8; 2],
    /// Bits, host order.
    flags: u32,
    /// Consecutive listener ports per family; 0 means 1.
    ports: u8,
    /// Bytes 1 to 5: first port of the DNS listeners of IPv4 and IPv6, network order. The rest is room for a later version: the
    /// size of the value must not change under a link that stays.
    reserved: [u8; 19],
}

impl Policy {
    /// Of a workload (not 0) whose listeners have these ports (host order; 0: there is none).
    pub const fn new(workload: u32, listener_v4: u16, listener_v6: u16) -> Self {
        Self {
            workload,
            listener_v4: listener_v4.to_be_bytes(),
            listener_v6: listener_v6.to_be_bytes(),
            flags: 0,
            ports: 0,
            reserved: [0; 19],
        }
    }

    /// The same, where each family has so many consecutive ports, of which the listener's is the first.
    #[must_use]
    pub const fn with_ports(mut self, ports: u8) -> Self {
        self.ports = ports;
        self
    }

    /// The same, of a network namespace that has no route for a family.
    #[must_use]
    pub const fn without_route(mut self, v4: bool, v6: bool) -> Self {
        self.flags |= if v4 { NO_ROUTE_V4 } else { 0 } | if v6 { NO_ROUTE_V6 } else { 0 };
        self
    }

    /// The same; if `yes`, unmarked connections that user space has not judged do not leave.
    #[must_use]
    pub const fn dropping_older(mut self, yes: bool) -> Self {
        self.flags |= if yes { DROPS_OLDER } else { 0 };
        self
    }

    /// The same; connections go out directly while nobody listens at the listener, if so chosen.
    #[must_use]
    pub const fn bypassed_when_down(mut self, chosen: bool) -> Self {
        self.flags |= if chosen { BYPASSED_WHEN_DOWN } else { 0 };
        self
    }

    /// The same; if `yes`, of a workload that is in network namespaces of its own only, not in the node's.
    #[must_use]
    pub const fn in_own_network(mut self, yes: bool) -> Self {
        self.flags |= if yes { OWN_NETWORK } else { 0 };
        self
    }

    /// The same, with DNS captured: the listener for the first resolver of a family has this port (host order; 0: there is
    /// none), that for the next one the next port.
    #[must_use]
    pub const fn with_dns(mut self, v4: u16, v6: u16) -> Self {
        self.flags |= DNS;
        let ([a, b], [c, d]) = (v4.to_be_bytes(), v6.to_be_bytes());
        (self.reserved[1], self.reserved[2], self.reserved[3], self.reserved[4]) = (a, b, c, d);
        self
    }

    /// The workload's number; 0 when user space has written nothing yet.
    #[inline(always)]
    pub const fn workload(&self) -> u32 {
        self.workload
    }

    /// How many consecutive ports each family's listener has.
    #[inline(always)]
    pub const fn ports(&self) -> u8 {
        if self.ports == 0 { 1 } else { self.ports }
    }

    /// First port of the listener for the family, host order; 0 is none.
    #[inline(always)]
    pub const fn listener(&self, v4: bool) -> u16 {
        u16::from_be_bytes(if v4 { self.listener_v4 } else { self.listener_v6 })
    }

    /// Connections go out directly while nobody listens at the listener.
    #[inline(always)]
    pub const fn bypass_when_down(&self) -> bool {
        self.flags & BYPASSED_WHEN_DOWN != 0
    }

    /// The workload's network namespace has no route for the family.
    #[inline(always)]
    pub const fn no_route(&self, v4: bool) -> bool {
        self.flags & (if v4 { NO_ROUTE_V4 } else { NO_ROUTE_V6 }) != 0
    }

    /// What is sent to a configured resolver goes to the DNS listeners.
    #[inline(always)]
    pub const fn dns(&self) -> bool {
        self.flags & DNS != 0
    }

    /// First port of the DNS listeners of the family, host order; 0 is none.
    #[inline(always)]
    pub const fn dns_listener(&self, v4: bool) -> u16 {
        let at = if v4 { [self.reserved[1], self.reserved[2]] } else { [self.reserved[3], self.reserved[4]] };
        u16::from_be_bytes(at)
    }

    /// Unmarked connections that user space has not judged do not leave.
    #[inline(always)]
    pub const fn drops_older(&self) -> bool {
        self.flags & DROPS_OLDER != 0
    }

    /// No process of the workload is in the node's network namespace.
    #[inline(always)]
    pub const fn own_network(&self) -> bool {
        self.flags & OWN_NETWORK != 0
    }
}

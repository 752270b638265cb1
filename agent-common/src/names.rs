//! Names and sizes of maps and programs, as `bpftool` shows them: at most 15 characters.

/// Cgroup storage: key, inode of the cgroup (8 bytes); value, [`crate::Policy`].
pub const POLICY: &str = "egret_policy";
/// Socket storage; value, [`crate::Captured`].
pub const CAPTURED: &str = "egret_captured";
/// Hash: key, [`crate::OriginalKey`]; value, [`crate::Original`].
pub const ORIGINAL: &str = "egret_original";
/// Prefix trie: key, prefix length in bits (host order) and v4-mapped address; value, one byte:
/// the family that the range is for.
pub const BYPASS: &str = "egret_bypass";
/// Value in [`BYPASS`] of a range of IPv4 addresses.
pub const BYPASS_V4: u8 = 4;
/// Value in [`BYPASS`] of a range of IPv6 addresses. A short one (`::/0`) also matches v4-mapped addresses in the trie, but is
/// not meant for them.
pub const BYPASS_V6: u8 = 6;
/// Per-CPU array: index, number of a [`crate::Decision`]; value, count.
pub const DECISIONS: &str = "egret_decisions";

/// Hash: key, [`crate::Endpoint`] of a DNS resolver; value, one byte: its number among those of its family, from 0.
pub const RESOLVERS: &str = "egret_resolvers";
/// Array: index, number of a DNS resolver, plus [`DNS_LISTENERS`] for IPv6; value, its [`crate::Endpoint`], zero where there is
/// none. The way back from a DNS listener's port.
pub const NUMBERED: &str = "egret_numbered";
/// Socket storage of listening sockets that were called from outside, and of the TCP connections that they accept; value, 4 bytes
/// without meaning.
pub const ACCEPTED: &str = "egret_accepted";
/// Socket storage of TCP connections that were let out because the agent was down; value, 4 bytes without meaning.
pub const LET_OUT: &str = "egret_let_out";
/// LRU hash: key, [`crate::Conversation`]; value, one byte: where it was heard.
pub const SPOKEN: &str = "egret_spoken";
/// LRU hash: key, [`crate::Conversation`] of a listening socket; value, one byte without meaning: the peer has sent a SYN from
/// outside.
pub const CALLS: &str = "egret_calls";
/// Hash: key, cookie of a socket (8 bytes, host order); value, [`crate::Older`].
pub const OLDER: &str = "egret_older";
/// Socket storage of bypassed TCP connections; value, [`crate::Bypassed`].
pub const BYPASSED: &str = "egret_bypassed";
/// Ring of [`crate::Event`]s. Not pinned: each agent has its own, and reads it alone.
pub const EVENTS: &str = "egret_events";
/// Value in [`SPOKEN`] of a peer that was heard from outside.
pub const SPOKEN_OUTSIDE: u8 = 1;
/// Value in [`SPOKEN`] of a peer that was heard on this machine only, where a workload can forge its address.
pub const SPOKEN_HERE: u8 = 2;

/// Hash: key, index of the host's device at a workload's link; value, the workload's number (both 4 bytes, host order). A link
/// without an entry lets nothing out.
pub const LINKS: &str = "egret_links";
/// Hash: key, [`crate::LinkSource`]; value, one byte without meaning: the address is the workload's.
pub const SOURCES: &str = "egret_sources";
/// Hash: key, [`crate::Endpoint`] of a gateway; value, one byte without meaning.
pub const GATEWAYS: &str = "egret_gateways";
/// LRU hash: key, [`crate::Flow`]; value, [`crate::Heard`]: TCP connections into workloads, established.
pub const FLOWS: &str = "egret_flows";
/// LRU hash, the same of all that takes no proof from who sends: SYNs, UDP, echo requests, neighbours.
pub const HEARD: &str = "egret_heard";
/// Cgroup storage of a guarded parent: key, inode of the cgroup (8 bytes); value, [`crate::Guard`].
pub const GUARD: &str = "egret_guard";
/// Hash: key, inode of a cgroup; value, one byte: [`CLASS_ENROLLED`] or [`CLASS_NOT_OURS`].
pub const CLASSES: &str = "egret_classes";
/// Value in [`CLASSES`] of a cgroup whose own programs are attached.
pub const CLASS_ENROLLED: u8 = 1;
/// Value in [`CLASSES`] of a cgroup that is left alone.
pub const CLASS_NOT_OURS: u8 = 2;

/// Connections between their SYN and the agent's accept, over all workloads of the node.
pub const ORIGINAL_CAPACITY: usize = 64 * 1024;
/// Bypassed ranges.
pub const BYPASS_CAPACITY: usize = 16 * 1024;
/// DNS resolvers.
pub const RESOLVERS_CAPACITY: usize = 256;
/// DNS resolvers of one family that can be captured: each has a listener of its own in every workload.
pub const DNS_LISTENERS: u16 = 16;
/// Both families' together.
pub const NUMBERED_CAPACITY: usize = 2 * DNS_LISTENERS as usize;
/// UDP peers that have spoken to sockets of workloads, over all workloads of the node. The least recently heard goes first.
pub const SPOKEN_CAPACITY: usize = 64 * 1024;
/// TCP peers that are opening connections to workloads.
pub const CALLS_CAPACITY: usize = 64 * 1024;
/// Links with a lock on the node.
pub const LINKS_CAPACITY: usize = 4096;
/// Addresses of workloads with a link of their own, over all of the node.
pub const SOURCES_CAPACITY: usize = 16 * 1024;
/// Gateways' addresses.
pub const GATEWAYS_CAPACITY: usize = 1024;
/// TCP connections into workloads by locked links, over all of the node. The least recently used goes first.
pub const FLOWS_CAPACITY: usize = 64 * 1024;
/// The rest of what has been heard by locked links.
pub const HEARD_CAPACITY: usize = 64 * 1024;
/// Cgroups that are classified, of one node.
pub const CLASSES_CAPACITY: usize = 16 * 1024;
/// Unmarked connections that user space has judged, over all workloads of the node.
pub const OLDER_CAPACITY: usize = 64 * 1024;
/// Constant of the programs, one byte; 0: this kernel does not let them ask for the current process.
pub const PROCESSES: &str = "EGRET_PROCESSES";
/// Constant of the programs, 8 bytes: the cookie of the node's network namespace, which is the agent's; 0 is none.
pub const NODE: &str = "EGRET_NODE";
/// Bytes of the ring of events: a power of two, and whole pages. 8,192 events with the kernel's 8 bytes before each: 4,096
/// bypassed connections, opened and over, where the agent reads every 50 milliseconds.
pub const EVENTS_BYTES: usize = 1 << 20;
/// Counters: more than there are decisions, so that one more does not change the shape of a pinned map.
pub const DECISIONS_CAPACITY: usize = 128;

/// `connect()` of an IPv4 socket.
pub const CONNECT4: &str = "egret_connect4";
/// `connect()` of an IPv6 socket.
pub const CONNECT6: &str = "egret_connect6";
/// `getpeername()` of an IPv4 socket.
pub const GETPEERNAME4: &str = "egret_peer4";
/// `getpeername()` of an IPv6 socket.
pub const GETPEERNAME6: &str = "egret_peer6";
/// Making a socket.
pub const SOCK_CREATE: &str = "egret_create";
/// `bind()` of an IPv4 socket, also where the kernel binds its own.
pub const BIND4: &str = "egret_bind4";
/// The same of an IPv6 socket.
pub const BIND6: &str = "egret_bind6";
/// `sendto()` and `sendmsg()` of UDP to an IPv4 address.
pub const SENDMSG4: &str = "egret_send4";
/// The same to an IPv6 address.
pub const SENDMSG6: &str = "egret_send6";
/// Where a datagram came from, for an IPv4 socket.
pub const RECVMSG4: &str = "egret_recv4";
/// The same for an IPv6 socket.
pub const RECVMSG6: &str = "egret_recv6";
/// Packets that leave.
pub const EGRESS: &str = "egret_egress";
/// Packets that arrive.
pub const INGRESS: &str = "egret_ingress";
/// A socket is closed by the last process that has it.
pub const SOCK_RELEASE: &str = "egret_release";
/// Packets from a workload, at the host's side of its link.
pub const LINK_OUT: &str = "egret_link_out";
/// Packets to a workload, at the host's side of its link.
pub const LINK_IN: &str = "egret_link_in";

/// Strict start, on a parent of workloads' cgroups: `connect()` of an IPv4 socket.
pub const GUARD_CONNECT4: &str = "egret_guard_c4";
/// The same of an IPv6 socket.
pub const GUARD_CONNECT6: &str = "egret_guard_c6";
/// The same for `sendto()` and `sendmsg()` of UDP to an IPv4 address.
pub const GUARD_SENDMSG4: &str = "egret_guard_s4";
/// The same to an IPv6 address.
pub const GUARD_SENDMSG6: &str = "egret_guard_s6";
/// The same for packets that leave.
pub const GUARD_EGRESS: &str = "egret_guard_out";

/// Never attached: where in the tree of cgroups its caller is.
pub const ANCESTOR: &str = "egret_ancestor";

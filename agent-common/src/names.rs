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

/// Hash: key, [`crate::Endpoint`] of a DNS resolver; value, one byte without meaning.
pub const RESOLVERS: &str = "egret_resolvers";
/// Socket storage of TCP connections that came from outside; value, 4 bytes without meaning.
pub const ACCEPTED: &str = "egret_accepted";
/// LRU hash: key, [`crate::Conversation`]; value, one byte: where it was heard.
pub const SPOKEN: &str = "egret_spoken";
/// LRU hash: key, [`crate::Conversation`] of a listening socket; value, one byte without meaning: the peer has sent a SYN from
/// outside.
pub const CALLS: &str = "egret_calls";
/// Hash: key, cookie of a socket (8 bytes, host order); value, [`crate::Older`].
pub const OLDER: &str = "egret_older";
/// Value in [`SPOKEN`] of a peer that was heard from outside.
pub const SPOKEN_OUTSIDE: u8 = 1;
/// Value in [`SPOKEN`] of a peer that was heard on this machine only, where a workload can forge its address.
pub const SPOKEN_HERE: u8 = 2;

/// Connections between their SYN and the agent's accept, over all workloads of the node.
pub const ORIGINAL_CAPACITY: usize = 64 * 1024;
/// Bypassed ranges.
pub const BYPASS_CAPACITY: usize = 16 * 1024;
/// DNS resolvers.
pub const RESOLVERS_CAPACITY: usize = 256;
/// UDP peers that have spoken to sockets of workloads, over all workloads of the node. The least recently heard goes first.
pub const SPOKEN_CAPACITY: usize = 64 * 1024;
/// TCP peers that are opening connections to workloads.
pub const CALLS_CAPACITY: usize = 64 * 1024;
/// Unmarked connections that user space has judged, over all workloads of the node.
pub const OLDER_CAPACITY: usize = 64 * 1024;
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
/// TCP state changes. (Not "sockops": that is the name of its section.)
pub const SOCK_OPS: &str = "egret_sock_ops";
/// Making a socket.
pub const SOCK_CREATE: &str = "egret_create";
/// `sendto()` and `sendmsg()` of UDP to an IPv4 address.
pub const SENDMSG4: &str = "egret_send4";
/// The same to an IPv6 address.
pub const SENDMSG6: &str = "egret_send6";
/// Packets that leave.
pub const EGRESS: &str = "egret_egress";
/// Packets that arrive.
pub const INGRESS: &str = "egret_ingress";

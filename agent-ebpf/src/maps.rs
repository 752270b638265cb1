//! Every map of the kernel programs on a cgroup: key, value, who writes, who reads. Names and sizes are in `agent-common`.
//! All maps are pinned by user space, and all these programs refer to [`POLICY`], those of a guarded parent to [`GUARD`]: a link may
//! only be updated between programs that use the same storage map, so that no program is without it. The exception are the two
//! programs on a device (`lock`): the kernel has no cgroup storage for them, so that there is no memory to be mixed up. Their maps
//! are in `link_maps`.

use core::{ffi::c_void, marker::PhantomData, ptr};

use agent_common::{
    Bypassed, Captured, Conversation, Decision, Endpoint, Guard, Older, Original, OriginalKey, Policy,
    Standing, names,
};
use agent_ebpf::destinations::{Destinations, Heard};
use aya_ebpf::{
    bindings::bpf_sock,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, lpm_trie::Key},
    helpers::{bpf_get_local_storage, bpf_get_socket_cookie, bpf_sk_storage_delete, bpf_sk_storage_get},
    macros::btf_map,
};

/// Cgroup storage. Key: inode of the cgroup. Value: the workload's policy, zero until user space has written it. Written
/// by user space, read by every program.
#[btf_map(name = "egret_policy")]
pub(crate) static POLICY: CgroupStorage<Policy> = CgroupStorage::new();

/// Cgroup storage. Key: inode of a guarded parent. Value: how deep below it cgroups are classified, zero until user space
/// has written it. Written by user space, read by the programs of the parent. Not [`POLICY`]: a guarded parent may be
/// enrolled as well.
#[btf_map(name = "egret_guard")]
pub(crate) static GUARD: CgroupStorage<Guard> = CgroupStorage::new();

/// Key: inode of a cgroup. Value: what it is; not there: nobody has looked yet. Written by user space, read by the programs
/// of guarded parents.
#[btf_map(name = "egret_classes")]
static CLASSES: HashMap<u64, u8, { names::CLASSES_CAPACITY }> = HashMap::new();

/// Socket storage. Value: where a captured socket wanted to go. Written by connect, read by connect, getpeername,
/// egress and ingress; goes with the socket.
#[btf_map(name = "egret_captured")]
pub(crate) static CAPTURED: SocketStorage<Captured> = SocketStorage::new();

/// Key: workload and source of a captured connection. Value: its original destination. Written by egress, removed by
/// ingress, taken by user space. Not an LRU: evicting under load would lose connections silently.
#[btf_map(name = "egret_original")]
pub(crate) static ORIGINAL: HashMap<OriginalKey, Original, { names::ORIGINAL_CAPACITY }> = HashMap::new();

/// Socket storage. There: the connection came from outside. Written by ingress for a listening socket, whose connections inherit
/// it; read by egress; goes with the socket.
#[btf_map(name = "egret_accepted")]
pub(crate) static ACCEPTED: SocketStorage<u32, { BPF_F_NO_PREALLOC | BPF_F_CLONE }> = SocketStorage::new();

/// Socket storage. There: the connection was let out because the agent was down. Written by connect, read by egress; goes
/// with the socket.
#[btf_map(name = "egret_let_out")]
pub(crate) static LET_OUT: SocketStorage<u32> = SocketStorage::new();

/// Socket storage. Value: the life of a bypassed connection. Written by connect, egress, ingress and `sock_release`; goes with the
/// socket.
#[btf_map(name = "egret_bypassed")]
pub(crate) static BYPASSED: SocketStorage<Bypassed> = SocketStorage::new();

/// Key: a UDP peer and the socket that it has sent to. Value: where it was heard. Written by ingress, read by sendmsg and egress. An LRU: a
/// flood of strangers costs quiet peers their answers, never the memory of the node.
#[btf_map(name = "egret_spoken")]
static SPOKEN: LruHashMap<Conversation, u8, { names::SPOKEN_CAPACITY }> = LruHashMap::new();

/// Key: a TCP peer and the listening socket that it has sent a SYN to, from outside. Written by ingress, read by egress. An LRU
/// of its own, so that a flood of SYNs does not cost UDP peers their answers.
#[btf_map(name = "egret_calls")]
static CALLS: LruHashMap<Conversation, u8, { names::CALLS_CAPACITY }> = LruHashMap::new();

/// Key: cookie of a socket. Value: what user space has found out about its connection, which no program saw begin. Written by
/// user space, read by egress.
#[btf_map(name = "egret_older")]
static OLDER: HashMap<u64, Older, { names::OLDER_CAPACITY }> = HashMap::new();

/// Key: a DNS resolver. Value: its number among those of its family. Written by user space, read by connect, sendmsg and
/// egress.
#[btf_map(name = "egret_resolvers")]
static RESOLVERS: HashMap<Endpoint, u8, { names::RESOLVERS_CAPACITY }> = HashMap::new();

/// Index: number of a DNS resolver. Value: its address and port. Written by user space, read by recvmsg.
#[btf_map(name = "egret_numbered")]
static NUMBERED: Array<Endpoint, { names::NUMBERED_CAPACITY }> = Array::new();

/// Key: prefix of a v4-mapped address. Value: the range's family. Written by user space, read by connect, sendmsg, egress.
#[btf_map(name = "egret_bypass")]
pub(crate) static BYPASS: LpmTrie<[u8; 16], u8, { names::BYPASS_CAPACITY }> = LpmTrie::new();

/// Index: number of a decision. Value: how often, per CPU. Written by every program, read by user space.
#[btf_map(name = "egret_decisions")]
static DECISIONS: PerCpuArray<u64, { names::DECISIONS_CAPACITY }> = PerCpuArray::new();

/// Counts a decision.
#[inline(always)]
pub(crate) fn count(decision: Decision) {
    if let Some(counter) = DECISIONS.get_ptr_mut(decision as u32) {
        // SAFETY: the kernel gave the pointer to this CPU's value, and the program is not preempted by itself.
        unsafe { *counter += 1 };
    }
}

/// The DNS resolver with this number, if there is one.
#[inline(always)]
pub(crate) fn resolver(number: u32) -> Option<Endpoint> {
    NUMBERED.get(number).copied().filter(|resolver| resolver.port() != 0)
}

/// Whether a cgroup is classified, given its ancestors (itself included) by their level.
#[inline(always)]
pub(crate) fn classified(guard: &Guard, ancestor: impl Fn(u32) -> u64) -> bool {
    let [first, second] = [guard.first(), guard.second()];
    // Whoever is above a level, for example in the parent itself, has 0 for an ancestor there, which is no cgroup's inode.
    let known = |level| CLASSES.get_ptr(ancestor(level)).is_some();
    first == 0 || known(first) || (second != 0 && known(second))
}

/// Remembers that a UDP peer has sent to a socket.
#[inline(always)]
pub(crate) fn remember(conversation: &Conversation, outside: bool) {
    // Most are known already, and looking up is cheaper than writing.
    let known = SPOKEN.get_ptr(conversation).map(|heard| {
        // SAFETY: the kernel gave the pointer to one byte, which changes at once or not at all.
        unsafe { heard.read() }
    });
    let heard = if outside { names::SPOKEN_OUTSIDE } else { names::SPOKEN_HERE };
    if known.is_none() || (outside && known != Some(heard)) {
        // Should it fail, the answer is dropped.
        let _ = SPOKEN.insert(conversation, heard, 0);
    }
}

/// Remembers that a TCP peer has sent a SYN to a socket, from outside. Should it fail, the answer is dropped, and the peer asks
/// again.
#[inline(always)]
pub(crate) fn remember_call(conversation: &Conversation) {
    let _ = CALLS.insert(conversation, 1, 0);
}

/// The cookie of the running program's socket; 0: it has none.
///
/// # Safety
/// `context` is the kernel's context of a `sock_addr` or packet program.
#[inline(always)]
pub(crate) unsafe fn socket_cookie(context: *mut c_void) -> u64 {
    // SAFETY: what the caller promises.
    unsafe { bpf_get_socket_cookie(context) }
}

/// What user space has found out about the connection of the running program's socket.
///
/// # Safety
/// `context` is the kernel's context of a packet program.
#[inline(always)]
pub(crate) unsafe fn older(context: *mut c_void) -> Option<Standing> {
    // SAFETY: what the caller promises.
    let socket = unsafe { socket_cookie(context) };
    // SAFETY: the kernel gave the pointer to the value, which user space replaces as a whole.
    OLDER.get_ptr(socket).map(|older| unsafe { older.read() }.standing())
}

/// What the maps say of destinations, for the socket of a program's context.
pub(crate) struct Reachable {
    context: *mut c_void,
}

impl Reachable {
    /// # Safety
    /// `context` is the kernel's context of a `sock_addr` or packet program.
    #[inline(always)]
    pub(crate) const unsafe fn new(context: *mut c_void) -> Self {
        Self { context }
    }
}

impl Destinations for Reachable {
    #[inline(always)]
    fn bypassed(&self, destination: &Endpoint) -> bool {
        let family = if destination.address_v4().is_some() { names::BYPASS_V4 } else { names::BYPASS_V6 };
        BYPASS.get(&Key::new(128, destination.address())).is_some_and(|range| *range == family)
    }

    #[inline(always)]
    fn resolver(&self, destination: &Endpoint) -> Option<u8> {
        // SAFETY: the kernel gave the pointer to one byte, which changes at once or not at all.
        RESOLVERS.get_ptr(destination).map(|number| unsafe { number.read() })
    }

    #[inline(always)]
    fn called(&self, peer: &Endpoint) -> bool {
        // SAFETY: what `new` was promised.
        let socket = unsafe { socket_cookie(self.context) };
        socket != 0 && CALLS.get_ptr(Conversation::new(socket, *peer)).is_some()
    }

    #[inline(always)]
    fn heard(&self, peer: &Endpoint) -> Heard {
        // SAFETY: what `new` was promised.
        let socket = unsafe { socket_cookie(self.context) };
        if socket == 0 {
            return Heard::Never;
        }
        match SPOKEN.get_ptr(Conversation::new(socket, *peer)) {
            // SAFETY: as in `remember`.
            Some(heard) if unsafe { heard.read() } == names::SPOKEN_OUTSIDE => Heard::Outside,
            Some(_) => Heard::Here,
            None => Heard::Never,
        }
    }
}

const BPF_MAP_TYPE_CGROUP_STORAGE: usize = 19;
const BPF_MAP_TYPE_SK_STORAGE: usize = 24;
const BPF_F_NO_PREALLOC: usize = 1;
/// What is stored with a listening socket is copied to the connections that it accepts, when they are made (Linux 5.4).
const BPF_F_CLONE: usize = 1 << 9;
const BPF_SK_STORAGE_GET_F_CREATE: u64 = 1;

/// Cgroup storage with the 8-byte key: one value per cgroup for all hooks (Linux 5.9). `aya_ebpf` has only the 16-byte form,
/// which keeps a value per hook. The fields are what BTF describes the map by.
#[repr(C)]
pub(crate) struct CgroupStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_CGROUP_STORAGE],
    key: *const u64,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; 0],
}

// SAFETY: the fields are never read; the symbol's address stands for the map.
unsafe impl<T> Sync for CgroupStorage<T> {}

impl<T> CgroupStorage<T> {
    const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// The value of the cgroup that the running program is attached to.
    #[inline(always)]
    pub(crate) fn get(&self) -> &T {
        let map: *mut c_void = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the helper never returns null, and the value lives as long as the program runs.
        unsafe { &*bpf_get_local_storage(map, 0).cast::<T>() }
    }
}

/// Socket storage for every hook; `aya_ebpf`'s takes the socket only from a `sock_addr` context.
#[repr(C)]
pub(crate) struct SocketStorage<T, const FLAGS: usize = BPF_F_NO_PREALLOC> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
    marker: PhantomData<T>,
}

// SAFETY: the fields are never read; the symbol's address stands for the map.
unsafe impl<T, const FLAGS: usize> Sync for SocketStorage<T, FLAGS> {}

impl<T, const FLAGS: usize> SocketStorage<T, FLAGS> {
    const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
            marker: PhantomData,
        }
    }

    #[inline(always)]
    fn map(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// What is stored with `socket`, which is a pointer from the context.
    #[inline(always)]
    pub(crate) fn get(&self, socket: *mut bpf_sock) -> Option<&T> {
        // SAFETY: the value lives as long as the program runs.
        self.pointer(socket).map(|value| unsafe { &*value })
    }

    /// The same, to be changed in place.
    #[inline(always)]
    pub(crate) fn pointer(&self, socket: *mut bpf_sock) -> Option<*mut T> {
        // SAFETY: the verifier admits only a live socket here.
        let value = unsafe { bpf_sk_storage_get(self.map(), socket.cast(), ptr::null_mut(), 0) }.cast::<T>();
        (!value.is_null()).then_some(value)
    }

    /// Stores `value` with `socket`; false when there is no memory.
    #[inline(always)]
    pub(crate) fn set(&self, socket: *mut bpf_sock, mut value: T) -> bool {
        let initial = ptr::from_mut(&mut value);
        // SAFETY: as for `get`; `initial` is read only during the call.
        let stored = unsafe {
            bpf_sk_storage_get(self.map(), socket.cast(), initial.cast(), BPF_SK_STORAGE_GET_F_CREATE)
        }
        .cast::<T>();
        if stored.is_null() {
            return false;
        }
        // An entry of an earlier connect() is returned as it was.
        // SAFETY: not null. connect() holds the socket's lock; whoever does not writes one value only.
        unsafe { *stored = value };
        true
    }

    /// Forgets what is stored with `socket`.
    #[inline(always)]
    pub(crate) fn remove(&self, socket: *mut bpf_sock) {
        // Fails only when there is nothing to forget.
        // SAFETY: as for `get`.
        let _ = unsafe { bpf_sk_storage_delete(self.map(), socket.cast()) };
    }
}

//! `connect4` and `connect6`: decide, remember where the application wanted to go, and send it to the workload's listener.
//! What is decided is in `classify`, what the application sees in `verdict`.

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use agent_common::{Captured, Decision, Endpoint};
use agent_ebpf::{
    classify::{Attempt, classify, is_loopback},
    destinations::Destinations as _,
    resolver, spread,
    verdict::{Verdict, verdict},
};
use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::{bpf_get_prandom_u32, bpf_set_retval, bpf_setsockopt},
    programs::SockAddrContext,
};

use crate::{
    bypassed, events,
    listening::listens,
    maps::{self, BYPASSED, CAPTURED, LET_OUT, POLICY, Reachable},
    process,
};

pub(crate) const LOOPBACK_V4: [u8; 4] = [127, 0, 0, 1];
pub(crate) const LOOPBACK_V6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// Of setsockopt(2), tcp(7).
const SOL_TCP: i32 = 6;
const TCP_CONGESTION: i32 = 13;
/// Return values of the hook: refuse, or go on.
const REFUSE: i32 = 0;
pub(crate) const PASS: i32 = 1;

/// `connect()` of an IPv4 socket.
#[inline(always)]
pub(crate) fn v4(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // Context fields are read first, all of them, and as written here: merged loads are refused by the verifier.
    // SAFETY: the kernel's context, at its fixed offsets.
    let (ip, attempt_of) = unsafe { (read_volatile(addr_of!((*addr).user_ip4)), Fields::read(addr)) };
    let attempt = attempt_of.attempt(Endpoint::v4(ip.to_ne_bytes(), attempt_of.port));
    let (decision, listener) = decide(ctx, &attempt, &attempt_of);
    events::decided(decision, attempt.destination);
    if listener != 0 {
        // SAFETY: both fields may be written by this hook.
        unsafe {
            write_volatile(addr_of_mut!((*addr).user_ip4), u32::from_ne_bytes(LOOPBACK_V4));
            write_volatile(addr_of_mut!((*addr).user_port), u32::from(listener.to_be()));
        }
    }
    answer(decision)
}

/// `connect()` of an IPv6 socket, to an IPv6 or a v4-mapped address.
#[inline(always)]
pub(crate) fn v6(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: as in `v4`.
    let (words, attempt_of) = unsafe { (read_v6(addr), Fields::read(addr)) };
    let attempt = attempt_of.attempt(Endpoint::v6(bytes(words), attempt_of.port));
    let (decision, listener) = decide(ctx, &attempt, &attempt_of);
    events::decided(decision, attempt.destination);
    if listener != 0 {
        let loopback = match attempt.destination.address_v4() {
            Some(_) => Endpoint::v4(LOOPBACK_V4, 0).address(),
            None => LOOPBACK_V6,
        };
        // SAFETY: all fields may be written by this hook.
        unsafe {
            write_v6(addr, loopback);
            write_volatile(addr_of_mut!((*addr).user_port), u32::from(listener.to_be()));
        }
    }
    answer(decision)
}

/// What both hooks read, here and for a guarded parent.
pub(crate) struct Fields {
    pub(crate) port: u16,
    kind: u32,
    protocol: u32,
    device: u32,
    /// The port that the socket is bound to, host order; 0 is none.
    source_port: u32,
    socket: *mut bpf_sock,
}

impl Fields {
    /// # Safety
    /// `addr` is the kernel's context.
    #[inline(always)]
    pub(crate) unsafe fn read(addr: *mut bpf_sock_addr) -> Self {
        // SAFETY: the context's fields at their fixed offsets; the socket is never null in these hooks (Linux 5.3).
        unsafe {
            let socket = read_volatile(addr_of!((*addr).__bindgen_anon_1.sk));
            Self {
                port: u16::from_be(read_volatile(addr_of!((*addr).user_port)) as u16),
                kind: read_volatile(addr_of!((*addr).type_)),
                protocol: read_volatile(addr_of!((*addr).protocol)),
                device: read_volatile(addr_of!((*socket).bound_dev_if)),
                source_port: read_volatile(addr_of!((*socket).src_port)),
                socket,
            }
        }
    }

    #[inline(always)]
    pub(crate) fn attempt(&self, destination: Endpoint) -> Attempt {
        Attempt { kind: self.kind, protocol: self.protocol, device: self.device, destination }
    }
}

/// Decides, and keeps the socket's storage in step: it says "captured" exactly as long as the socket is. Returns the
/// listener's port where the connection is to be sent there, else 0.
#[inline(always)]
fn decide(ctx: &SockAddrContext, attempt: &Attempt, fields: &Fields) -> (Decision, u16) {
    let (policy, socket) = (POLICY.get(), fields.socket);
    // SAFETY: the kernel's context.
    let reachable = unsafe { Reachable::new(ctx.sock_addr.cast()) };
    let mut decision = classify(policy, attempt, &reachable);
    let v4 = attempt.destination.address_v4().is_some();
    let mut listener = 0;
    match decision {
        Decision::Captured => {
            // SAFETY: a plain helper. Drawn for each attempt, not kept with the socket: the storage has the one in force.
            let random = unsafe { bpf_get_prandom_u32() };
            listener = spread::port(policy, &attempt.destination, fields.source_port, random);
            if policy.bypass_when_down() {
                // SAFETY: the kernel's context.
                if unsafe { listens(ctx.sock_addr, v4, listener) } {
                    LET_OUT.remove(socket);
                } else {
                    decision = let_out(socket);
                }
            }
        }
        Decision::CapturedResolver => {
            let number = reachable.resolver(&attempt.destination).unwrap_or(u8::MAX);
            listener = resolver::listener(policy, v4, number);
        }
        Decision::PassedNotTcp | Decision::BypassedLoopback if rewritten(attempt, socket) => {
            return (Decision::AlreadyCaptured, 0);
        }
        _ => {}
    }
    match decision {
        Decision::Captured | Decision::CapturedResolver => {
            let captured = Captured::new(attempt.destination, policy.workload(), listener);
            let at_resolver = decision == Decision::CapturedResolver;
            let captured = if at_resolver { captured.at_resolver() } else { captured };
            // An earlier connect() of this socket may have been bypassed.
            BYPASSED.remove(socket);
            if !CAPTURED.set(socket, captured.by(process::current())) {
                return (Decision::RefusedNoMemory, 0);
            }
            unpaced(ctx);
            return (decision, listener);
        }
        Decision::BypassedRange | Decision::BypassedResolver | Decision::BypassedAgentDown => {
            // An earlier connect() of this socket may have been captured.
            CAPTURED.remove(socket);
            bypassed::opens(ctx, decision, socket, attempt.destination);
        }
        Decision::PassedNotTcp | Decision::BypassedLoopback => CAPTURED.remove(socket),
        _ => {}
    }
    (decision, 0)
}

/// Has a connection that goes to the listener not paced: its way is loopback's, whatever the application or the machine prefers for the
/// network. Paced, its bytes come to the agent in small pieces, each of which wakes it (`agent/src/net/pacing.rs`).
#[inline(always)]
fn unpaced(ctx: &SockAddrContext) {
    const LENGTH: i32 = 4;
    let mut name: [u8; LENGTH as usize] = *b"reno";
    // SAFETY: the kernel's context, and as many bytes as are said. Should it fail, the connection is as the application wants it.
    let _ = unsafe {
        bpf_setsockopt(ctx.sock_addr.cast(), SOL_TCP, TCP_CONGESTION, name.as_mut_ptr().cast(), LENGTH)
    };
}

/// Marks a socket for the backstop: nobody listens for it, and its policy says that it goes out directly then.
#[inline(always)]
fn let_out(socket: *mut bpf_sock) -> Decision {
    if LET_OUT.set(socket, 1) { Decision::BypassedAgentDown } else { Decision::RefusedNoMemory }
}

/// Whether another set of programs has sent this connection to its listener already: during an upgrade two sets are
/// attached, and with nested enrolled cgroups the inner one's runs first.
#[inline(always)]
fn rewritten(attempt: &Attempt, socket: *mut bpf_sock) -> bool {
    let to = &attempt.destination;
    is_loopback(&to.address(), to.address_v4())
        && CAPTURED.get(socket).is_some_and(|captured| captured.listener() == to.port())
}

/// Counts the decision and tells the kernel. Also for sendmsg and `sock_create`, whose return values are the same.
#[inline(always)]
pub(crate) fn answer(decision: Decision) -> i32 {
    maps::count(decision);
    match verdict(decision) {
        Verdict::Pass | Verdict::Rewritten => PASS,
        Verdict::Refuse(errno) => {
            // SAFETY: allowed in all three hooks (Linux 5.18). Should it fail, the application sees EPERM.
            let _ = unsafe { bpf_set_retval(-errno) };
            REFUSE
        }
    }
}

/// # Safety
/// `addr` is the kernel's context.
#[inline(always)]
pub(crate) unsafe fn read_v6(addr: *mut bpf_sock_addr) -> [u32; 4] {
    // SAFETY: the context's fields at their fixed offsets, word by word as the kernel wants it.
    unsafe {
        [
            read_volatile(addr_of!((*addr).user_ip6[0])),
            read_volatile(addr_of!((*addr).user_ip6[1])),
            read_volatile(addr_of!((*addr).user_ip6[2])),
            read_volatile(addr_of!((*addr).user_ip6[3])),
        ]
    }
}

/// # Safety
/// `addr` is the kernel's context, of a hook that may write the address.
#[inline(always)]
pub(crate) unsafe fn write_v6(addr: *mut bpf_sock_addr, address: [u8; 16]) {
    let [a, b, c, d] = words(address);
    // SAFETY: as for `read_v6`.
    unsafe {
        write_volatile(addr_of_mut!((*addr).user_ip6[0]), a);
        write_volatile(addr_of_mut!((*addr).user_ip6[1]), b);
        write_volatile(addr_of_mut!((*addr).user_ip6[2]), c);
        write_volatile(addr_of_mut!((*addr).user_ip6[3]), d);
    }
}

/// Words as the kernel keeps them (network order in memory) to bytes.
#[inline(always)]
pub(crate) fn bytes(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: plain bytes of the same size.
    unsafe { core::mem::transmute(words) }
}

#[inline(always)]
pub(crate) fn words(bytes: [u8; 16]) -> [u32; 4] {
    // SAFETY: plain bytes of the same size.
    unsafe { core::mem::transmute(bytes) }
}

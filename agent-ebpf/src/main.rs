//! Egret's kernel programs: entry points only. Loaded and attached by `agent::datapath`, to the cgroups of enrolled
//! workloads, to the host's side of their links and, for strict start, to a parent of them, never to anything else; one is only run. Every
//! decision is listed in `agent/ARCHITECTURE.md`, "Capture".
//!
//! Off the BPF target this is an empty program, so that the workspace can be checked on the host.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        clippy::inline_always,
        reason = "kernel programs must not make calls that the verifier has to follow"
    )
)]

#[cfg(target_arch = "bpf")]
mod ancestor;
#[cfg(target_arch = "bpf")]
mod bind;
#[cfg(target_arch = "bpf")]
mod bypassed;
#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod events;
#[cfg(target_arch = "bpf")]
mod link_maps;
#[cfg(target_arch = "bpf")]
mod listening;
#[cfg(target_arch = "bpf")]
mod lock;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod parent;
#[cfg(target_arch = "bpf")]
mod peername;
#[cfg(target_arch = "bpf")]
mod process;
#[cfg(target_arch = "bpf")]
mod publish;
#[cfg(target_arch = "bpf")]
mod recvmsg;
#[cfg(target_arch = "bpf")]
mod sendmsg;
#[cfg(target_arch = "bpf")]
mod sock_create;

#[cfg(target_arch = "bpf")]
#[expect(clippy::needless_pass_by_value, reason = "the signatures that aya's macros call")]
mod hooks {
    use aya_ebpf::{
        macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, classifier},
        programs::{SkBuffContext, SockAddrContext, SockContext, TcContext},
    };

    use crate::{
        ancestor, bind, bypassed, connect, lock, packet, parent, peername, recvmsg, sendmsg, sock_create,
    };

    #[cgroup_sock_addr(connect4)]
    fn egret_connect4(ctx: SockAddrContext) -> i32 {
        connect::v4(&ctx)
    }

    #[cgroup_sock_addr(connect6)]
    fn egret_connect6(ctx: SockAddrContext) -> i32 {
        connect::v6(&ctx)
    }

    #[cgroup_sock_addr(getpeername4)]
    fn egret_peer4(ctx: SockAddrContext) -> i32 {
        peername::v4(&ctx)
    }

    #[cgroup_sock_addr(getpeername6)]
    fn egret_peer6(ctx: SockAddrContext) -> i32 {
        peername::v6(&ctx)
    }

    #[cgroup_sock_addr(sendmsg4)]
    fn egret_send4(ctx: SockAddrContext) -> i32 {
        sendmsg::v4(&ctx)
    }

    #[cgroup_sock_addr(sendmsg6)]
    fn egret_send6(ctx: SockAddrContext) -> i32 {
        sendmsg::v6(&ctx)
    }

    #[cgroup_sock_addr(recvmsg4)]
    fn egret_recv4(ctx: SockAddrContext) -> i32 {
        recvmsg::v4(&ctx)
    }

    #[cgroup_sock_addr(recvmsg6)]
    fn egret_recv6(ctx: SockAddrContext) -> i32 {
        recvmsg::v6(&ctx)
    }

    #[cgroup_sock_addr(bind4)]
    fn egret_bind4(ctx: SockAddrContext) -> i32 {
        bind::run(&ctx)
    }

    #[cgroup_sock_addr(bind6)]
    fn egret_bind6(ctx: SockAddrContext) -> i32 {
        bind::run(&ctx)
    }

    #[cgroup_sock(sock_create)]
    fn egret_create(ctx: SockContext) -> i32 {
        sock_create::run(&ctx)
    }

    #[cgroup_sock(sock_release)]
    fn egret_release(ctx: SockContext) -> i32 {
        bypassed::released(&ctx)
    }

    #[cgroup_skb(egress)]
    fn egret_egress(ctx: SkBuffContext) -> i32 {
        packet::egress(&ctx)
    }

    #[cgroup_skb(ingress)]
    fn egret_ingress(ctx: SkBuffContext) -> i32 {
        packet::ingress(&ctx)
    }

    #[cgroup_sock_addr(connect4)]
    fn egret_guard_c4(ctx: SockAddrContext) -> i32 {
        parent::connect4(&ctx)
    }

    #[cgroup_sock_addr(connect6)]
    fn egret_guard_c6(ctx: SockAddrContext) -> i32 {
        parent::connect6(&ctx)
    }

    #[cgroup_sock_addr(sendmsg4)]
    fn egret_guard_s4(ctx: SockAddrContext) -> i32 {
        parent::sendmsg4(&ctx)
    }

    #[cgroup_sock_addr(sendmsg6)]
    fn egret_guard_s6(ctx: SockAddrContext) -> i32 {
        parent::sendmsg6(&ctx)
    }

    #[cgroup_skb(egress)]
    fn egret_guard_out(ctx: SkBuffContext) -> i32 {
        parent::egress(&ctx)
    }

    #[cgroup_skb(egress)]
    fn egret_ancestor(ctx: SkBuffContext) -> i32 {
        ancestor::run(&ctx)
    }

    #[classifier]
    fn egret_link_out(ctx: TcContext) -> i32 {
        lock::out(&ctx)
    }

    #[classifier]
    fn egret_link_in(ctx: TcContext) -> i32 {
        lock::into(&ctx)
    }
}

/// What the kernel asks of programs that use helpers for GPL-compatible code: the GPL half of this crate's licence.
#[cfg(target_arch = "bpf")]
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 7] = *b"GPL v2\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Not reached: the verifier refuses a program that could come here.
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

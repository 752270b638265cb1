//! Where in the whole tree of cgroups its caller is. Never attached: user space runs it, and the packet of such a run belongs to a
//! socket that was made for it, in the cgroup of whoever runs it. A cgroup namespace, or a mount of a part of the tree, hides
//! nothing from it.

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use aya_ebpf::{helpers::bpf_skb_ancestor_cgroup_id, programs::SkBuffContext};

use crate::packet;

/// Asked for a level by the first word of the control block, it answers in the second and third with the id of the ancestor there,
/// low half first; 0: the caller's cgroup is not so deep.
#[inline(always)]
pub(crate) fn run(ctx: &SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel's context, at its fixed offsets.
    unsafe {
        let level = read_volatile(addr_of!((*skb).cb[0]));
        let id = bpf_skb_ancestor_cgroup_id(skb, level.cast_signed());
        write_volatile(addr_of_mut!((*skb).cb[1]), id as u32);
        write_volatile(addr_of_mut!((*skb).cb[2]), (id >> 32) as u32);
    }
    packet::PASS
}

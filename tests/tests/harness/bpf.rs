//! The proof that nothing is attached can fail: it sees a program that is.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use anyhow::Result;
use egret_tests::{bpf, cgroup::Cgroup, privileges};
use nix::libc;

/// `BPF_CGROUP_INET_EGRESS`.
const EGRESS: u32 = 1;

/// `bpf(2)` with an attribute of 64-bit words, as far as it is used.
fn call(command: libc::c_int, attribute: &mut [u64]) -> io::Result<RawFd> {
    // SAFETY: the kernel reads `attribute` only, as long as it is; pointers in it are to live buffers of the caller's.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_mut_ptr(), size_of_val(attribute)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// A `cgroup_skb` program that allows everything: `r0 = 1; exit`.
fn load() -> Result<OwnedFd> {
    let instructions: [u64; 2] = [pair(0x0000_00b7, 1), pair(0x0000_0095, 0)];
    let licence = c"GPL";
    // BPF_PROG_LOAD of BPF_PROG_TYPE_CGROUP_SKB; expected_attach_type is the 18th word of 32 bits.
    let mut attribute = [0_u64; 9];
    attribute[0] = pair(8, instructions.len() as u32);
    attribute[1] = instructions.as_ptr() as u64;
    attribute[2] = licence.as_ptr() as u64;
    attribute[8] = pair(0, EGRESS);
    let fd = call(5, &mut attribute)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[test]
fn sees_what_is_attached_and_when_it_is_gone() -> Result<()> {
    if !privileges::kernel_or_skip("the query of attached programs") {
        return Ok(());
    }
    let parent = Cgroup::new()?;
    let child = parent.child("child")?;
    assert!(bpf::attached(parent.path())?.is_empty());

    let program = load()?;
    let directory = File::open(parent.path())?;
    // BPF_PROG_ATTACH
    let (target, attached) = (directory.as_raw_fd().cast_unsigned(), program.as_raw_fd().cast_unsigned());
    call(8, &mut [pair(target, attached), pair(EGRESS, 0)])?;
    let seen = bpf::attached(parent.path())?;
    assert_eq!(seen.iter().map(|(attach_type, _)| *attach_type).collect::<Vec<_>>(), [EGRESS]);
    assert!(bpf::attached(child.path())?.is_empty());
    assert!(bpf::effective(child.path())?.is_superset(&seen));
    assert!(bpf::effective(&bpf::own_cgroup()?)?.is_disjoint(&seen));
    let id = seen.first().map_or(0, |(_, id)| *id);
    assert!(bpf::is_loaded(id)?);

    drop((program, directory, child, parent));
    // The kernel lets go of a removed cgroup's programs a little later.
    assert!(egret_tests::wait::settled(std::time::Duration::from_secs(10), || {
        bpf::is_loaded(id).is_ok_and(|loaded| !loaded)
    }));
    Ok(())
}

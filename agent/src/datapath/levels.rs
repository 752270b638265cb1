//! Where this process is in the whole tree of cgroups, from its root on: asked of the kernel by running a program that is attached
//! nowhere. Called by `guard`, which has to count levels as the kernel does, and by whoever must not lock this process out.

use std::io;

use agent_common::names;
use aya::Ebpf;

use super::{
    attach::{Hook, program_mut},
    syscall,
};

/// The program. It is of the type of those on `egress`, and is not attached.
pub(super) const PROGRAM: Hook = Hook { program: names::ANCESTOR, name: "egress", attach_type: 1 };

/// Deeper than this no process is; the kernel's own limit is higher, and nobody comes near it.
const DEEPEST: u32 = 512;

/// Where the control block is in `struct __sk_buff`, by which the program is asked and answers.
const CONTROL: usize = 48;
/// Room for the structure, which is 192 bytes long as yet: the kernel does not answer with a part of it.
const CONTEXT: usize = 256;

/// The ids (inodes) of the cgroups that this process is in, by level: the root of the whole tree first, its own last.
pub(super) fn ancestors(programs: &mut Ebpf) -> io::Result<Vec<u64>> {
    let program = program_mut(programs, &PROGRAM)
        .and_then(|program| program.fd().map_err(|error| super::Error::new(names::ANCESTOR, error)));
    let program = program.map_err(io::Error::other)?;
    let mut found = Vec::new();
    for level in 0..DEEPEST {
        let mut context = [0_u8; CONTEXT];
        context[CONTROL..][..4].copy_from_slice(&level.to_ne_bytes());
        syscall::run(&program, &mut context)?;
        let word = |at: usize| {
            let bytes: [u8; 4] = std::array::from_fn(|index| context[CONTROL + 4 * at + index]);
            u64::from(u32::from_ne_bytes(bytes))
        };
        match word(1) | word(2) << 32 {
            0 => break,
            id => found.push(id),
        }
    }
    if found.is_empty() {
        return Err(io::Error::other("the kernel does not say which cgroup this process is in"));
    }
    Ok(found)
}

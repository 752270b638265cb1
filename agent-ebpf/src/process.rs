//! Who is calling, for people. Called by the hooks that run in a call of the workload's.

use core::ptr::read_volatile;

use agent_common::Process;
use aya_ebpf::helpers::{bpf_get_current_comm, generated::bpf_get_current_pid_tgid};

/// Whether this kernel lets these programs ask. User space sets it to 0 before it loads them where not: what is not reached is
/// not verified. Its name is `agent_common::names::PROCESSES`.
#[unsafe(no_mangle)]
static EGRET_PROCESSES: u8 = 1;

/// The current process.
#[inline(always)]
pub(crate) fn current() -> Process {
    // SAFETY: a constant of the object, which user space changes only before it is loaded.
    if unsafe { read_volatile(&raw const EGRET_PROCESSES) } == 0 {
        return Process::UNKNOWN;
    }
    // SAFETY: a plain helper.
    let id = unsafe { bpf_get_current_pid_tgid() } >> 32;
    Process::new(id as u32, bpf_get_current_comm().unwrap_or_default())
}

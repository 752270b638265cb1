//! What the machine allows, for tests that need root and a kernel with eBPF. Called first by each of them.

use std::{env, fmt::Display};

use nix::{errno::Errno, libc};

use crate::cgroup;

/// With this set to 1, a test that the machine does not allow is left out, with a note, instead of failing.
pub const ALLOW_SKIP: &str = "EGRET_TESTS_ALLOW_SKIP";

/// Whether kernel tests can run here. If not, this fails the test, or says what is left out where that is allowed.
#[must_use]
pub fn kernel_or_skip(test: &str) -> bool {
    match missing() {
        None => true,
        Some(why) => {
            skip(test, why);
            false
        }
    }
}

/// Fails the test because of what the machine lacks, or notes that it was left out where that is allowed.
#[expect(clippy::print_stderr, reason = "addressed to whoever runs the tests")]
pub fn skip(test: &str, why: impl Display) {
    assert!(
        env::var_os(ALLOW_SKIP).is_some_and(|value| value == "1"),
        "{test} cannot run: {why}; {ALLOW_SKIP}=1 leaves such tests out"
    );
    eprintln!("left out: {test} ({why})");
}

/// The first thing that kernel tests need and this machine does not have.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    cgroup::mount_point().err().map(|error| error.to_string()).or_else(|| {
        let error = probe_bpf().err()?;
        Some(format!("bpf(2) is not possible here ({error})"))
    })
}

/// Asks for the first loaded program, which takes `CAP_SYS_ADMIN` and a kernel with eBPF.
fn probe_bpf() -> Result<(), Errno> {
    const BPF_PROG_GET_NEXT_ID: libc::c_int = 11;
    // start_id, next_id, open_flags
    let mut attributes = [0_u32; 3];
    let size = size_of_val(&attributes);
    // SAFETY: the structure of this command, which lives during the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_GET_NEXT_ID, &raw mut attributes, size) };
    match Errno::result(result) {
        // None is loaded.
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

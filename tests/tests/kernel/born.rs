//! A process that is born in a cgroup (`CLONE_INTO_CGROUP`), and runs a function of the test there: no program is executed,
//! nothing comes before its first instruction.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsRawFd as _, OwnedFd},
};

use egret_tests::cgroup::Cgroup;
use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc,
    sys::wait::waitpid,
    unistd::{Pid, pipe2, write},
};

/// From `include/uapi/linux/sched.h`; the C library's is cut to 32 bits, which is 0.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// A child of the test.
pub(crate) struct Process {
    id: Pid,
    answer: OwnedFd,
}

impl Process {
    /// Starts it in `cgroup` to run `f`, which must end by itself and must not allocate, lock or panic: other threads of the
    /// test are gone there, with whatever they held.
    pub(crate) fn start(cgroup: &Cgroup, f: impl FnOnce() -> [u64; 2]) -> Self {
        let directory = File::open(cgroup.path()).expect("cgroup");
        let (answer, result) = pipe2(OFlag::O_CLOEXEC).expect("pipe");
        // SAFETY: all zeros are a valid value; every field is a number.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.flags = CLONE_INTO_CGROUP;
        arguments.exit_signal = libc::SIGCHLD as u64;
        arguments.cgroup = u64::from(directory.as_raw_fd().cast_unsigned());
        // SAFETY: as fork(2), without the handlers of the C library; the child calls `f`, which promises to need none of them.
        let id =
            unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
        if id == 0 {
            let [a, b] = f().map(u64::to_ne_bytes);
            let written = write(&result, &a).and_then(|_| write(&result, &b));
            // SAFETY: ends the process, and nothing of the test with it.
            unsafe { libc::_exit(i32::from(written.is_err())) }
        }
        assert!(id > 0, "clone3: {}", io::Error::last_os_error());
        Self { id: Pid::from_raw(id as libc::pid_t), answer }
    }

    /// Waits for its end, and returns what `f` has returned.
    pub(crate) fn outcome(self) -> [u64; 2] {
        let mut bytes = [0; 16];
        // Its end of the pipe closes when it ends, however that is.
        let read = File::from(self.answer).read_exact(&mut bytes);
        waitpid(self.id, None).expect("a child of ours");
        read.expect("an answer");
        let (words, _) = bytes.as_chunks::<8>();
        [u64::from_ne_bytes(words[0]), u64::from_ne_bytes(words[1])]
    }
}

/// An outcome as a number: 0, or the errno.
pub(crate) fn number<T>(outcome: Result<T, Errno>) -> u64 {
    outcome.map_or_else(|errno| errno as u64, |_| 0)
}

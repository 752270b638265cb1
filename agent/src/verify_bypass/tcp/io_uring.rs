//! connect() by io_uring: no system call of that name is made. By hand, since one operation is all that is needed.
//!
//! Layouts: `include/uapi/linux/io_uring.h`, which is stable.

use std::{
    io,
    net::SocketAddrV4,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use nix::libc;
use socket2::{Domain, SockAddr, Socket};

use super::super::{
    local,
    mapping::Mapping,
    vector::{Attempt, Probe},
};

const OP_CONNECT: u8 = 16;
const ENTER_GETEVENTS: libc::c_uint = 1;
const OFFSET_SQ_RING: libc::off_t = 0;
const OFFSET_CQ_RING: libc::off_t = 0x0800_0000;
const OFFSET_SQES: libc::off_t = 0x1000_0000;
const ENTRIES: u32 = 1;

#[derive(Default)]
#[repr(C)]
struct SqOffsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    reserved: u32,
    user: u64,
}

#[derive(Default)]
#[repr(C)]
struct CqOffsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    overflow: u32,
    cqes: u32,
    flags: u32,
    reserved: u32,
    user: u64,
}

#[derive(Default)]
#[repr(C)]
struct Parameters {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_cpu: u32,
    sq_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    sq: SqOffsets,
    cq: CqOffsets,
}

/// A submission; `offset` is the length of the address for OP_CONNECT.
#[repr(C)]
struct Submission {
    operation: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    rest: [u64; 5],
}

pub(super) fn attempt(probe: &Probe<'_>) -> Attempt {
    let target: SocketAddrV4 = match probe.target() {
        Ok(target) => target,
        Err(attempt) => return attempt,
    };
    let ring = match Ring::new() {
        Ok(ring) => ring,
        Err(error) => return Attempt::not_available(format_args!("io_uring is not permitted: {error}")),
    };
    match local::stream(Domain::IPV4, None) {
        Ok((socket, port)) => {
            super::connected(socket, port, probe, target.into(), |socket, to| ring.connect(socket, to))
        }
        Err(error) => Attempt::not_available(format_args!("no socket: {error}")),
    }
}

struct Ring {
    fd: OwnedFd,
    parameters: Parameters,
    sq: Mapping,
    cq: Mapping,
    submissions: Mapping,
}

impl Ring {
    fn new() -> io::Result<Self> {
        let mut parameters = Parameters::default();
        // SAFETY: the kernel reads and writes one io_uring_params, 120 bytes.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, &raw mut parameters) };
        let fd = libc::c_int::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel made it for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            sq: Mapping::of(fd.as_fd(), OFFSET_SQ_RING)?,
            cq: Mapping::of(fd.as_fd(), OFFSET_CQ_RING)?,
            submissions: Mapping::of(fd.as_fd(), OFFSET_SQES)?,
            fd,
            parameters,
        })
    }

    /// Submits one connect and waits for its completion; SO_SNDTIMEO of the socket bounds it.
    fn connect(&self, socket: &Socket, to: &SockAddr) -> io::Result<()> {
        let submission = Submission {
            operation: OP_CONNECT,
            flags: 0,
            priority: 0,
            fd: socket.as_raw_fd(),
            offset: u64::from(to.len()),
            address: to.as_ptr() as u64,
            rest: [0; 5],
        };
        // SAFETY: a ring with one entry: index 0 of the array names submission 0, whose place is the kernel's to read after
        // the tail was moved. All offsets are the kernel's own, inside one page of a ring this small.
        unsafe {
            self.submissions.at::<Submission>(0).write(submission);
            self.sq.at::<u32>(self.parameters.sq.array).write(0);
            (*self.sq.at::<AtomicU32>(self.parameters.sq.tail)).fetch_add(1, Ordering::Release);
        }
        // SAFETY: plain numbers; the address that the submission points to lives until the completion is read.
        let entered = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.fd.as_raw_fd(),
                1,
                1,
                ENTER_GETEVENTS,
                ptr::null::<libc::sigset_t>(),
                0,
            )
        };
        if entered < 0 {
            return Err(io::Error::last_os_error());
        }
        // user_data (8 bytes), result (4 bytes), flags.
        // SAFETY: enter returned with one completion at the head, which is entry 0 of a fresh ring.
        let result = unsafe {
            (*self.cq.at::<AtomicU32>(self.parameters.cq.tail)).load(Ordering::Acquire);
            self.cq.at::<i32>(self.parameters.cq.cqes + 8).read()
        };
        if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-result)) }
    }
}

//! Memory that is shared with the kernel, for its rings: `tcp::io_uring` and `frames::xdp`.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

use nix::libc;

/// Rings as small as ours fit into a page.
pub(super) const PAGE: usize = 4096;

/// One page, unmapped on drop.
pub(super) struct Mapping(*mut libc::c_void);

impl Mapping {
    /// The page of a ring.
    pub(super) fn of(fd: BorrowedFd<'_>, offset: libc::off_t) -> io::Result<Self> {
        Self::new(fd.as_raw_fd(), offset, libc::MAP_SHARED | libc::MAP_POPULATE)
    }

    /// A page of our own.
    pub(super) fn anonymous() -> io::Result<Self> {
        Self::new(-1, 0, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
    }

    fn new(fd: libc::c_int, offset: libc::off_t, flags: libc::c_int) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let at = unsafe { libc::mmap(ptr::null_mut(), PAGE, protection, flags, fd, offset) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self(at)) }
    }

    /// A place in it.
    pub(super) fn at<T>(&self, offset: u32) -> *mut T {
        const { assert!(align_of::<T>() <= 8) };
        self.0.cast::<u8>().wrapping_add(offset as usize).cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and nothing points into it any more.
        unsafe { libc::munmap(self.0, PAGE) };
    }
}

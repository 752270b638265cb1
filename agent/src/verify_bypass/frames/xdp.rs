//! AF_XDP: a frame from a ring that is shared with the kernel, written past everything between socket and driver. In copy
//! mode, which every device takes, and without a program, which is for receiving only.
//!
//! Layouts: `include/uapi/linux/if_xdp.h`, which is stable.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use nix::libc;

use super::super::{
    link::{ETH_P_IP, Link},
    local,
    mapping::{Mapping, PAGE},
    packet,
    vector::{Attempt, Probe, attempt},
};

const ENTRIES: u32 = 8;
/// A page holds two frames, the smallest number of bytes that the kernel takes for each.
const FRAME: u32 = 2048;

pub(super) fn send(probe: &Probe<'_>) -> Attempt {
    attempt(|| {
        let link = super::link(probe)?;
        let mut frame = Vec::new();
        frame.extend(link.next_hop);
        frame.extend(link.hardware);
        frame.extend(ETH_P_IP.to_be_bytes());
        frame.extend(packet::datagram(link.source, probe.target()?, probe.token.as_bytes()));
        let socket = Socket::new(&link).map_err(|error| match error.raw_os_error() {
            Some(libc::EAFNOSUPPORT) => Attempt::not_available("not in this kernel"),
            Some(libc::EOPNOTSUPP | libc::EBUSY | libc::EINVAL) => {
                Attempt::not_available(format_args!("the device does not take it: {error}"))
            }
            _ => Attempt::refused(&error),
        })?;
        socket.send(&frame).map_err(|error| Attempt::refused(&error))?;
        Ok(Attempt::sent())
    })
}

/// A bound socket with its memory.
struct Socket {
    fd: OwnedFd,
    frames: Mapping,
    ring: Mapping,
    offsets: libc::xdp_ring_offset,
}

impl Socket {
    fn new(link: &Link) -> io::Result<Self> {
        // SAFETY: plain numbers.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel made it for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let frames = Mapping::anonymous()?;
        // SAFETY: an all-zero xdp_umem_reg is a valid value.
        let mut memory: libc::xdp_umem_reg = unsafe { std::mem::zeroed() };
        memory.addr = frames.at::<u8>(0) as u64;
        memory.len = PAGE as u64;
        memory.chunk_size = FRAME;
        local::set(&fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &memory)?;
        // The kernel wants the other two rings of the memory, too.
        for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_TX_RING] {
            local::set(&fd, libc::SOL_XDP, ring, &ENTRIES)?;
        }
        let ring = Mapping::of(fd.as_fd(), libc::XDP_PGOFF_TX_RING as libc::off_t)?;
        let offsets = offsets(&fd)?.tx;
        let at = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: libc::XDP_COPY,
            sxdp_ifindex: link.index,
            sxdp_queue_id: 0,
            sxdp_shared_umem_fd: 0,
        };
        // SAFETY: the address lives during the call, with its true length.
        let bound = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const at).cast(),
                size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
            )
        };
        if bound == 0 { Ok(Self { fd, frames, ring, offsets }) } else { Err(io::Error::last_os_error()) }
    }

    /// Puts the frame into the memory, its place into the ring, and tells the kernel.
    fn send(&self, frame: &[u8]) -> io::Result<()> {
        let length = frame.len().min(FRAME as usize);
        // SAFETY: the first frame of our memory has room for FRAME bytes. The ring is a fresh one, whose first entry is ours
        // until the producer's index is moved; its offsets are the kernel's own, inside one page for a ring this small.
        unsafe {
            ptr::copy_nonoverlapping(frame.as_ptr(), self.frames.at::<u8>(0), length);
            let entry = libc::xdp_desc { addr: 0, len: length as u32, options: 0 };
            self.ring.at::<libc::xdp_desc>(self.offsets.desc as u32).write(entry);
            (*self.ring.at::<AtomicU32>(self.offsets.producer as u32)).fetch_add(1, Ordering::Release);
        }
        // SAFETY: no data and no address: this only wakes the kernel.
        let woken =
            unsafe { libc::sendto(self.fd.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
        if woken < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Where the parts of a ring are in its page.
fn offsets(fd: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: an all-zero xdp_mmap_offsets is a valid value.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&offsets) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `offsets`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            (&raw mut offsets).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(offsets) } else { Err(io::Error::last_os_error()) }
}

//! What is attached to a cgroup, asked of the kernel directly (bpf(2)), so that no library of the product's vouches for
//! the product.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    ops::RangeInclusive,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{errno::Errno, libc};

use crate::cgroup;

/// `enum bpf_cmd` in linux/bpf.h.
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const LINK_GET_FD_BY_ID: libc::c_int = 30;
const LINK_GET_NEXT_ID: libc::c_int = 31;
const ENABLE_STATS: libc::c_int = 32;
/// `BPF_LINK_TYPE_CGROUP`.
const CGROUP_LINK: u32 = 3;
/// `BPF_F_QUERY_EFFECTIVE`: also what cgroups above have attached.
const QUERY_EFFECTIVE: u32 = 1;
/// `enum bpf_attach_type`, those for cgroups. For others the kernel takes the descriptor for something else.
const ATTACH_TYPES: [RangeInclusive<u32>; 8] =
    [0..=3, 6..=6, 8..=15, 18..=22, 29..=32, 34..=34, 43..=43, 49..=53];
const MAX_PROGRAMS: usize = 64;

/// Attach type and program id.
pub type Attachment = (u32, u32);

/// `query` of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    /// Written to by the kernel (on cgroups since Linux 6.17) whether or not there is room for it.
    revision: u64,
}

/// `info` of `union bpf_attr`, for as much of the answer as is wanted.
#[repr(C)]
#[derive(Default)]
struct Info {
    fd: u32,
    length: u32,
    at: u64,
}

/// The part of `union bpf_attr` for finding objects by their ids.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Programs attached to this very cgroup.
pub fn attached(cgroup: &Path) -> Result<BTreeSet<Attachment>> {
    query(cgroup, 0)
}

/// The directory of the layout version that is being tested, below that of the instance.
pub const LAYOUT: &str = "v2";

/// How many programs Egret has on the cgroup of a workload.
pub const WORKLOAD_PROGRAMS: usize = 14;

/// Programs that run for processes in this cgroup, wherever they are attached.
pub fn effective(cgroup: &Path) -> Result<BTreeSet<Attachment>> {
    query(cgroup, QUERY_EFFECTIVE)
}

/// Whether a program is loaded at all.
pub fn is_loaded(program: u32) -> Result<bool> {
    match open(program) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error).context("BPF_PROG_GET_FD_BY_ID"),
    }
}

/// How many programs are attached to cgroups of this machine by links, whoever did it.
pub fn links_on_cgroups() -> Result<usize> {
    let mut count = 0;
    let mut attribute = ById::default();
    loop {
        match bpf(LINK_GET_NEXT_ID, &mut attribute) {
            Ok(_) => attribute.id = attribute.next_id,
            Err(Errno::ENOENT) => return Ok(count),
            Err(error) => return Err(error).context("BPF_LINK_GET_NEXT_ID"),
        }
        let mut by_id = ById { id: attribute.id, ..ById::default() };
        match bpf(LINK_GET_FD_BY_ID, &mut by_id) {
            Ok(fd) => count += usize::from(kind(&owned(fd))? == CGROUP_LINK),
            // It has just gone.
            Err(Errno::ENOENT) => {}
            // It is just being attached, and may be to a cgroup.
            Err(Errno::EAGAIN) => count += 1,
            Err(error) => return Err(error).context("BPF_LINK_GET_FD_BY_ID"),
        }
    }
}

fn kind(link: &OwnedFd) -> Result<u32> {
    let mut kind = 0_u32;
    let at = &raw mut kind as u64;
    let mut attribute = Info { fd: link.as_raw_fd().cast_unsigned(), length: size_of::<u32>() as u32, at };
    bpf(OBJ_GET_INFO_BY_FD, &mut attribute).context("BPF_OBJ_GET_INFO_BY_FD")?;
    Ok(kind)
}

/// How long a program has run, and how often, while somebody had [`count_run_time`].
pub fn run_time(program: u32) -> Result<(Duration, u64)> {
    /// `struct bpf_prog_info` as words, up to the count of runs.
    const WORDS: usize = 26;
    let program = open(program).context("BPF_PROG_GET_FD_BY_ID")?;
    let mut info = [0_u64; WORDS];
    let mut query = Info {
        fd: program.as_raw_fd().cast_unsigned(),
        length: u32::try_from(size_of_val(&info))?,
        at: info.as_mut_ptr() as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut query).context("BPF_OBJ_GET_INFO_BY_FD")?;
    let [.., nanoseconds, runs] = info;
    Ok((Duration::from_nanos(nanoseconds), runs))
}

/// Has the kernel measure programs, until it is dropped. That takes time by itself.
pub fn count_run_time() -> Result<OwnedFd> {
    /// The part of `union bpf_attr` for `BPF_ENABLE_STATS`; 0 is the run time.
    #[repr(C)]
    struct Enable {
        what: u32,
    }
    let fd = bpf(ENABLE_STATS, &mut Enable { what: 0 }).context("BPF_ENABLE_STATS")?;
    Ok(owned(fd))
}

fn open(program: u32) -> Result<OwnedFd, Errno> {
    bpf(PROG_GET_FD_BY_ID, &mut ById { id: program, ..ById::default() }).map(owned)
}

/// Takes over a descriptor that the kernel has just made.
fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: made for us by the call that returned it, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn query(cgroup: &Path, flags: u32) -> Result<BTreeSet<Attachment>> {
    let directory = File::open(cgroup).with_context(|| format!("cannot open {}", cgroup.display()))?;
    let mut found = BTreeSet::new();
    for attach_type in ATTACH_TYPES.into_iter().flatten() {
        let mut ids = [0_u32; MAX_PROGRAMS];
        let mut attribute = Query {
            target_fd: directory.as_raw_fd().cast_unsigned(),
            attach_type,
            flags,
            prog_ids: ids.as_mut_ptr() as u64,
            prog_cnt: MAX_PROGRAMS as u32,
            ..Query::default()
        };
        match bpf(PROG_QUERY, &mut attribute) {
            Ok(_) => {
                let count = usize::try_from(attribute.prog_cnt)?.min(MAX_PROGRAMS);
                found.extend(ids[..count].iter().map(|id| (attach_type, *id)));
            }
            // Not in this kernel.
            Err(Errno::EINVAL) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("BPF_PROG_QUERY on {}", cgroup.display()));
            }
        }
    }
    Ok(found)
}

fn bpf<T>(command: libc::c_int, attribute: &mut T) -> Result<RawFd, Errno> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes of `attribute`, whose layout is a prefix of
    // `union bpf_attr`; a buffer it refers to belongs to the caller and is as long as it says.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<T>()) };
    Errno::result(result).map(|fd| fd as RawFd)
}

/// The cgroup of this process.
pub fn own_cgroup() -> Result<PathBuf> {
    let cgroups = fs::read_to_string("/proc/self/cgroup")?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup v2")?;
    Ok(cgroup::mount_point()?.join(path))
}

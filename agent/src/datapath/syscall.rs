//! The `bpf(2)` commands that aya does not offer for what is needed here: cgroup storage by its 8-byte key,
//! lookup-and-delete on hashes, and links; and the one socket option that is asked for. Called by the rest of `datapath`.
//!
//! Layouts are those of `union bpf_attr` and `struct bpf_*_info` in `include/uapi/linux/bpf.h`, which are stable. The kernel
//! takes shorter structures than its own and reads zeros for the rest.

use std::{
    ffi::{CStr, CString},
    io, mem,
    os::{
        fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, net::UnixDatagram},
    },
    path::Path,
    time::Duration,
};

use nix::libc;

const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const OBJ_GET: libc::c_int = 7;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_TEST_RUN: libc::c_int = 10;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const MAP_LOOKUP_AND_DELETE_ELEM: libc::c_int = 21;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

/// As much as `union bpf_attr` will hardly ever need (144 bytes in Linux 6.18). Some commands write to a field whether or not the
/// structure they were given reaches that far: `BPF_PROG_QUERY` to `revision`, on devices since 6.6, on cgroups since 6.17.
const ROOM: usize = 512;

/// Calls `bpf(2)` with one of the attribute structures below.
///
/// # Safety
/// `attributes` fits `command`, and pointers in it are valid for what the command reads and writes.
unsafe fn bpf<T: Copy>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    #[repr(C)]
    union Roomy<T: Copy> {
        attributes: T,
        room: [u64; ROOM / 8],
    }
    let size = size_of::<T>() as libc::c_uint;
    let mut roomy = Roomy { room: [0; ROOM / 8] };
    roomy.attributes = *attributes;
    // SAFETY: the structure lives during the call, with its true size and room behind it; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut roomy, size) };
    let error = io::Error::last_os_error();
    // SAFETY: it was put there, and the kernel writes numbers to its fields.
    *attributes = unsafe { roomy.attributes };
    libc::c_int::try_from(result).ok().filter(|result| *result >= 0).ok_or(error)
}

/// The cookie of the calling thread's network namespace (`SO_NETNS_COOKIE`, Linux 5.14): never 0, and no other's as long as the machine
/// runs.
pub(super) fn network_cookie() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    let (level, option) = (libc::SOL_SOCKET, libc::SO_NETNS_COOKIE);
    // SAFETY: the cookie and its length live during the call, and are as large as is said.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut cookie).cast(), &raw mut length)
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Takes over a descriptor that the kernel has just made.
fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel made it for this call, so nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Element {
    fn new<K, V>(map: &impl AsFd, key: &K, value: *const V) -> Self {
        Self {
            map: descriptor(map),
            padding: 0,
            key: std::ptr::from_ref(key) as u64,
            value: value as u64,
            flags: 0,
        }
    }
}

fn descriptor(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

/// Writes a value. The map's key and value have the sizes of `K` and `V`.
pub(super) fn update<K: aya::Pod, V: aya::Pod>(map: &impl AsFd, key: &K, value: &V) -> io::Result<()> {
    let mut element = Element::new(map, key, std::ptr::from_ref(value));
    // SAFETY: key and value are plain data that live during the call.
    unsafe { bpf(MAP_UPDATE_ELEM, &mut element) }.map(drop)
}

/// Reads a value; ENOENT: there is none. The map is not per CPU, and its key and value have the sizes of `K` and `V`.
pub(super) fn lookup<K: aya::Pod, V: aya::Pod>(map: &impl AsFd, key: &K) -> io::Result<V> {
    read(MAP_LOOKUP_ELEM, map, key)
}

/// Takes a value out of a hash in one step (Linux 5.14). The map's key and value have the sizes of `K` and `V`.
pub(super) fn take<K: aya::Pod, V: aya::Pod>(map: &impl AsFd, key: &K) -> io::Result<V> {
    read(MAP_LOOKUP_AND_DELETE_ELEM, map, key)
}

/// One of the commands that answer with a value.
fn read<K: aya::Pod, V: aya::Pod>(command: libc::c_int, map: &impl AsFd, key: &K) -> io::Result<V> {
    let mut value = mem::MaybeUninit::<V>::uninit();
    let mut element = Element::new(map, key, value.as_mut_ptr().cast_const());
    // SAFETY: the key is plain data, and the kernel writes as many bytes as `V` has.
    unsafe { bpf(command, &mut element) }?;
    // SAFETY: written by the kernel; every bit pattern is a value of a `Pod` type.
    Ok(unsafe { value.assume_init() })
}

/// What was looked up or opened; None: there is nothing.
pub(super) fn if_any<V>(found: io::Result<V>) -> io::Result<Option<V>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens a pinned map or link.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut object = Object { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the path is a C string that lives during the call.
    unsafe { bpf(OBJ_GET, &mut object) }.map(owned)
}

#[derive(Clone, Copy)]
#[repr(C)]
struct InfoQuery {
    fd: u32,
    length: u32,
    info: u64,
}

/// Asks for the description of a map, program or link.
///
/// # Safety
/// `T` is a prefix of the kernel's structure for this kind of object, in which all bit patterns are valid.
unsafe fn info<T>(object: &impl AsFd, mut info: T) -> io::Result<T> {
    let mut query = InfoQuery {
        fd: descriptor(object),
        length: size_of::<T>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: the kernel writes at most `length` bytes to `info`.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut query) }?;
    Ok(info)
}

/// What the kernel says of a link to a cgroup.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct LinkInfo {
    /// `BPF_LINK_TYPE_CGROUP` is 3.
    pub(super) kind: u32,
    id: u32,
    /// The program behind it.
    pub(super) program: u32,
    padding: u32,
    /// The cgroup's inode; 0 when it is gone.
    pub(super) cgroup: u64,
    /// `enum bpf_attach_type`.
    pub(super) attach_type: u32,
    padding_2: u32,
}

/// Describes a link.
pub(super) fn link_info(link: &impl AsFd) -> io::Result<LinkInfo> {
    // SAFETY: the beginning of `struct bpf_link_info`, plain numbers.
    unsafe { info(link, LinkInfo::default()) }
}

/// What the kernel says of a link to a network device.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct DeviceLinkInfo {
    /// `BPF_LINK_TYPE_TCX` is 11.
    pub(super) kind: u32,
    id: u32,
    /// The program behind it.
    pub(super) program: u32,
    padding: u32,
    /// The device's index; 0 when it is gone.
    pub(super) device: u32,
    /// `enum bpf_attach_type`.
    pub(super) attach_type: u32,
}

/// Describes a link to a device.
pub(super) fn device_link_info(link: &impl AsFd) -> io::Result<DeviceLinkInfo> {
    // SAFETY: the beginning of `struct bpf_link_info`, plain numbers.
    unsafe { info(link, DeviceLinkInfo::default()) }
}

/// What the kernel says of a program.
#[derive(Debug)]
pub(super) struct ProgramInfo {
    /// Hash of its instructions.
    pub(super) tag: [u8; 8],
    /// Ids of the maps that it refers to.
    pub(super) maps: Vec<u32>,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct RawProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_length: u32,
    translated_length: u32,
    jited: u64,
    translated: u64,
    load_time: u64,
    created_by: u32,
    map_count: u32,
    maps: u64,
}

/// Describes a loaded program by its id.
pub(super) fn program_info(id: u32) -> io::Result<ProgramInfo> {
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct ById {
        id: u32,
        next: u32,
        flags: u32,
    }
    // SAFETY: plain numbers.
    let program = owned(unsafe { bpf(PROG_GET_FD_BY_ID, &mut ById { id, next: 0, flags: 0 }) }?);
    let mut maps = vec![0_u32; 64];
    let question =
        RawProgramInfo { map_count: maps.len() as u32, maps: maps.as_mut_ptr() as u64, ..Default::default() };
    // SAFETY: the beginning of `struct bpf_prog_info`, plain numbers; the kernel writes at most `map_count` ids to `maps`.
    let answer = unsafe { info(&program, question) }?;
    maps.truncate(answer.map_count as usize);
    Ok(ProgramInfo { tag: answer.tag, maps })
}

/// `union bpf_attr`, `query`, up to the program count.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    how: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
}

/// Asks what is attached; without room for all ids the kernel writes what fits, and flags and count.
///
/// # Safety
/// `query.programs` has room for `query.count` ids.
unsafe fn query(query: &mut Query) -> io::Result<()> {
    // SAFETY: plain numbers, and what the caller promises.
    match unsafe { bpf(PROG_QUERY, query) } {
        Err(error) if error.raw_os_error() != Some(libc::ENOSPC) => Err(error),
        _ => Ok(()),
    }
}

/// What is attached to one hook of a cgroup itself, inherited programs left out: flags of the attachment, and how many.
pub(super) fn attached(cgroup: &impl AsFd, attach_type: u32) -> io::Result<(u32, u32)> {
    let mut question = Query { target: descriptor(cgroup), attach_type, ..Query::default() };
    // SAFETY: no room.
    unsafe { query(&mut question) }?;
    Ok((question.attach_flags, question.count))
}

/// The id of the program that runs first on a hook of a network device; 0: there is none.
pub(super) fn first_on_device(device: u32, attach_type: u32) -> io::Result<u32> {
    let mut first = 0_u32;
    let programs = std::ptr::from_mut(&mut first) as u64;
    let mut question = Query { target: device, attach_type, programs, count: 1, ..Query::default() };
    // SAFETY: room for one.
    unsafe { query(&mut question) }?;
    Ok(first)
}

/// The kernel's id of a map.
pub(super) fn map_id(map: &impl AsFd) -> io::Result<u32> {
    #[derive(Default)]
    #[repr(C)]
    struct MapInfo {
        kind: u32,
        id: u32,
    }
    // SAFETY: the beginning of `struct bpf_map_info`, plain numbers.
    unsafe { info(map, MapInfo::default()) }.map(|info| info.id)
}

/// Puts another program behind a link, in one step. Only between programs that refer to the same cgroup storage.
pub(super) fn link_update(link: &impl AsFd, program: &impl AsFd) -> io::Result<()> {
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Update {
        link: u32,
        program: u32,
        flags: u32,
        old_program: u32,
    }
    let mut update =
        Update { link: descriptor(link), program: descriptor(program), flags: 0, old_program: 0 };
    // SAFETY: plain numbers.
    unsafe { bpf(LINK_UPDATE, &mut update) }.map(drop)
}

/// Loads a program for what the verifier says of it: statistics alone. `I` is `struct bpf_insn`.
pub(super) fn program_log<I>(
    instructions: &[I],
    license: &CStr,
    kind: u32,
    attach_type: u32,
) -> io::Result<String> {
    /// `BPF_LOG_STATS`.
    const STATISTICS: u32 = 4;
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        device: u32,
        attach_type: u32,
    }
    const { assert!(size_of::<I>() == 8) };
    let mut log = vec![0_u8; 4096];
    let mut load = Load {
        kind,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: STATISTICS,
        log_size: log.len() as u32,
        log: log.as_mut_ptr() as u64,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        device: 0,
        attach_type,
    };
    // SAFETY: instructions and license live during the call, and the kernel writes at most `log_size` bytes to the log.
    drop(owned(unsafe { bpf(PROG_LOAD, &mut load) }?));
    log.truncate(log.iter().position(|byte| *byte == 0).unwrap_or(log.len()));
    Ok(String::from_utf8_lossy(&log).into_owned())
}

/// Runs a program of the type of those for packets once, on a packet of zeros. `context` is `struct __sk_buff`, before and after,
/// with room for more.
pub(super) fn run(program: &impl AsFd, context: &mut [u8]) -> io::Result<()> {
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Run {
        program: u32,
        verdict: u32,
        packet_size: u32,
        packet_room: u32,
        packet: u64,
        packet_out: u64,
        repeat: u32,
        duration: u32,
        context_size: u32,
        context_room: u32,
        context: u64,
        context_out: u64,
    }
    let packet = [0_u8; 64];
    let (size, at) = (context.len() as u32, context.as_mut_ptr() as u64);
    let mut run = Run {
        program: descriptor(program),
        verdict: 0,
        packet_size: packet.len() as u32,
        packet_room: 0,
        packet: packet.as_ptr() as u64,
        packet_out: 0,
        repeat: 0,
        duration: 0,
        context_size: size,
        context_room: size,
        context: at,
        context_out: at,
    };
    // SAFETY: packet and context live during the call, and the kernel writes at most `context_room` bytes to the latter.
    unsafe { bpf(PROG_TEST_RUN, &mut run) }.map(drop)
}

/// The clock of `bpf_ktime_get_ns`.
pub(super) fn monotonic() -> io::Result<Duration> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Neither is negative on this clock, and the nanoseconds are below a second.
    Ok(Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32))
}

/// Detaches a link at once; removing its pin alone leaves that to a work queue (Linux 5.9).
pub(super) fn link_detach(link: &impl AsFd) -> io::Result<()> {
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Detach {
        link: u32,
    }
    // SAFETY: plain numbers.
    unsafe { bpf(LINK_DETACH, &mut Detach { link: descriptor(link) }) }.map(drop)
}

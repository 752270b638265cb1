//! What others do in the kernel, for tests of what comes of it: programs that are not Egret's on its hooks and behind its
//! links, and entries in its maps. By bpf(2), since nothing of the product is to vouch for the product.

use std::{
    ffi::CString,
    fs::File,
    io,
    net::SocketAddrV4,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use nix::libc;

/// `BPF_CGROUP_INET_EGRESS`, and the type of its programs.
pub const EGRESS: Hook = Hook { program_type: 8, attach_type: 1 };
/// `BPF_CGROUP_INET4_CONNECT`, and the type of its programs.
pub const CONNECT4: Hook = Hook { program_type: 18, attach_type: 10 };

/// `BPF_CGROUP_SOCK_OPS`, and the type of its programs.
pub const SOCK_OPS: Hook = Hook { program_type: 13, attach_type: 3 };

/// A hook of cgroups: `enum bpf_prog_type` and `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    program_type: u32,
    attach_type: u32,
}

/// `bpf(2)` with an attribute of 64-bit words, as far as it is used.
fn call(command: libc::c_int, attribute: &mut [u64]) -> io::Result<RawFd> {
    // SAFETY: the kernel reads and writes `attribute` only, as long as it is, and the live buffers that it points to.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_mut_ptr(), size_of_val(attribute)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn number(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// A program that allows everything: `r0 = 1; exit`. With a cgroup storage it looks its value up first.
pub fn allowing(hook: Hook, storage: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let mut instructions = Vec::new();
    if let Some(map) = storage {
        // r1 = map (two words, BPF_PSEUDO_MAP_FD); r2 = 0; call bpf_get_local_storage (81).
        instructions.extend([pair(0x1118, number(map)), 0, 0x02b7, pair(0x85, 81)]);
    }
    load(hook, instructions)
}

/// A program that sends every IPv4 connection somewhere else.
pub fn redirecting(to: SocketAddrV4) -> io::Result<OwnedFd> {
    let address = u32::from_ne_bytes(to.ip().octets());
    let port = u32::from(to.port().to_be());
    // user_ip4 and user_port are at 4 and 24 of the context in r1; their values come by r2.
    let store = |offset: u32, value: u32| [pair(0x02b4, value), u64::from(0x2163 | offset << 16)];
    load(CONNECT4, [store(4, address), store(24, port)].concat())
}

/// Loads these instructions, and "allow" behind them.
fn load(hook: Hook, mut instructions: Vec<u64>) -> io::Result<OwnedFd> {
    const RETURN_1: [u64; 2] = [0x1_0000_00b7, 0x95];
    instructions.extend(RETURN_1);
    // BPF_PROG_LOAD; expected_attach_type is the 18th word of 32 bits.
    let mut attribute = [0_u64; 9];
    attribute[0] = pair(hook.program_type, instructions.len() as u32);
    attribute[1] = instructions.as_ptr() as u64;
    attribute[2] = c"GPL".as_ptr() as u64;
    attribute[8] = pair(0, hook.attach_type);
    call(5, &mut attribute).map(owned)
}

/// Attaches the way of old, without the flag that lets others attach, too. It goes with the cgroup.
pub fn attach_exclusively(cgroup: &Path, hook: Hook, program: &OwnedFd) -> io::Result<()> {
    attach(cgroup, hook, program, 0)
}

/// Attaches beside others, behind those that are there. It goes with the cgroup.
pub fn attach_beside(cgroup: &Path, hook: Hook, program: &OwnedFd) -> io::Result<()> {
    const BPF_F_ALLOW_MULTI: u32 = 2;
    attach(cgroup, hook, program, BPF_F_ALLOW_MULTI)
}

fn attach(cgroup: &Path, hook: Hook, program: &OwnedFd, flags: u32) -> io::Result<()> {
    let directory = File::open(cgroup)?;
    let mut attribute =
        [pair(directory.as_raw_fd().cast_unsigned(), number(program)), pair(hook.attach_type, flags)];
    call(8, &mut attribute).map(drop)
}

/// Attaches by a link, and pins it.
pub fn attach_pinned(cgroup: &Path, hook: Hook, program: &OwnedFd, pin: &Path) -> io::Result<()> {
    let directory = File::open(cgroup)?;
    let target = directory.as_raw_fd().cast_unsigned();
    let link = owned(call(28, &mut [pair(number(program), target), pair(hook.attach_type, 0)])?);
    let path = CString::new(pin.as_os_str().as_bytes())?;
    call(6, &mut [path.as_ptr() as u64, u64::from(number(&link))]).map(drop)
}

/// A pinned map or link.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    call(7, &mut [path.as_ptr() as u64, 0]).map(owned)
}

/// Puts another program behind a link.
pub fn replace(link: &OwnedFd, program: &OwnedFd) -> io::Result<()> {
    call(29, &mut [pair(number(link), number(program)), 0]).map(drop)
}

/// The numbers that the kernel gave a link, and the program behind it.
pub fn link_ids(link: &OwnedFd) -> io::Result<(u32, u32)> {
    let info = info(link)?;
    Ok((info[1], info[2]))
}

/// `BPF_OBJ_GET_INFO_BY_FD`, the first words.
fn info(object: &OwnedFd) -> io::Result<[u32; 8]> {
    let mut info = [0_u32; 8];
    call(15, &mut [pair(number(object), size_of_val(&info) as u32), info.as_mut_ptr() as u64])?;
    Ok(info)
}

/// Puts entries into a hash until it is full, and says how many. Their keys begin with a number that no key of Egret's has.
pub fn fill(map: &OwnedFd) -> io::Result<u32> {
    // Type, id, size of keys and of values, capacity.
    let [_, _, key_size, value_size, capacity, ..] = info(map)?;
    let (mut key, value) = (vec![0xff_u8; key_size as usize], vec![0_u8; value_size as usize]);
    for entry in 0..=capacity {
        key[4..8].copy_from_slice(&entry.to_ne_bytes());
        match call(2, &mut [u64::from(number(map)), key.as_ptr() as u64, value.as_ptr() as u64, 0]) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => return Ok(entry),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("it takes more than its capacity"))
}

/// Takes one of the entries of [`fill`] out again.
pub fn make_room(map: &OwnedFd) -> io::Result<()> {
    let mut key = vec![0xff_u8; info(map)?[2] as usize];
    key[4..8].copy_from_slice(&0_u32.to_ne_bytes());
    call(3, &mut [u64::from(number(map)), key.as_ptr() as u64]).map(drop)
}

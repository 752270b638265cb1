//! The lock on a workload's link: two programs on the host's device, by pinned tcx links (Linux 6.6). Called by `Capture`.
//!
//! The program that learns who has spoken comes first, then what is known already, then the entry of the device, and last the
//! program that drops: from then on nothing passes that was not asked for. Taking away goes the other way round.

use std::{
    fs, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::Path,
};

use agent_common::{Endpoint, Flow, Heard, LinkSource, names};
use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
    programs::{
        LinkOrder, Program, ProgramError, SchedClassifier, TcAttachType,
        links::FdLink,
        tc::{TcAttachOptions, TcError},
    },
};
use nix::libc;

use super::{
    Capture, Error,
    attach::Hook,
    loader,
    pins::{self, Pins},
    syscall, versions,
};

const BPF_LINK_TYPE_TCX: u32 = 11;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
const IPPROTO_TCP: u8 = 6;

/// In the order of attachment. What comes from the workload is "ingress" at the host's device.
pub(super) const HOOKS: [Hook; 2] = [
    Hook { program: names::LINK_IN, name: "tcx_egress", attach_type: BPF_TCX_EGRESS },
    Hook { program: names::LINK_OUT, name: "tcx_ingress", attach_type: BPF_TCX_INGRESS },
];

/// Where the link with this pin's name is in the order of attachment; None: it is not one of ours.
pub(super) fn position(pin: &str) -> Option<usize> {
    HOOKS.iter().position(|hook| hook.is_in(pin))
}

/// The host's device at a workload's link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index in the agent's network namespace.
    pub index: u32,
    /// Its name there.
    pub name: String,
}

/// A TCP connection of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The workload's end.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// It came from outside.
    pub accepted: bool,
}

/// Locks a device; see [`Capture::lock`].
pub(super) fn lock(
    capture: &Capture,
    device: &Device,
    workload: u32,
    older: impl FnOnce() -> io::Result<Vec<Connection>>,
) -> Result<usize, Error> {
    let fail = |error: io::Error| capture.pins.map_error(names::LINKS, error);
    let known: Option<u32> = syscall::if_any(syscall::lookup(&capture.links, &device.index)).map_err(fail)?;
    let mut programs = capture.programs.lock();
    let [learns, drops] = &HOOKS;
    let mut missing = usize::from(!ensure(capture, &mut programs, learns, device)?);
    if known.is_none() {
        let older = older().map_err(|error| {
            Error::new(format_args!("connections of the workload behind {}", device.name), error)
        })?;
        seed(&capture.pins, device, &older)?;
    }
    if known != Some(workload) {
        syscall::update(&capture.links, &device.index, &workload).map_err(fail)?;
    }
    match ensure(capture, &mut programs, drops, device) {
        Ok(was_there) => missing += usize::from(!was_there),
        Err(error) if known.is_none() => {
            // Not half a lock. The first error is the one that matters.
            let _ = unlock(&capture.pins, device.index);
            return Err(error);
        }
        Err(error) => return Err(error),
    }
    Ok(if known.is_some() { missing } else { 0 })
}

/// Takes what other layout versions have on a device.
pub(super) fn replace_other_versions(root: &Path, device: u32) -> Result<(), Error> {
    versions::replace(root, &format!("{}{device}", pins::LOCK))
        .map_err(|error| Error::new(format_args!("lock of another version on device {device}"), error))
}

/// Takes the lock from a device.
pub(super) fn unlock(pins: &Pins, device: u32) -> Result<(), Error> {
    for hook in HOOKS.iter().rev() {
        let path = pins.lock(device, hook);
        pins::remove_link(&path)
            .map_err(|error| Error::new(format_args!("link {}", path.display()), error))?;
    }
    let mut links: HashMap<MapData, u32, u32> = typed(pins, names::LINKS)?;
    remove(pins, names::LINKS, &mut links, &device)?;
    let mut sources: HashMap<MapData, LinkSource, u8> = typed(pins, names::SOURCES)?;
    for address in self::sources(pins, device)? {
        remove(pins, names::SOURCES, &mut sources, &source(device, address))?;
    }
    Ok(())
}

/// The devices of a workload.
pub(super) fn locked(pins: &Pins, workload: u32) -> Result<Vec<u32>, Error> {
    let links: HashMap<MapData, u32, u32> = typed(pins, names::LINKS)?;
    let found: Result<Vec<_>, _> = links.iter().collect();
    let found = found.map_err(|error| pins.map_error(names::LINKS, error))?;
    Ok(found.into_iter().filter(|(_, of)| *of == workload).map(|(device, _)| device).collect())
}

/// A workload's own addresses at a device.
pub(super) fn sources(pins: &Pins, device: u32) -> Result<Vec<IpAddr>, Error> {
    let sources: HashMap<MapData, LinkSource, u8> = typed(pins, names::SOURCES)?;
    let found: Result<Vec<_>, _> = sources.keys().collect();
    let found = found.map_err(|error| pins.map_error(names::SOURCES, error))?;
    let of_device = found.into_iter().filter(|source| source.device() == device);
    Ok(of_device.map(|source| Ipv6Addr::from(source.address()).to_canonical()).collect())
}

/// Whether an address is one of them.
pub(super) fn is_source(capture: &Capture, device: u32, address: IpAddr) -> Result<bool, Error> {
    let known: io::Result<Option<u8>> =
        syscall::if_any(syscall::lookup(&capture.sources, &source(device, address)));
    Ok(known.map_err(|error| capture.pins.map_error(names::SOURCES, error))?.is_some())
}

/// Adds one.
pub(super) fn add_source(pins: &Pins, device: u32, address: IpAddr) -> Result<(), Error> {
    let mut sources: HashMap<MapData, LinkSource, u8> = typed(pins, names::SOURCES)?;
    sources.insert(source(device, address), 1, 0).map_err(|error| pins.map_error(names::SOURCES, error))
}

fn source(device: u32, address: IpAddr) -> LinkSource {
    LinkSource::new(device, Endpoint::from(SocketAddr::new(address, 0)).address())
}

fn typed<K: aya::Pod, V: aya::Pod>(pins: &Pins, name: &'static str) -> Result<HashMap<MapData, K, V>, Error> {
    pins.typed_map(name)?.try_into().map_err(|error: MapError| pins.map_error(name, error))
}

fn remove<K: aya::Pod>(
    pins: &Pins,
    name: &'static str,
    map: &mut HashMap<MapData, K, impl aya::Pod>,
    key: &K,
) -> Result<(), Error> {
    match map.remove(key) {
        Ok(()) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(pins.map_error(name, error)),
    }
}

/// Lets the connections there are go on.
fn seed(pins: &Pins, device: &Device, older: &[Connection]) -> Result<(), Error> {
    let mut flows: HashMap<MapData, Flow, Heard> = typed(pins, names::FLOWS)?;
    let now = syscall::monotonic().map_err(|error| Error::new("CLOCK_MONOTONIC", error))?;
    let heard = Heard::new(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
    for Connection { local, peer, accepted } in older {
        let flow = Flow::new(device.index, IPPROTO_TCP, (*local).into(), (*peer).into());
        let heard = if *accepted { heard } else { heard.older() };
        flows.insert(flow, heard, 0).map_err(|error| pins.map_error(names::FLOWS, error))?;
    }
    Ok(())
}

/// Makes sure that our version of a program is attached to the device, before any other. Returns whether it was.
fn ensure(capture: &Capture, programs: &mut Ebpf, hook: &Hook, device: &Device) -> Result<bool, Error> {
    let pins = &capture.pins;
    let path = pins.lock(device.index, hook);
    let fail = |error: io::Error| failed(hook, &device.name, loader::hint(&error));
    let old = syscall::if_any(syscall::open_pin(&path)).map_err(fail)?;
    if let Some(link) = &old {
        let info = syscall::device_link_info(link).map_err(fail)?;
        let ours = info.kind == BPF_LINK_TYPE_TCX
            && info.device == device.index
            && info.attach_type == hook.attach_type;
        if ours {
            let program = if capture.is_loaded(hook, info.program) {
                info.program
            } else {
                bring_up_to_date(pins, programs, hook, device, link)?;
                syscall::device_link_info(link).map_err(fail)?.program
            };
            if syscall::first_on_device(device.index, hook.attach_type).map_err(fail)? == program {
                return Ok(true);
            }
        }
    }
    let link = match create(programs, hook, &device.name)? {
        Some(link) => link,
        // In the second place, or just being detached by the kernel. A program cannot be attached twice, another copy can.
        None => create(&mut loader::load(pins)?, hook, &device.name)?.ok_or_else(|| {
            failed(hook, &device.name, "a program that was just loaded is attached already")
        })?,
    };
    // The old link goes when the new one is attached and pinned: at no time is the device without.
    let pinning = |error: &dyn std::fmt::Display| {
        failed(hook, &device.name, format!("the link cannot be pinned: {error}"))
    };
    let aside = pins.lock_aside(device.index, hook);
    pins::remove_link(&aside).map_err(|error| pinning(&error))?;
    link.pin(&aside).map_err(|error| pinning(&error))?;
    let attached =
        syscall::open_pin(&aside).and_then(|link| syscall::device_link_info(&link)).map_err(fail)?;
    if attached.device != device.index {
        pins::remove_link(&aside).map_err(|error| pinning(&error))?;
        return Err(failed(hook, &device.name, "the device of this name is another one now"));
    }
    fs::rename(&aside, &path).map_err(|error| pinning(&error))?;
    if let Some(old) = old {
        // Best effort: without its pin the old link goes with our descriptor.
        let _ = syscall::link_detach(&old);
    }
    Ok(false)
}

/// Puts our program behind a link that has another version of it, or one that works on other maps.
fn bring_up_to_date(
    pins: &Pins,
    programs: &mut Ebpf,
    hook: &Hook,
    device: &Device,
    link: &std::os::fd::OwnedFd,
) -> Result<(), Error> {
    let fail = |error: io::Error| failed(hook, &device.name, loader::hint(&error));
    let loaded = |error: ProgramError| failed(hook, &device.name, loader::program(&error));
    let links = syscall::map_id(&pins.open_map(names::LINKS)?).map_err(fail)?;
    let info = syscall::device_link_info(link).map_err(fail)?;
    let behind = syscall::program_info(info.program).map_err(fail)?;
    let program = classifier(programs, hook)?;
    let tag = program.info().map_err(loaded)?.tag().to_be_bytes();
    if behind.tag != tag || !behind.maps.contains(&links) {
        syscall::link_update(link, program.fd().map_err(loaded)?).map_err(fail)?;
    }
    Ok(())
}

/// Attaches a program to the device of that name, before all others. None: this very program is attached there.
pub(super) fn create(programs: &mut Ebpf, hook: &Hook, device: &str) -> Result<Option<FdLink>, Error> {
    let fail = |error: &ProgramError| failed(hook, device, attach_error(error));
    let direction = match hook.attach_type {
        BPF_TCX_INGRESS => TcAttachType::Ingress,
        _ => TcAttachType::Egress,
    };
    let program = classifier(programs, hook)?;
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = match program.attach_with_options(device, direction, first) {
        Err(ProgramError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::AlreadyExists => {
            return Ok(None);
        }
        attached => attached.map_err(|error| fail(&error))?,
    };
    let link = program.take_link(id).map_err(|error| fail(&error))?;
    Ok(Some(link.try_into().map_err(|error| failed(hook, device, error))?))
}

/// The program of a hook in the object.
pub(super) fn classifier<'a>(programs: &'a mut Ebpf, hook: &Hook) -> Result<&'a mut SchedClassifier, Error> {
    match programs.program_mut(hook.program) {
        Some(Program::SchedClassifier(program)) => Ok(program),
        _ => Err(Error::new(
            format_args!("kernel program {}", hook.program),
            "not in the object this agent was built with: build it again from one source tree",
        )),
    }
}

fn failed(hook: &Hook, device: &str, why: impl std::fmt::Display) -> Error {
    Error::new(format_args!("attaching {} to device {device}", hook.program), why)
}

fn attach_error(error: &ProgramError) -> String {
    let error = match error {
        ProgramError::SyscallError(error) => &error.io_error,
        ProgramError::TcError(TcError::IoError(error)) => error,
        error => return error.to_string(),
    };
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => {
            "this kernel has no tcx links, or is built without them (CONFIG_NET_XGRESS); Linux 6.6 is needed"
                .to_owned()
        }
        _ => loader::hint(error),
    }
}

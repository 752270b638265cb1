//! Attaches the programs to a cgroup by pinned links, in the order that leaves no window. Called by `Capture::attach`.
//!
//! `ingress` comes first: it never drops anything, and attaching it makes the cgroup's storage, so that the policy can be written
//! before the first hook that acts on it is there. Then `egress`, the backstop: from then on nothing leaves uncaptured, and what
//! is captured is published. connect comes last: it needs the rest. Detaching goes the other way round, so that the backstop is
//! the last to go.

use std::{
    fmt::Display,
    fs::{self, File},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use agent_common::names;
use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, Program, ProgramError,
        ProgramFd, links::FdLink,
    },
};
use nix::{
    libc,
    sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs},
};

use super::{Capture, Class, Error, WorkloadPolicy, guard, pins, storage, syscall};

const BPF_LINK_TYPE_CGROUP: u32 = 3;

/// A program and the place where it is attached.
pub(super) struct Hook {
    /// Name of the program in the object.
    pub(super) program: &'static str,
    /// Name of the attach type in pins.
    pub(super) name: &'static str,
    /// `enum bpf_attach_type`.
    pub(super) attach_type: u32,
}

impl Hook {
    /// Whether the link with this pin's name is attached here.
    pub(super) fn is_in(&self, pin: &str) -> bool {
        pin.contains(&format!("-{}-{}", self.program, self.name))
    }
}

/// In the order of attachment. Ingress remembers what egress lets pass; the sockets that egress would drop everything of are
/// refused after it is there. recvmsg comes before what sends to the listeners whose answers it shows as the resolvers'.
pub(super) const HOOKS: [Hook; 14] = [
    Hook { program: names::INGRESS, name: "ingress", attach_type: 0 },
    Hook { program: names::EGRESS, name: "egress", attach_type: 1 },
    Hook { program: names::SOCK_CREATE, name: "sock_create", attach_type: 2 },
    Hook { program: names::BIND4, name: "bind4", attach_type: 8 },
    Hook { program: names::BIND6, name: "bind6", attach_type: 9 },
    Hook { program: names::SOCK_RELEASE, name: "sock_release", attach_type: 34 },
    Hook { program: names::RECVMSG4, name: "recvmsg4", attach_type: 19 },
    Hook { program: names::RECVMSG6, name: "recvmsg6", attach_type: 20 },
    Hook { program: names::SENDMSG4, name: "sendmsg4", attach_type: 14 },
    Hook { program: names::SENDMSG6, name: "sendmsg6", attach_type: 15 },
    Hook { program: names::GETPEERNAME4, name: "getpeername4", attach_type: 29 },
    Hook { program: names::GETPEERNAME6, name: "getpeername6", attach_type: 30 },
    Hook { program: names::CONNECT4, name: "connect4", attach_type: 10 },
    Hook { program: names::CONNECT6, name: "connect6", attach_type: 11 },
];

/// Attaches, or brings up to date what is attached, and writes the policy. Returns how many programs were not attached.
pub(super) fn attach(capture: &Capture, cgroup: &Path, policy: &WorkloadPolicy) -> Result<usize, Error> {
    let (directory, inode) = open_cgroup(cgroup)?;
    let target = Target { directory: &directory, cgroup, inode, key: inode.to_string() };
    let mut attachment = Attachment::new(capture, &capture.policies, &target);
    let (first, rest) = HOOKS.split_at(1);
    attachment.ensure(first)?;
    storage::write(&capture.policies, inode, policy).map_err(|error| {
        Error::new(format_args!("policy of cgroup {}", cgroup.display()), super::loader::hint(&error))
    })?;
    attachment.ensure(rest)?;
    if !capture.is_settled(inode) {
        let others = capture.pins.remove_other_links(&target.key);
        others.map_err(|error| Error::new(format_args!("links of cgroup {}", cgroup.display()), error))?;
    }
    // Last: from here on a guard on a parent lets it pass.
    guard::classify(capture, inode, Class::Enrolled)?;
    Ok(attachment.done())
}

/// What one call attaches to one cgroup.
pub(super) struct Attachment<'a> {
    capture: &'a Capture,
    /// The map of cgroup storage that the programs use.
    storage: &'a OwnedFd,
    target: &'a Target<'a>,
    missing: usize,
    rollback: Rollback,
}

impl<'a> Attachment<'a> {
    pub(super) fn new(capture: &'a Capture, storage: &'a OwnedFd, target: &'a Target<'a>) -> Self {
        Self { capture, storage, target, missing: 0, rollback: Rollback { pins: Vec::new() } }
    }

    /// Attaches programs that are not attached, and brings those up to date that are.
    pub(super) fn ensure(&mut self, hooks: &[Hook]) -> Result<(), Error> {
        let Self { capture, storage, target, missing, rollback } = self;
        let mut programs = capture.programs.lock();
        for hook in hooks {
            let was_attached = ensure_link(capture, storage, &mut programs, hook, target, rollback)?;
            *missing += usize::from(!was_attached);
        }
        Ok(())
    }

    /// Keeps it all, and returns how many programs were not attached. What is dropped before is detached again.
    pub(super) fn done(mut self) -> usize {
        self.rollback.pins.clear();
        self.missing
    }
}

/// Opens a cgroup v2 directory; with its inode, which is its key everywhere.
pub(super) fn open_cgroup(cgroup: &Path) -> Result<(File, u64), Error> {
    let fail = |why: String| Error::new(format_args!("cgroup {}", cgroup.display()), why);
    let directory = File::open(cgroup).map_err(|error| fail(error.to_string()))?;
    let file_system = fstatfs(&directory).map_err(|error| fail(error.to_string()))?;
    if file_system.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return Err(fail("not a cgroup v2 directory; capture needs the unified hierarchy".to_owned()));
    }
    let inode = directory.metadata().map_err(|error| fail(error.to_string()))?.ino();
    Ok((directory, inode))
}

/// Where programs are attached.
pub(super) struct Target<'a> {
    pub(super) directory: &'a File,
    pub(super) cgroup: &'a Path,
    pub(super) inode: u64,
    /// What the names of its pins begin with.
    pub(super) key: String,
}

/// Makes sure that our version of a program is attached, by the pinned link if there is one. Returns whether the cgroup
/// had one of ours already.
fn ensure_link(
    capture: &Capture,
    storage: &OwnedFd,
    programs: &mut Ebpf,
    hook: &Hook,
    target: &Target<'_>,
    rollback: &mut Rollback,
) -> Result<bool, Error> {
    let pins = &capture.pins;
    let path = pins.link(&target.key, hook);
    let fail = |why: String| {
        Error::new(format_args!("attaching {} to cgroup {}", hook.program, target.cgroup.display()), why)
    };
    let old = syscall::if_any(syscall::open_pin(&path))
        .map_err(|error| fail(format!("pinned link {}: {}", path.display(), super::loader::hint(&error))))?;
    if let Some(link) = &old {
        let info = syscall::link_info(link).map_err(|error| fail(error.to_string()))?;
        let ours = info.kind == BPF_LINK_TYPE_CGROUP
            && info.cgroup == target.inode
            && info.attach_type == hook.attach_type;
        // As nearly always.
        if ours && capture.is_loaded(hook, info.program) {
            return Ok(true);
        }
        if ours {
            let behind = syscall::program_info(info.program).map_err(|error| fail(error.to_string()))?;
            let storage = syscall::map_id(storage).map_err(|error| fail(error.to_string()))?;
            // Never between programs with different storage maps: the kernel would hand the new one the old memory.
            if behind.maps.contains(&storage) {
                let (program, tag, maps) = loaded(programs, hook)?;
                // Also a program that is the same may tell its events to somebody who is not there any more.
                if behind.tag != tag || behind.maps != maps {
                    syscall::link_update(link, &program).map_err(|error| fail(error.to_string()))?;
                }
                return Ok(true);
            }
        }
    }
    let link = create(programs, hook, target).map_err(|error| fail(attach_error(&error)))?;
    let pinning = |error: &dyn Display| fail(format!("the link cannot be pinned: {error}"));
    let Some(old) = old else {
        link.pin(&path).map_err(|error| pinning(&error))?;
        rollback.pins.push(path);
        return Ok(false);
    };
    // The old link goes when the new one is attached and pinned, and the new one stays even if a later step fails: at no
    // time is an enrolled cgroup without. (It may also be the link of a cgroup that is gone, whose inode was reused.)
    let aside = pins.link_aside(&target.key, hook);
    pins::remove_link(&aside).map_err(|error| pinning(&error))?;
    link.pin(&aside).map_err(|error| pinning(&error))?;
    fs::rename(&aside, &path).map_err(|error| pinning(&error))?;
    // Best effort: without its pin the old link goes with our descriptor.
    let _ = syscall::link_detach(&old);
    Ok(false)
}

/// The program as loaded, the hash of its instructions, and the ids of its maps.
fn loaded(programs: &mut Ebpf, hook: &Hook) -> Result<(ProgramFd, [u8; 8], Vec<u32>), Error> {
    let fail = |error: ProgramError| Error::new(format_args!("kernel program {}", hook.program), error);
    let program = program_mut(programs, hook)?;
    let fd = program.fd().map_err(fail)?;
    let info = program.info().map_err(fail)?;
    let maps = info.map_ids().map_err(fail)?.unwrap_or_default();
    Ok((fd, info.tag().to_be_bytes(), maps))
}

fn create(programs: &mut Ebpf, hook: &Hook, target: &Target<'_>) -> Result<FdLink, Failure> {
    // Links always run beside other programs; "multiple" is for legacy attachments, and refused for links.
    let mode = CgroupAttachMode::Single;
    let cgroup = target.directory.as_fd();
    match program_mut(programs, hook).map_err(|error| Failure::Other(error.to_string()))? {
        LoadableProgram::SockAddr(program) => {
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into().map_err(|_| Failure::NoLinks)
        }
        LoadableProgram::Sock(program) => {
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into().map_err(|_| Failure::NoLinks)
        }
        LoadableProgram::Skb(program) => {
            let direction = program.expected_attach_type().unwrap_or(CgroupSkbAttachType::Egress);
            let id = program.attach(cgroup, direction, mode)?;
            program.take_link(id)?.try_into().map_err(|_| Failure::NoLinks)
        }
    }
}

enum Failure {
    Program(ProgramError),
    NoLinks,
    Other(String),
}

impl From<ProgramError> for Failure {
    fn from(error: ProgramError) -> Self {
        Self::Program(error)
    }
}

fn attach_error(failure: &Failure) -> String {
    match failure {
        Failure::Program(ProgramError::SyscallError(error)) => match error.io_error.raw_os_error() {
            Some(libc::EPERM) => {
                "another program holds the hook exclusively (attached without the multi flag to this cgroup or one above: \
                 `bpftool cgroup tree` shows it), or the agent lacks CAP_NET_ADMIN"
                    .to_owned()
            }
            _ => error.io_error.to_string(),
        },
        Failure::Program(error) => error.to_string(),
        Failure::NoLinks => "this kernel has no BPF links; 5.18 is needed".to_owned(),
        Failure::Other(text) => text.clone(),
    }
}

/// The kinds of programs in the object.
pub(super) enum LoadableProgram<'a> {
    Skb(&'a mut CgroupSkb),
    Sock(&'a mut CgroupSock),
    SockAddr(&'a mut CgroupSockAddr),
}

impl LoadableProgram<'_> {
    pub(super) fn load(&mut self) -> Result<(), ProgramError> {
        match self {
            Self::Skb(program) => program.load(),
            Self::Sock(program) => program.load(),
            Self::SockAddr(program) => program.load(),
        }
    }

    pub(super) fn fd(&self) -> Result<ProgramFd, ProgramError> {
        match self {
            Self::Skb(program) => program.fd()?.try_clone().map_err(Into::into),
            Self::Sock(program) => program.fd()?.try_clone().map_err(Into::into),
            Self::SockAddr(program) => program.fd()?.try_clone().map_err(Into::into),
        }
    }

    pub(super) fn info(&self) -> Result<aya::programs::ProgramInfo, ProgramError> {
        match self {
            Self::Skb(program) => program.info(),
            Self::Sock(program) => program.info(),
            Self::SockAddr(program) => program.info(),
        }
    }
}

/// The program of a hook in the object.
pub(super) fn program_mut<'a>(programs: &'a mut Ebpf, hook: &Hook) -> Result<LoadableProgram<'a>, Error> {
    match programs.program_mut(hook.program) {
        Some(Program::CgroupSkb(program)) => Ok(LoadableProgram::Skb(program)),
        Some(Program::CgroupSock(program)) => Ok(LoadableProgram::Sock(program)),
        Some(Program::CgroupSockAddr(program)) => Ok(LoadableProgram::SockAddr(program)),
        _ => Err(Error::new(
            format_args!("kernel program {}", hook.program),
            "not in the object this agent was built with: build it again from one source tree",
        )),
    }
}

/// The hooks of workloads, and of guarded parents.
pub(super) fn all_hooks() -> impl Iterator<Item = &'static Hook> {
    HOOKS.iter().chain(&guard::HOOKS)
}

/// Where the link with this pin's name is in the order of attachment; None: it is not one of ours.
pub(super) fn position(pin: &str) -> Option<usize> {
    all_hooks().position(|hook| hook.is_in(pin))
}

/// Whether the link with this pin's name sends connections to a listener.
pub(super) fn captures(pin: &str) -> bool {
    [names::CONNECT4, names::CONNECT6].iter().any(|program| pin.contains(&format!("-{program}-")))
}

/// Takes back what was attached by a call that fails, last first: connect before what it needs.
struct Rollback {
    pins: Vec<PathBuf>,
}

impl Drop for Rollback {
    fn drop(&mut self) {
        for path in self.pins.drain(..).rev() {
            if let Err(error) = pins::remove_link(&path) {
                tracing::error!(path = %path.display(), %error, "link not removed; its cgroup refuses connections");
            }
        }
    }
}

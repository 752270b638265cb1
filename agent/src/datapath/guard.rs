//! Strict start: programs on a parent of workloads' cgroups, and the table of the cgroups that are classified. Called by
//! `Capture`. Who is ours is `node`'s business; what is refused is written down in `agent/ARCHITECTURE.md`, "Strict start".

use std::{collections::HashMap, fs, io, num::NonZeroU32, os::unix::fs::MetadataExt as _, path::Path};

use agent_common::{Guard, names};
use aya::maps::{MapData, MapError};

use super::{
    Capture, Error,
    attach::{Attachment, Hook, Target, open_cgroup},
    loader, syscall, versions,
};

/// In the order of attachment. All of them let everything pass until the levels are written.
pub(super) const HOOKS: [Hook; 5] = [
    Hook { program: names::GUARD_EGRESS, name: "egress", attach_type: 1 },
    Hook { program: names::GUARD_SENDMSG4, name: "sendmsg4", attach_type: 14 },
    Hook { program: names::GUARD_SENDMSG6, name: "sendmsg6", attach_type: 15 },
    Hook { program: names::GUARD_CONNECT4, name: "connect4", attach_type: 10 },
    Hook { program: names::GUARD_CONNECT6, name: "connect6", attach_type: 11 },
];

/// What the pins of a guard begin with.
const PREFIX: &str = "guard";

/// What a cgroup below a guarded parent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Its own programs are attached.
    Enrolled,
    /// It is left alone.
    NotOurs,
}

/// How far below a guarded parent cgroups are classified; 1 is its children. Whoever is above that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depths {
    /// The depth.
    pub first: NonZeroU32,
    /// A second one, where not all are equally deep.
    pub second: Option<NonZeroU32>,
}

impl Depths {
    /// The children.
    pub const CHILDREN: Self = Self { first: NonZeroU32::MIN, second: None };
    /// The children and their children: pods below `kubepods`, of which the guaranteed ones sit one level higher.
    pub const TWO: Self = Self { first: NonZeroU32::MIN, second: NonZeroU32::new(2) };
}

/// Attaches the programs, or brings them up to date, and writes the levels. Returns how many programs were not attached.
pub(super) fn attach(capture: &Capture, parent: &Path, depths: Depths) -> Result<usize, Error> {
    let fail = |why: String| Error::new(format_args!("guard of cgroup {}", parent.display()), why);
    let (directory, inode) = open_cgroup(parent)?;
    let level = level(parent, || capture.own_cgroups()).map_err(fail)?;
    let target = Target { directory: &directory, cgroup: parent, inode, key: key(inode) };
    if !capture.pins.link(&target.key, &HOOKS[0]).exists() {
        refuse_inhabited(parent).map_err(fail)?;
    }
    let below = |depth: NonZeroU32| level + depth.get();
    let guard = Guard::new(below(depths.first), depths.second.map_or(0, below));

    let mut attachment = Attachment::new(capture, &capture.guards, &target);
    let (first, rest) = HOOKS.split_at(1);
    attachment.ensure(first)?;
    attachment.ensure(rest)?;
    syscall::update(&capture.guards, &inode, &guard).map_err(|error| fail(loader::hint(&error)))?;
    let missing = attachment.done();
    versions::replace(&capture.root, &target.key).map_err(|error| fail(error.to_string()))?;
    Ok(missing)
}

/// Detaches the programs, of every layout version.
pub(super) fn detach(capture: &Capture, parent_inode: u64) -> Result<(), Error> {
    versions::detach(&capture.root, &key(parent_inode))
        .map_err(|error| Error::new(format_args!("guard of cgroup {parent_inode}"), error))
}

/// The inodes in the names of the pins, of every layout version.
pub(super) fn guarded(capture: &Capture) -> Result<Vec<u64>, Error> {
    let links = versions::link_names(&capture.root)
        .map_err(|error| Error::new("pinned links of guarded cgroups", error))?;
    let mut inodes: Vec<u64> = links
        .iter()
        .filter_map(|name| name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-').next()?.parse().ok())
        .collect();
    inodes.sort_unstable();
    inodes.dedup();
    Ok(inodes)
}

/// Writes an entry.
pub(super) fn classify(capture: &Capture, cgroup_inode: u64, class: Class) -> Result<(), Error> {
    let value = match class {
        Class::Enrolled => names::CLASS_ENROLLED,
        Class::NotOurs => names::CLASS_NOT_OURS,
    };
    syscall::update(&capture.classes, &cgroup_inode, &value).map_err(|error| {
        let why = match error.raw_os_error() {
            Some(nix::libc::E2BIG) => {
                format!(
                    "{} cgroups are classified, which is all that there is room for",
                    names::CLASSES_CAPACITY
                )
            }
            _ => error.to_string(),
        };
        capture.pins.map_error(names::CLASSES, why)
    })
}

/// Removes an entry.
pub(super) fn forget(capture: &Capture, cgroup_inode: u64) -> Result<(), Error> {
    match table(capture)?.remove(&cgroup_inode) {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|error| capture.pins.map_error(names::CLASSES, error)),
    }
}

/// Reads all entries.
pub(super) fn classes(capture: &Capture) -> Result<HashMap<u64, Class>, Error> {
    let fail = |error: MapError| capture.pins.map_error(names::CLASSES, error);
    let class = |value| if value == names::CLASS_ENROLLED { Class::Enrolled } else { Class::NotOurs };
    table(capture)?
        .iter()
        .map(|entry| entry.map(|(inode, value)| (inode, class(value))).map_err(fail))
        .collect()
}

fn table(capture: &Capture) -> Result<aya::maps::HashMap<MapData, u64, u8>, Error> {
    let fail = |error: MapError| capture.pins.map_error(names::CLASSES, error);
    capture.pins.typed_map(names::CLASSES)?.try_into().map_err(fail)
}

fn key(parent_inode: u64) -> String {
    format!("{PREFIX}-{parent_inode}")
}

/// Writes an entry, whoever made the table.
pub(super) fn admit(root: &Path, cgroup_inode: u64) -> Result<(), Error> {
    let admit = || {
        for pins in versions::every(root)? {
            let table = match syscall::open_pin(&pins.map(names::CLASSES)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                table => table?,
            };
            syscall::update(&table, &cgroup_inode, &names::CLASS_NOT_OURS)?;
        }
        Ok(())
    };
    admit().map_err(|error: io::Error| {
        Error::new(format_args!("admitting cgroup {cgroup_inode} past strict start"), loader::hint(&error))
    })
}

/// How far below the root of the whole tree a cgroup is. Only that root has no `cgroup.events`. Where a part of the tree is
/// mounted, as in containers and cgroup namespaces, the kernel tells how deep that part is: `own` are the cgroups that this process is
/// in.
fn level(cgroup: &Path, own: impl FnOnce() -> Result<Vec<u64>, Error>) -> Result<u32, String> {
    let path = cgroup.canonicalize().map_err(|error| error.to_string())?;
    let device = |path: &Path| fs::metadata(path).map(|directory| directory.dev()).ok();
    let here = device(&path);
    let root = path.ancestors().take_while(|above| device(above) == here).last().unwrap_or(&path);
    let above = if root.join("cgroup.events").exists() {
        let part = fs::metadata(root).map_err(|error| error.to_string())?.ino();
        let own = own().map_err(|error| error.to_string())?;
        own.iter().position(|inode| *inode == part).ok_or_else(|| {
            format!(
                "{} shows only a part of the machine's cgroups, and not the one that this process is in, so it cannot be seen \
                 how deep it is; mount the whole hierarchy there",
                root.display()
            )
        })?
    } else {
        0
    };
    let depth = path.strip_prefix(root).map_or(0, |below| below.components().count());
    u32::try_from(above + depth).map_err(|error| error.to_string())
}

/// Processes directly in the parent are above every level at which cgroups are classified, so they would be refused.
fn refuse_inhabited(parent: &Path) -> Result<(), String> {
    match fs::read_to_string(parent.join("cgroup.procs")) {
        Ok(processes) if processes.is_empty() => Ok(()),
        Ok(processes) => Err(format!(
            "{} processes are directly in it and would be refused; move them to a child first",
            processes.lines().count()
        )),
        Err(error) => Err(format!("cgroup.procs: {error}")),
    }
}

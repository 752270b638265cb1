//! Trial runs for `egret doctor`: whether this kernel takes the programs, and what others have on the hooks. Everything
//! made here goes when the call returns; nothing is attached or pinned.

use std::{collections::HashSet, path::Path};

use aya::programs::{LsmAttachType, ProgramInfo, ProgramType};

use super::{
    Error,
    attach::{HOOKS, Hook, all_hooks, open_cgroup, program_mut},
    levels, link, loader, syscall,
    verifier::Instructions,
};
pub use super::{loader::Callers, verifier::Statistics};

/// `BPF_F_ALLOW_OVERRIDE` and `BPF_F_ALLOW_MULTI`: an attachment with neither tolerates no other below it.
const SHARED: u32 = 1 | 2;

/// One program, loaded and thrown away.
#[derive(Debug)]
pub struct Trial {
    /// Name of the program.
    pub program: &'static str,
    /// Whether the kernel took it, and what that took.
    pub outcome: Result<Statistics, Error>,
}

/// Programs that somebody attached to a hook of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Name of the attach type.
    pub hook: &'static str,
    /// How many programs.
    pub programs: u32,
    /// An old-style attachment that makes ours below it fail.
    pub exclusive: bool,
}

/// Loads every program of Egret by itself, on maps of its own. An error: not even the maps can be made.
pub fn load_each(callers: Callers) -> Result<Vec<Trial>, Error> {
    let what = "loading the kernel programs";
    let mut object = loader::object_with(None, callers)?;
    let refused = |hook: &Hook, error| {
        Error::new(format_args!("kernel program {}", hook.program), loader::program(&error))
    };
    let mut taken = Vec::new();
    for hook in all_hooks().chain([&levels::PROGRAM]) {
        let info = program_mut(&mut object, hook).and_then(|mut program| {
            program.load().and_then(|()| program.info()).map_err(|error| refused(hook, error))
        });
        taken.push((hook.program, hook.attach_type, info));
    }
    for hook in &link::HOOKS {
        let info = link::classifier(&mut object, hook).and_then(|program| {
            program.load().and_then(|()| program.info()).map_err(|error| refused(hook, error))
        });
        taken.push((hook.program, hook.attach_type, info));
    }
    let infos = taken.iter().filter_map(|(.., info)| info.as_ref().ok());
    let maps: HashSet<u32> = infos.filter_map(|info| info.map_ids().ok()??.into()).flatten().collect();
    let instructions =
        Instructions::of(loader::OBJECT, maps).map_err(|error| Error::new(what, loader::hint(&error)))?;
    let trial = |(program, attach_type, info): (_, _, Result<ProgramInfo, Error>)| {
        let outcome = info.and_then(|info| {
            let kind = info.program_type() as u32;
            instructions
                .statistics(program, kind, attach_type)
                .map_err(|error| Error::new(format_args!("statistics of {program}"), loader::hint(&error)))
        });
        Trial { program, outcome }
    };
    Ok(taken.into_iter().map(trial).collect())
}

/// Whether the kernel loads LSM programs for cgroups. (Whether they run depends on the list of active modules, too.)
pub fn lsm_cgroup() -> Result<bool, Error> {
    aya::sys::is_program_supported(ProgramType::Lsm(LsmAttachType::Cgroup))
        .map_err(|error| Error::new("loading an LSM program", loader::program(&error)))
}

/// Whether the kernel takes a lock on the device of that name: attached and taken away again. For a device that carries
/// nothing.
pub fn lock(device: &str) -> Result<(), Error> {
    let mut object = loader::object_with(None, Callers::NotAsked)?;
    for hook in &link::HOOKS {
        link::classifier(&mut object, hook)?.load().map_err(|error| {
            Error::new(format_args!("kernel program {}", hook.program), loader::program(&error))
        })?;
        link::create(&mut object, hook, device)?;
    }
    Ok(())
}

/// What is attached to the hooks of Egret at `cgroup` itself.
pub fn neighbours(cgroup: &Path) -> Result<Vec<Neighbour>, Error> {
    let (directory, _) = open_cgroup(cgroup)?;
    let mut found = Vec::new();
    for hook in &HOOKS {
        let (flags, programs) = syscall::attached(&directory, hook.attach_type).map_err(|error| {
            Error::new(
                format_args!("programs on {} of {}", hook.name, cgroup.display()),
                loader::hint(&error),
            )
        })?;
        if programs > 0 {
            found.push(Neighbour { hook: hook.name, programs, exclusive: flags & SHARED == 0 });
        }
    }
    Ok(found)
}

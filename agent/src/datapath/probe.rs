//! Trial runs for `egret doctor`: whether this kernel takes the programs, and what others have on the hooks. Everything
//! made here goes when the call returns; nothing is attached or pinned.

use std::path::Path;

use aya::{
    EbpfLoader,
    programs::{LsmAttachType, ProgramType},
};

use super::{
    Error,
    attach::{HOOKS, all_hooks, open_cgroup, program_mut},
    loader, syscall,
};

/// `BPF_F_ALLOW_OVERRIDE` and `BPF_F_ALLOW_MULTI`: an attachment with neither tolerates no other below it.
const SHARED: u32 = 1 | 2;

/// One program, loaded and thrown away.
#[derive(Debug)]
pub struct Trial {
    /// Name of the program.
    pub program: &'static str,
    /// Whether the kernel took it.
    pub outcome: Result<(), Error>,
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

/// Loads every program of Egret on maps of its own. An error: not even the maps can be made.
pub fn load_each() -> Result<Vec<Trial>, Error> {
    let mut object = EbpfLoader::new()
        .load(loader::OBJECT)
        .map_err(|error| Error::new("loading the kernel programs", loader::object(&error)))?;
    let mut trial = |hook| {
        program_mut(&mut object, hook)?.load().map_err(|error| {
            Error::new(format_args!("kernel program {}", hook.program), loader::program(&error))
        })
    };
    Ok(all_hooks().map(|hook| Trial { program: hook.program, outcome: trial(hook) }).collect())
}

/// Whether the kernel loads LSM programs for cgroups. (Whether they run depends on the list of active modules, too.)
pub fn lsm_cgroup() -> Result<bool, Error> {
    aya::sys::is_program_supported(ProgramType::Lsm(LsmAttachType::Cgroup))
        .map_err(|error| Error::new("loading an LSM program", loader::program(&error)))
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

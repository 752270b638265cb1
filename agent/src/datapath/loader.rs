//! Loads the embedded object: maps from their pins or new, programs through the verifier. Called by `Capture::load`.

use std::{collections::HashMap, io, path::Path};

use agent_common::names;
use aya::{Ebpf, EbpfError, EbpfLoader, maps::MapError, programs::ProgramError};
use nix::libc;

use super::{
    Error,
    attach::{all_hooks, program_mut},
    levels, link,
    pins::{self, Pins},
    syscall,
};

/// Built by `agent/build.rs`.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/egret-ebpf"));

const PRIVILEGES: &str = "the kernel refuses it: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (CAP_SYS_ADMIN for namespaces)";

/// Lines of the verifier's log that are shown: its end says what is wrong, the rest is the whole program.
const LOG_LINES: usize = 4;

/// Whether the programs ask who is calling. Linux before 6.1 does not let all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// They do.
    Asked,
    /// They do not: flows have no process.
    NotAsked,
}

/// Loads the programs on the maps under `pins`.
pub(super) fn load(pins: &Pins) -> Result<Ebpf, Error> {
    load_with(pins, Callers::Asked).or_else(|first| {
        let programs = load_with(pins, Callers::NotAsked).map_err(|_| first)?;
        tracing::warn!("this kernel does not let the programs ask who is calling: flows have no process");
        Ok(programs)
    })
}

fn load_with(pins: &Pins, callers: Callers) -> Result<Ebpf, Error> {
    pins.check_shapes()?;
    let mut programs = object_with(Some(pins), callers)?;
    // Also what was made just now: the table of shapes and the object must not drift apart.
    pins.check_shapes()?;
    for hook in all_hooks().chain([&levels::PROGRAM]) {
        program_mut(&mut programs, hook)?
            .load()
            .map_err(|error| Error::new(format_args!("kernel program {}", hook.program), program(&error)))?;
    }
    for hook in &link::HOOKS {
        link::classifier(&mut programs, hook)?
            .load()
            .map_err(|error| Error::new(format_args!("kernel program {}", hook.program), program(&error)))?;
    }
    Ok(programs)
}

/// The kernel's ids of loaded programs, by name.
pub(super) fn ids(programs: &mut Ebpf) -> Result<HashMap<&'static str, u32>, Error> {
    let fail = |name, error: ProgramError| Error::new(format_args!("kernel program {name}"), program(&error));
    let mut ids = HashMap::new();
    for hook in all_hooks() {
        let info = program_mut(programs, hook)?.info().map_err(|error| fail(hook.program, error))?;
        ids.insert(hook.program, info.id());
    }
    for hook in &link::HOOKS {
        let info = link::classifier(programs, hook)?.info().map_err(|error| fail(hook.program, error))?;
        ids.insert(hook.program, info.id());
    }
    Ok(ids)
}

/// The object with its maps made, or those under `pins`; no program is loaded yet.
pub(super) fn object_with(pins: Option<&Pins>, callers: Callers) -> Result<Ebpf, Error> {
    let node = syscall::network_cookie()
        .map_err(|error| Error::new("the cookie of the agent's network namespace", hint(&error)))?;
    let mut loader = EbpfLoader::new();
    if let Some(pins) = pins {
        for name in pins::map_names() {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    loader
        .override_global(names::NODE, &node, true)
        .override_global(names::PROCESSES, if callers == Callers::Asked { &1_u8 } else { &0_u8 }, true)
        .load(OBJECT)
        .map_err(|error| Error::new("loading the kernel programs", object(&error)))
}

fn object(error: &EbpfError) -> String {
    match error {
        EbpfError::MapError(MapError::CreateError { name, io_error }) => {
            format!("map {name} cannot be made: {}", hint(io_error))
        }
        EbpfError::ProgramError(error) => program(error),
        other => chain(other),
    }
}

pub(super) fn program(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return chain(error) };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return hint(io_error);
    }
    // The very last lines are statistics, if the verifier came that far.
    let end =
        lines.iter().rposition(|line| !line.starts_with("processed ")).map_or(lines.len(), |last| last + 1);
    let shown = &lines[end.saturating_sub(LOG_LINES)..end];
    format!(
        "the kernel's verifier rejects it ({io_error}): {}; this kernel is not supported",
        shown.join(" / ")
    )
}

/// What an errno of `bpf(2)` means for an operator.
pub(super) fn hint(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => PRIVILEGES.to_owned(),
        Some(libc::ENOSYS | libc::ENODEV) => {
            "this kernel is built without bpf(2) (CONFIG_BPF_SYSCALL)".to_owned()
        }
        Some(libc::EINVAL) if !Path::new("/sys/kernel/btf/vmlinux").exists() => {
            format!(
                "{error}; this kernel has no BTF (CONFIG_DEBUG_INFO_BTF), and is probably too old: 5.18 is needed"
            )
        }
        _ => error.to_string(),
    }
}

/// An error of aya with its causes; its own text leaves them out. Errno of a cause is explained.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.downcast_ref::<io::Error>().map_or_else(|| error.to_string(), hint);
        if !text.contains(&why) {
            text = format!("{text}: {why}");
        }
        cause = error.source();
    }
    text
}

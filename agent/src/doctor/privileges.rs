//! What this process may do: capabilities by name, and how many files it may open.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

use super::Check;

/// Bits of `CapEff` (linux/capability.h), with what each is for. CAP_BPF and CAP_PERFMON are not among them: the kernel takes
/// CAP_SYS_ADMIN for both.
const NEEDED: [(u32, &str, &str); 4] = [
    (21, "CAP_SYS_ADMIN", "loads and attaches the kernel programs, and enters workloads' network namespaces"),
    (12, "CAP_NET_ADMIN", "ends sockets that are not captured"),
    (19, "CAP_SYS_PTRACE", "finds the network namespaces of processes with other users"),
    (2, "CAP_DAC_READ_SEARCH", "finds their sockets"),
];

/// A connection of a workload costs the agent two descriptors and the gateway two.
const FILES: u64 = 65_536;

/// Capabilities and limits.
pub(super) fn checks() -> Vec<Check> {
    vec![
        capabilities(&fs::read_to_string("/proc/thread-self/status").unwrap_or_default()),
        files(open_files()),
    ]
}

fn capabilities(status: &str) -> Check {
    const NAME: &str = "capabilities";
    const REMEDY: &str = "run egret as root, or give the agent these capabilities";
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()) else {
        return Check::error(NAME, "CapEff cannot be read from /proc/thread-self/status", "mount /proc");
    };
    let (held, missing): (Vec<_>, Vec<_>) = NEEDED.iter().partition(|(bit, ..)| effective & (1 << bit) != 0);
    if missing.is_empty() {
        let names: Vec<&str> = held.iter().map(|(_, name, _)| *name).collect();
        return Check::ok(NAME, format!("has {}", names.join(", ")));
    }
    let missing: Vec<String> = missing.iter().map(|(_, name, why)| format!("{name} ({why})")).collect();
    Check::error(NAME, format!("lacks {}", missing.join(", ")), REMEDY)
}

/// The hard limit: agent and gateway raise the soft one to it.
fn open_files() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(_, hard)| hard)
}

fn files(limit: Option<u64>) -> Check {
    const NAME: &str = "open files";
    match limit {
        Some(limit) if limit >= FILES => Check::ok(NAME, format!("at most {limit}")),
        Some(limit) => Check::warning(
            NAME,
            format!("at most {limit}, which is about {} connections at a time", limit / 2),
            format!("raise the limit (LimitNOFILE= of the unit, or ulimit -Hn) to {FILES}"),
        ),
        None => Check::warning(NAME, "the limit cannot be read", "see getrlimit(2)"),
    }
}

#[cfg(test)]
mod tests {
    use super::{capabilities, files};
    use crate::doctor::Status;

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n").status, Status::Ok);
        assert_eq!(capabilities("CapEff:\t0000000000281004\n").status, Status::Ok, "what the chart gives");
        let without_ptrace = capabilities("CapEff:\t0000000000201004\n");
        assert_eq!(without_ptrace.status, Status::Error);
        assert_eq!(
            without_ptrace.finding,
            "lacks CAP_SYS_PTRACE (finds the network namespaces of processes with other users)"
        );
        assert!(capabilities("CapEff:\t0\n").finding.contains("CAP_NET_ADMIN"));
        assert_eq!(capabilities("").status, Status::Error);
    }

    #[test]
    fn few_files_are_a_warning() {
        assert_eq!(files(Some(1 << 20)).status, Status::Ok);
        assert_eq!(files(Some(1024)).status, Status::Warning);
        assert!(files(Some(1024)).finding.contains("512 connections"));
    }
}

//! Whose a network namespace is: that of the process which has been in it for longest. A workload's process may go into somebody
//! else's, and somebody else's may come into the workload's; neither changes whose it is. Asked by `node::lock`.

use std::{fs, io, path::PathBuf};

use super::netns::NamespaceId;

/// A process in a namespace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resident {
    /// Its number.
    pub(super) process: u32,
    /// Its cgroup of version 2, below the root of the hierarchy.
    pub(super) cgroup: PathBuf,
}

/// The process that is oldest of those in a namespace. None: nobody is there, or not any more.
pub(super) fn oldest(namespace: NamespaceId) -> io::Result<Option<Resident>> {
    let mut oldest: Option<(u64, Resident)> = None;
    for entry in fs::read_dir("/proc")? {
        let Some(process) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that ends meanwhile is in none.
        let Some((started, resident)) = resident(process, namespace) else { continue };
        if oldest.as_ref().is_none_or(|(before, _)| started < *before) {
            oldest = Some((started, resident));
        }
    }
    Ok(oldest.map(|(_, resident)| resident))
}

fn resident(process: u32, namespace: NamespaceId) -> Option<(u64, Resident)> {
    let directory = PathBuf::from(format!("/proc/{process}"));
    if NamespaceId::of(&directory.join("ns/net")).ok()? != namespace {
        return None;
    }
    let started = start_time(&fs::read_to_string(directory.join("stat")).ok()?)?;
    let cgroups = fs::read_to_string(directory.join("cgroup")).ok()?;
    let cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    Some((started, Resident { process, cgroup: cgroup.into() }))
}

/// Field 22 of proc_pid_stat(5), clock ticks since the machine was started. The second field, the name of the program, may have
/// blanks and parentheses in it.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{oldest, start_time};
    use crate::node::netns::NamespaceId;

    #[test]
    fn the_start_is_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4242 99 98";
        assert_eq!(start_time(stat), Some(4242));
        assert_eq!(start_time("7 (a"), None);
    }

    #[test]
    fn this_namespace_is_somebodys_who_is_not_younger_than_we() {
        let found = oldest(NamespaceId::of_agent().unwrap()).unwrap().unwrap();
        let started = |process: u32| {
            start_time(&std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap()).unwrap()
        };
        assert!(started(found.process) <= started(std::process::id()));
    }
}

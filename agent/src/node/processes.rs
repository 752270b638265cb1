//! The processes of a cgroup, and the network namespaces they are in. Asked by `node::presence`, and by `node::foreign` whether
//! Egret itself is among them.
//!
//! A process number may be used again between two steps here, so what was opened by number is checked afterwards.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    cgroup::is_gone,
    netns::{Namespace, NamespaceId},
};

/// The processes in a cgroup and in those below it.
pub(super) fn of_cgroup(cgroup: &Path) -> io::Result<Vec<u32>> {
    let mut processes = Vec::new();
    let mut directories = vec![cgroup.to_owned()];
    while let Some(directory) = directories.pop() {
        match fs::read_to_string(directory.join("cgroup.procs")) {
            // 0 stands for a process that our own process namespace does not show.
            Ok(text) => {
                let listed = text.lines().filter_map(|line| line.parse::<u32>().ok());
                processes.extend(listed.filter(|process| *process != 0));
            }
            // A threaded cgroup: its processes are listed further up.
            Err(e) if e.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {}
            Err(e) if is_gone(&e) && directory != cgroup => continue,
            Err(e) => return Err(e),
        }
        match fs::read_dir(&directory) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry?;
                    if entry.file_type()?.is_dir() {
                        directories.push(entry.path());
                    }
                }
            }
            Err(e) if is_gone(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(processes)
}

/// The network namespaces that processes of the cgroup are in, each with a process that is. A thread that left its process's
/// namespace is not looked for: it is refused where nobody else of the workload is.
pub(super) fn namespaces(cgroup: &Path) -> io::Result<BTreeMap<NamespaceId, u32>> {
    let mut found = BTreeMap::new();
    for process in of_cgroup(cgroup)? {
        match NamespaceId::of(&namespace_of(process)) {
            Ok(id) => {
                found.entry(id).or_insert(process);
            }
            // Nobody knows where it is, so it must not count as being nowhere: the workload would seem to be in the agent's own.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                let why = format!(
                    "process {process} may be in any network namespace ({e}): give the agent CAP_SYS_PTRACE"
                );
                return Err(io::Error::new(e.kind(), why));
            }
            // One that has ended meanwhile, or is a zombie, is in none.
            Err(_) => {}
        }
    }
    Ok(found)
}

/// Opens the namespace that `process` was found in; nothing when it has ended meanwhile, or has gone elsewhere.
pub(super) fn open(cgroup: &Path, process: u32, id: NamespaceId) -> io::Result<Option<Namespace>> {
    let namespace = match Namespace::open(&namespace_of(process)) {
        Ok(namespace) => namespace,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    // Still a process of the cgroup, so it was no other's namespace that was opened.
    Ok((namespace.id() == id && of_cgroup(cgroup)?.contains(&process)).then_some(namespace))
}

fn namespace_of(process: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{process}/ns/net"))
}

#[cfg(test)]
mod tests {
    use std::{fs, process};

    use super::{namespaces, of_cgroup, open};
    use crate::node::netns::NamespaceId;

    #[test]
    fn processes_of_the_whole_tree_and_the_namespaces_they_are_in() {
        // A directory that looks like a cgroup: nothing here needs a real one.
        let cgroup = tempfile::tempdir().unwrap();
        fs::create_dir_all(cgroup.path().join("a/b")).unwrap();
        // 0 is nobody, and no process has the last number.
        fs::write(cgroup.path().join("cgroup.procs"), "0\n4194304\n").unwrap();
        fs::write(cgroup.path().join("a/cgroup.procs"), "").unwrap();
        fs::write(cgroup.path().join("a/b/cgroup.procs"), format!("{}\n", process::id())).unwrap();
        assert_eq!(of_cgroup(cgroup.path()).unwrap(), [4_194_304, process::id()]);
        let own = NamespaceId::of_agent().unwrap();
        let found = namespaces(cgroup.path()).unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [(own, process::id())]);

        assert_eq!(open(cgroup.path(), process::id(), own).unwrap().unwrap().id(), own);
        assert!(open(cgroup.path(), 4_194_304, own).unwrap().is_none(), "it has ended");
        fs::write(cgroup.path().join("a/b/cgroup.procs"), "").unwrap();
        assert!(open(cgroup.path(), process::id(), own).unwrap().is_none(), "it has left the cgroup");
    }

    #[test]
    fn a_cgroup_that_is_gone_is_an_error_and_not_empty() {
        let directory = tempfile::tempdir().unwrap();
        assert!(of_cgroup(&directory.path().join("gone")).is_err());
    }
}

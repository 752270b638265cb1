//! Which processes of a workload have which sockets, by their descriptors in `/proc`. Called by `watch` and `foreign`. Blocks.
//!
//! Best effort: processes come and go while it looks, and there is a limit to how much is looked at.

use std::{
    collections::HashMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// Descriptors that are looked at in one go: some tenths of a second.
const MAX_DESCRIPTORS: usize = 100_000;

/// A process that has a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its id, in the agent's namespace.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// The inodes of the sockets that processes in these cgroups have, with one process for each.
pub(super) fn sockets(cgroups: &[PathBuf]) -> HashMap<u32, Holder> {
    let mut held = HashMap::new();
    let mut left = MAX_DESCRIPTORS;
    for cgroup in cgroups {
        let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        for pid in processes.lines().filter_map(|line| line.parse().ok()) {
            // A process that ends meanwhile has none.
            let _ = of_process(pid, &mut left, &mut held);
            if left == 0 {
                tracing::warn!("processes have too many descriptors: the sockets of some are not looked at");
                return held;
            }
        }
    }
    held
}

fn of_process(pid: u32, left: &mut usize, held: &mut HashMap<u32, Holder>) -> io::Result<()> {
    let process = Path::new("/proc").join(pid.to_string());
    let mut name = None;
    for descriptor in fs::read_dir(process.join("fd"))? {
        *left = left.saturating_sub(1);
        if *left == 0 {
            break;
        }
        let Some(inode) = fs::read_link(descriptor?.path()).ok().and_then(|target| inode(&target)) else {
            continue;
        };
        let name = name.get_or_insert_with(|| {
            fs::read_to_string(process.join("comm")).unwrap_or_default().trim_end().to_owned()
        });
        held.entry(inode).or_insert_with(|| Holder { pid, name: name.clone() });
    }
    Ok(())
}

/// The inode in `socket:[12345]` (proc_pid_fd(5)).
fn inode(target: &Path) -> Option<u32> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::inode;

    #[test]
    fn only_sockets_have_an_inode_here() {
        assert_eq!(inode(Path::new("socket:[494679]")), Some(494_679));
        for other in ["pipe:[1]", "/dev/null", "anon_inode:[eventpoll]", "socket:[x]"] {
            assert_eq!(inode(Path::new(other)), None, "{other}");
        }
    }
}

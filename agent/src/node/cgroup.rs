//! cgroup v2 directories of workloads: where they are made, whether anything runs in them, how they end.
//!
//! `node::agent` makes and removes them; `cli::exec` moves its command into one. Attaches nothing: that is `datapath`.

use std::{
    fs, io,
    io::{Read as _, Seek as _, SeekFrom},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::io::{Interest, unix::AsyncFd};

/// The cgroup v2 hierarchy of this machine.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    root: PathBuf,
}

impl Hierarchy {
    /// Finds the mount. On hybrid hosts it is usually `/sys/fs/cgroup/unified`, else `/sys/fs/cgroup`.
    pub fn find() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        mount_point(&mounts).map(|root| Self { root }).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "no cgroup v2 hierarchy is mounted; mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified` \
                 (or boot with systemd.unified_cgroup_hierarchy=1)",
            )
        })
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory under which one Egret instance makes its workloads' cgroups.
    pub fn instance(&self, name: &str) -> PathBuf {
        self.all_instances().join(name)
    }

    /// The directory under which every Egret instance of the machine makes cgroups.
    pub fn all_instances(&self) -> PathBuf {
        self.root.join("egret")
    }

    /// Ends everything that runs in the cgroups of an instance and removes them, and the common parent when no other
    /// instance is left. What enters meanwhile is ended as well: nothing is alive in a cgroup that is gone.
    pub async fn end_instance(&self, name: &str) -> io::Result<()> {
        loop {
            let ended = async {
                let cgroup = Cgroup::open(self.instance(name))?;
                cgroup.kill()?;
                cgroup.wait_populated(false).await?;
                cgroup.remove()
            };
            match ended.await {
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {}
                Err(e) if !is_gone(&e) => return Err(e),
                _ => break,
            }
        }
        match fs::remove_dir(self.all_instances()) {
            Err(e)
                if !matches!(
                    e.raw_os_error(),
                    Some(nix::libc::ENOENT | nix::libc::EBUSY | nix::libc::ENOTEMPTY)
                ) =>
            {
                Err(e)
            }
            _ => Ok(()),
        }
    }
}

/// The mount point of the cgroup2 file system in a mountinfo listing (proc_pid_mountinfo(5)) that shows the most; of those that show the
/// same, the first. A container may have its own cgroup mounted beside the machine's hierarchy.
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        (source.split(' ').next()? == "cgroup2").then_some((root, PathBuf::from(at)))
    });
    mounts.min_by_key(|(root, _)| depth(root)).map(|(_, at)| at)
}

/// How deep the root of a mount is, as seen from the root of the cgroup namespace: what is above that is `/..`, `/../..`.
fn depth(root: &str) -> isize {
    root.split('/')
        .map(|step| match step {
            "" => 0,
            ".." => -1,
            _ => 1,
        })
        .sum()
}

/// The cgroup of one workload.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
    inode: u64,
    /// Held open; this does not keep the kernel from removing it.
    directory: Arc<fs::File>,
}

impl Cgroup {
    /// Makes the directory, parents included.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::create_dir(&path)?;
        Self::open(path)
    }

    /// An existing directory.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let directory = fs::File::open(&path)?;
        let inode = directory.metadata()?.ino();
        Ok(Self { path, inode, directory: Arc::new(directory) })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path to this very directory, whatever has its name by now.
    pub fn path_by_descriptor(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()))
    }

    /// Its id in the kernel: the inode of the directory.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Moves a process into it.
    pub fn enter(&self, pid: u32) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
    }

    /// Ends every process in it, its children included (`cgroup.kill`, Linux 5.14).
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Whether any process is in it or below.
    pub fn populated(&self) -> io::Result<bool> {
        Ok(populated(&fs::read_to_string(self.path.join("cgroup.events"))?))
    }

    /// Waits until `populated` in `cgroup.events` is `wanted`: whether any process is in it or below.
    pub async fn wait_populated(&self, wanted: bool) -> io::Result<()> {
        let file = fs::File::open(self.path.join("cgroup.events"))?;
        // kernfs reports a change of the file as EPOLLPRI; the event is latched from the read on, so none is missed.
        // SAFETY: the file owns its descriptor, and the AsyncFd owns the file.
        let events = unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }?;
        let mut text = String::new();
        loop {
            let mut file = events.get_ref();
            file.seek(SeekFrom::Start(0))?;
            text.clear();
            file.read_to_string(&mut text)?;
            if populated(&text) == wanted {
                return Ok(());
            }
            events.ready(Interest::PRIORITY).await?.clear_ready();
        }
    }

    /// Removes the directory and what its processes made below; fine when it is gone already. Fails with
    /// `ResourceBusy` when a process is in it.
    pub fn remove(&self) -> io::Result<()> {
        remove_tree(&self.path)
    }
}

/// Whether an operation on a cgroup failed because its directory was removed.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENODEV))
}

fn populated(events: &str) -> bool {
    events.lines().any(|line| line == "populated 1")
}

/// A cgroup's files cannot be removed and go with it, so only directories count.
fn remove_tree(path: &Path) -> io::Result<()> {
    let remove = || {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                remove_tree(&entry.path())?;
            }
        }
        fs::remove_dir(path)
    };
    match remove() {
        Err(e) if !is_gone(&e) => {
            Err(io::Error::new(e.kind(), format!("cgroup {} cannot be removed: {e}", path.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::mount_point;

    #[test]
    fn finds_cgroup2_among_v1_controllers() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n\
                      31 24 0:27 / /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(hybrid).unwrap().to_str(), Some("/sys/fs/cgroup/unified"));
        // The first is what a runtime mounts for a container, the second the machine's, by a volume.
        let own = "40 24 0:30 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let host = "41 24 0:30 /../../.. /host/cgroup rw - cgroup2 cgroup2 rw\n";
        let deep = "42 24 0:30 /kubepods/pod1/c1 /other rw - cgroup2 cgroup2 rw\n";
        for mounts in [format!("{own}{host}{deep}"), format!("{deep}{host}{own}")] {
            assert_eq!(mount_point(&mounts).unwrap().to_str(), Some("/host/cgroup"));
        }
        assert_eq!(mount_point(&format!("{deep}{own}")).unwrap().to_str(), Some("/sys/fs/cgroup"));
        assert_eq!(mount_point("30 24 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"), None);
    }
}

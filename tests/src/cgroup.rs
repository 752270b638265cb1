//! Cgroups for tests: made under the cgroup v2 mount, gone with their processes when dropped.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A cgroup of a test.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A new cgroup below the root of the hierarchy.
    pub fn new() -> anyhow::Result<Self> {
        Self::at(mount_point()?.join(Self::name()))
    }

    /// A new cgroup that looks like a slice of systemd's.
    pub fn slice() -> anyhow::Result<Self> {
        Self::at(mount_point()?.join(Self::name() + ".slice"))
    }

    /// A name that no other test has.
    pub fn name() -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("egret-tests-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// A new cgroup inside this one.
    pub fn child(&self, name: &str) -> anyhow::Result<Self> {
        Self::at(self.path.join(name))
    }

    /// A new cgroup with this directory.
    pub fn at(path: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir(&path).with_context(|| format!("cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory's inode, which is the cgroup's id.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.path)?.ino())
    }

    /// Moves a process into it.
    pub fn add(&self, process: u32) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), process.to_string())
    }

    /// Kills what is in it and removes it.
    fn remove(&self) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let processes = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
            for process in processes.lines().filter_map(|line| line.parse().ok()) {
                // It may have ended by itself just now.
                let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
            }
            match fs::remove_dir(&self.path) {
                // Killed processes leave a moment later.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                result => return result,
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            report(&format!("cgroup {} is left behind: {error}", self.path.display()));
        }
    }
}

#[expect(clippy::print_stderr, reason = "addressed to whoever runs the tests")]
fn report(text: &str) {
    eprintln!("{text}");
}

/// Where cgroup v2 is mounted: the usual place, or `unified` in a hybrid tree.
pub fn mount_point() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    });
    match found {
        Some(path) => Ok(path),
        None => bail!("no cgroup v2 is mounted"),
    }
}

//! The BPF file system, where links and maps are pinned. Called by whoever starts capture, before `Capture::load`.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount, umount},
    sys::statfs::{BPF_FS_MAGIC, fstatfs, statfs},
};

use super::{Error, loader};

/// What a kernel with `CONFIG_BPF_PRELOAD` puts into every new bpffs.
const OF_THE_KERNEL: [&str; 2] = ["maps.debug", "progs.debug"];

/// Source of the mounts that Egret makes: by it the last instance knows that nobody else wants it there.
const SOURCE: &str = "egret";

/// A place where bpffs is mounted. Dropping it unmounts nothing.
///
/// While it lives nobody can unmount it: pins do not keep a file system busy, an open directory does. Unmounting it
/// detaches every link that is pinned there, of whatever instance, and lets its workloads go uncaptured.
#[derive(Debug)]
pub struct Bpffs {
    path: PathBuf,
    mounted_here: bool,
    directory: File,
}

impl Bpffs {
    /// Makes sure that a bpffs is at or above `path`; mounts one at `path` if there is none.
    pub fn ensure(path: &Path) -> Result<Self, Error> {
        let fail =
            |error: io::Error| Error::new(format_args!("bpffs at {}", path.display()), loader::hint(&error));
        let open = |path: &Path| {
            let directory = File::open(path)?;
            // Asked of what is open: the path may be another's to unmount a moment later.
            let found = fstatfs(&directory)?.filesystem_type() == BPF_FS_MAGIC;
            Ok::<_, io::Error>(found.then_some(directory))
        };
        let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        if let Some(directory) = open(existing).map_err(fail)? {
            return Ok(Self { path: path.to_owned(), mounted_here: is_ours(path).map_err(fail)?, directory });
        }
        let made = !path.exists();
        fs::create_dir_all(path).map_err(fail)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        if let Err(error) = mount(Some(SOURCE), path, Some("bpf"), flags, Some("mode=0700")) {
            if made {
                // The mount's error is the one that matters.
                let _ = fs::remove_dir(path);
            }
            return Err(fail(error.into()));
        }
        match open(path).map_err(fail)? {
            Some(directory) => Ok(Self { path: path.to_owned(), mounted_here: true, directory }),
            None => Err(fail(io::Error::other("it was unmounted at once; start again"))),
        }
    }

    /// An error with the remedy unless a bpffs is mounted at `path`: for who cannot mount one that outlives them.
    pub fn expect(path: &Path) -> Result<(), Error> {
        match statfs(path) {
            Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => Ok(()),
            _ => Err(Error::new(
                format_args!("bpffs at {}", path.display()),
                format_args!(
                    "it is not mounted there: on the node, run `mount -t bpf bpf {}`, as systemd does when it boots",
                    path.display()
                ),
            )),
        }
    }

    /// Whether Egret mounted it, this instance or another, so that the last one may unmount it.
    pub fn mounted_here(&self) -> bool {
        self.mounted_here
    }

    /// Unmounts it if Egret mounted it and nothing is in it any more. An instance that was killed has its
    /// links there, which go on to refuse its workloads; one that runs holds it open.
    pub fn unmount(self) -> io::Result<()> {
        if !self.mounted_here {
            return Ok(());
        }
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            // Takes empty directories only; whatever else there is stays, and the file system with it.
            if !OF_THE_KERNEL.iter().any(|name| entry.file_name() == *name)
                && fs::remove_dir(entry.path()).is_err()
            {
                return Ok(());
            }
        }
        drop(self.directory);
        Ok(umount(&self.path)?)
    }
}

/// Whether the file system at `path` is one that Egret mounted.
fn is_ours(path: &Path) -> io::Result<bool> {
    let mounts = fs::read_to_string("/proc/thread-self/mounts")?;
    let at = |line: &str| {
        let mut fields = line.split(' ');
        (fields.next() == Some(SOURCE)) && fields.next() == path.to_str() && fields.next() == Some("bpf")
    };
    Ok(mounts.lines().any(at))
}

#[cfg(test)]
mod tests {
    use super::Bpffs;

    #[test]
    fn another_file_system_is_none_and_the_remedy_is_said() {
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path().to_owned(), directory.path().join("missing")] {
            let said = Bpffs::expect(&path).unwrap_err().to_string();
            assert!(said.contains(&format!("mount -t bpf bpf {}", path.display())), "{said}");
        }
    }
}

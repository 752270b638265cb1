//! The BPF file system, where links and maps are pinned. Called by whoever starts capture, before `Capture::load`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount, umount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{Error, loader};

/// A place where bpffs is mounted. Dropping it unmounts nothing.
#[derive(Debug)]
pub struct Bpffs {
    path: PathBuf,
    mounted_here: bool,
}

impl Bpffs {
    /// Makes sure that a bpffs is at or above `path`; mounts one at `path` if there is none.
    pub fn ensure(path: &Path) -> Result<Self, Error> {
        let fail =
            |error: io::Error| Error::new(format_args!("bpffs at {}", path.display()), loader::hint(&error));
        let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let file_system = statfs(existing).map_err(|error| fail(error.into()))?;
        if file_system.filesystem_type() == BPF_FS_MAGIC {
            return Ok(Self { path: path.to_owned(), mounted_here: false });
        }
        let made = !path.exists();
        fs::create_dir_all(path).map_err(fail)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        if let Err(error) = mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700")) {
            if made {
                // The mount's error is the one that matters.
                let _ = fs::remove_dir(path);
            }
            return Err(fail(error.into()));
        }
        Ok(Self { path: path.to_owned(), mounted_here: true })
    }

    /// Whether this call mounted it, so that the caller may unmount it.
    pub fn mounted_here(&self) -> bool {
        self.mounted_here
    }

    /// Unmounts it if [`Bpffs::ensure`] mounted it. Everything that is still pinned in it is detached and gone.
    pub fn unmount(self) -> io::Result<()> {
        if self.mounted_here {
            umount(&self.path)?;
        }
        Ok(())
    }
}

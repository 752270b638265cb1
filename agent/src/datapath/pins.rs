//! What Egret pins in bpffs, under which names, and whether a pin is what it should be. Called by all of `datapath`.
//!
//! `<directory>/maps/<map>`, and `<directory>/links/<key>-<program>-<attach type>`, where the key is the inode of a cgroup,
//! `guard-<inode>` of a guarded parent, or `lock-<index>` of a device; one directory per layout version (`versions`). Neither the
//! kernel nor aya compares the shape of a pinned map, or the attach type of a link, with what a program expects: this module does.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use agent_common::{
    Bypassed, Captured, Conversation, Endpoint, Flow, Guard, Heard, LinkSource, Older, Original, OriginalKey,
    Policy, names,
};
use aya::maps::{Map, MapData, MapInfo, MapType};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{
    Error,
    attach::{self, Hook},
    link, loader, syscall,
};

/// The layout under one directory of a bpffs.
#[derive(Debug)]
pub(super) struct Pins {
    directory: PathBuf,
}

/// What a pinned map has to look like.
struct Shape {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    flags: u32,
    capacity: usize,
}

const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_F_CLONE: u32 = 1 << 9;
/// How the pins of locks on devices begin; those of cgroups begin with a number.
pub(super) const LOCK: &str = "lock-";

const SHAPES: [Shape; 20] = [
    Shape {
        name: names::POLICY,
        kind: MapType::CgroupStorage,
        key: size_of::<u64>(),
        value: size_of::<Policy>(),
        flags: 0,
        capacity: 0,
    },
    Shape {
        name: names::CAPTURED,
        kind: MapType::SkStorage,
        key: size_of::<i32>(),
        value: size_of::<Captured>(),
        flags: BPF_F_NO_PREALLOC,
        capacity: 0,
    },
    Shape {
        name: names::ORIGINAL,
        kind: MapType::Hash,
        key: size_of::<OriginalKey>(),
        value: size_of::<Original>(),
        flags: 0,
        capacity: names::ORIGINAL_CAPACITY,
    },
    Shape {
        name: names::BYPASS,
        kind: MapType::LpmTrie,
        key: size_of::<u32>() + 16,
        value: 1,
        flags: BPF_F_NO_PREALLOC,
        capacity: names::BYPASS_CAPACITY,
    },
    Shape {
        name: names::RESOLVERS,
        kind: MapType::Hash,
        key: size_of::<Endpoint>(),
        value: 1,
        flags: 0,
        capacity: names::RESOLVERS_CAPACITY,
    },
    Shape {
        name: names::NUMBERED,
        kind: MapType::Array,
        key: size_of::<u32>(),
        value: size_of::<Endpoint>(),
        flags: 0,
        capacity: names::NUMBERED_CAPACITY,
    },
    Shape {
        name: names::ACCEPTED,
        kind: MapType::SkStorage,
        key: size_of::<i32>(),
        value: size_of::<u32>(),
        flags: BPF_F_NO_PREALLOC | BPF_F_CLONE,
        capacity: 0,
    },
    Shape {
        name: names::LET_OUT,
        kind: MapType::SkStorage,
        key: size_of::<i32>(),
        value: size_of::<u32>(),
        flags: BPF_F_NO_PREALLOC,
        capacity: 0,
    },
    Shape {
        name: names::BYPASSED,
        kind: MapType::SkStorage,
        key: size_of::<i32>(),
        value: size_of::<Bypassed>(),
        flags: BPF_F_NO_PREALLOC,
        capacity: 0,
    },
    Shape {
        name: names::SPOKEN,
        kind: MapType::LruHash,
        key: size_of::<Conversation>(),
        value: 1,
        flags: 0,
        capacity: names::SPOKEN_CAPACITY,
    },
    Shape {
        name: names::CALLS,
        kind: MapType::LruHash,
        key: size_of::<Conversation>(),
        value: 1,
        flags: 0,
        capacity: names::CALLS_CAPACITY,
    },
    Shape {
        name: names::OLDER,
        kind: MapType::Hash,
        key: size_of::<u64>(),
        value: size_of::<Older>(),
        flags: 0,
        capacity: names::OLDER_CAPACITY,
    },
    Shape {
        name: names::GUARD,
        kind: MapType::CgroupStorage,
        key: size_of::<u64>(),
        value: size_of::<Guard>(),
        flags: 0,
        capacity: 0,
    },
    Shape {
        name: names::CLASSES,
        kind: MapType::Hash,
        key: size_of::<u64>(),
        value: 1,
        flags: 0,
        capacity: names::CLASSES_CAPACITY,
    },
    Shape {
        name: names::DECISIONS,
        kind: MapType::PerCpuArray,
        key: size_of::<u32>(),
        value: size_of::<u64>(),
        flags: 0,
        capacity: names::DECISIONS_CAPACITY,
    },
    Shape {
        name: names::LINKS,
        kind: MapType::Hash,
        key: size_of::<u32>(),
        value: size_of::<u32>(),
        flags: 0,
        capacity: names::LINKS_CAPACITY,
    },
    Shape {
        name: names::SOURCES,
        kind: MapType::Hash,
        key: size_of::<LinkSource>(),
        value: 1,
        flags: 0,
        capacity: names::SOURCES_CAPACITY,
    },
    Shape {
        name: names::GATEWAYS,
        kind: MapType::Hash,
        key: size_of::<Endpoint>(),
        value: 1,
        flags: 0,
        capacity: names::GATEWAYS_CAPACITY,
    },
    Shape {
        name: names::FLOWS,
        kind: MapType::LruHash,
        key: size_of::<Flow>(),
        value: size_of::<Heard>(),
        flags: 0,
        capacity: names::FLOWS_CAPACITY,
    },
    Shape {
        name: names::HEARD,
        kind: MapType::LruHash,
        key: size_of::<Flow>(),
        value: size_of::<Heard>(),
        flags: 0,
        capacity: names::HEARD_CAPACITY,
    },
];

/// The maps of the object that are pinned: all but the memory of one packet, and what belongs to one agent alone.
pub(super) fn map_names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|shape| shape.name)
}

impl Pins {
    /// The layout under `directory`, which need not exist.
    pub(super) fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Makes the directories; refuses a place that is not in a bpffs.
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let pins = Self::at(directory.to_owned());
        let what = || format!("pin directory {}", directory.display());
        let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let file_system = statfs(existing).map_err(|error| Error::new(what(), error))?;
        if file_system.filesystem_type() != BPF_FS_MAGIC {
            return Err(Error::new(
                what(),
                "not in a bpffs, without which nothing can outlive the agent: run `mount -t bpf bpf /sys/fs/bpf` as root",
            ));
        }
        for path in [pins.maps(), pins.links()] {
            fs::create_dir_all(&path).map_err(|error| Error::new(what(), loader::hint(&error)))?;
        }
        Ok(pins)
    }

    fn maps(&self) -> PathBuf {
        self.directory.join("maps")
    }

    fn links(&self) -> PathBuf {
        self.directory.join("links")
    }

    /// Where a map is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Where a link is pinned, of the cgroup whose pins begin with `key`.
    pub(super) fn link(&self, key: &str, hook: &Hook) -> PathBuf {
        self.links().join(format!("{key}-{}-{}", hook.program, hook.name))
    }

    /// Where a link is pinned before it takes the place of another. Removed with the rest of the cgroup's.
    pub(super) fn link_aside(&self, key: &str, hook: &Hook) -> PathBuf {
        self.links().join(format!("{key}-{}-{}-new", hook.program, hook.name))
    }

    /// The names of all pinned links.
    pub(super) fn link_names(&self) -> io::Result<Vec<String>> {
        names_in(&self.links())
    }

    /// Where the lock on a device is pinned, one of its two links.
    pub(super) fn lock(&self, device: u32, hook: &Hook) -> PathBuf {
        self.links().join(format!("{LOCK}{device}-{}-{}", hook.program, hook.name))
    }

    /// Where it is pinned before it takes the place of another.
    pub(super) fn lock_aside(&self, device: u32, hook: &Hook) -> PathBuf {
        self.links().join(format!("{LOCK}{device}-{}-{}-new", hook.program, hook.name))
    }

    /// Opens a pinned map for raw calls.
    pub(super) fn open_map(&self, name: &str) -> Result<OwnedFd, Error> {
        syscall::open_pin(&self.map(name)).map_err(|error| self.map_error(name, error))
    }

    /// Opens a pinned map for aya's typed maps.
    pub(super) fn typed_map(&self, name: &str) -> Result<Map, Error> {
        MapData::from_pin(self.map(name))
            .and_then(Map::from_map_data)
            .map_err(|error| self.map_error(name, error))
    }

    /// An error about a map, with its path.
    pub(super) fn map_error(&self, name: &str, why: impl std::fmt::Display) -> Error {
        Error::new(format_args!("map {}", self.map(name).display()), why)
    }

    /// Compares every map that is pinned with what the programs expect.
    pub(super) fn check_shapes(&self) -> Result<(), Error> {
        for shape in &SHAPES {
            let path = self.map(shape.name);
            if !path.exists() {
                continue;
            }
            let info = MapInfo::from_pin(&path)
                .map_err(|error| self.map_error(shape.name, loader::chain(&error)))?;
            if !shape.fits(&info) {
                return Err(self.map_error(
                    shape.name,
                    "another program, or a version of Egret that forgot to raise its layout version, pinned a map of another shape \
                     here: `egret agent --cleanup` takes it away (it ends the workloads)",
                ));
            }
        }
        Ok(())
    }

    /// Detaches the links whose pins begin with `key` (None: all links) and removes their pins, in the reverse of the order of
    /// attachment: the backstop goes after connect, and locks on devices last. Tries all of them; the first error is returned.
    pub(super) fn remove_links(&self, key: Option<&str>) -> io::Result<()> {
        let links = match key {
            Some(key) => self.link_names_of(key)?,
            None => self.link_names()?,
        };
        self.remove(links)
    }

    /// The same for those links of a cgroup that are on none of our hooks: what another version with this layout attached there.
    pub(super) fn remove_other_links(&self, key: &str) -> io::Result<()> {
        let mut links = self.link_names_of(key)?;
        links.retain(|name| attach::position(name).is_none());
        self.remove(links)
    }

    /// The same for those links of a cgroup that capture its connections. Returns how many there were.
    pub(super) fn remove_capturing_links(&self, key: &str) -> io::Result<usize> {
        let mut links = self.link_names_of(key)?;
        links.retain(|name| attach::captures(name));
        let count = links.len();
        self.remove(links).map(|()| count)
    }

    /// Whether any link of a cgroup captures its connections.
    pub(super) fn has_capturing_links(&self, key: &str) -> io::Result<bool> {
        Ok(self.link_names_of(key)?.iter().any(|name| attach::captures(name)))
    }

    /// The cgroups that have links, by inode, as the keys of their pins.
    pub(super) fn cgroups(&self) -> io::Result<BTreeSet<String>> {
        let names = self.link_names()?;
        let keys = names.iter().filter_map(|name| name.split('-').next());
        Ok(keys.filter(|key| key.parse::<u64>().is_ok()).map(ToOwned::to_owned).collect())
    }

    fn link_names_of(&self, key: &str) -> io::Result<Vec<String>> {
        let prefix = format!("{key}-");
        let mut links = self.link_names()?;
        links.retain(|name| name.starts_with(&prefix));
        Ok(links)
    }

    fn remove(&self, mut links: Vec<String>) -> io::Result<()> {
        links.sort_by_key(|name| Reverse(position(name)));
        let mut outcome = Ok(());
        for name in links {
            outcome = outcome.and(remove_link(&self.links().join(name)));
        }
        outcome
    }

    /// The pins of all links.
    pub(super) fn link_paths(&self) -> io::Result<Vec<PathBuf>> {
        Ok(self.link_names()?.into_iter().map(|name| self.links().join(name)).collect())
    }

    /// Removes everything, links first, and the directory; also what another version pinned here.
    pub(super) fn remove_all(&self) -> io::Result<()> {
        self.remove_links(None)?;
        for name in names_in(&self.maps())? {
            ignore_missing(fs::remove_file(self.map(&name)))?;
        }
        for path in [self.maps(), self.links(), self.directory.clone()] {
            ignore_missing(fs::remove_dir(path))?;
        }
        Ok(())
    }
}

/// Where a link comes in the order of attachment, which is that of removal backwards: locks on devices before all, and what
/// another version attached last.
pub(super) fn position(pin: &str) -> (bool, usize) {
    let on_device = pin.starts_with(LOCK);
    let position = if on_device { link::position(pin) } else { attach::position(pin) };
    (!on_device, position.unwrap_or(usize::MAX))
}

/// The names in a directory, none when it does not exist.
pub(super) fn names_in(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Detaches a pinned link and removes the pin.
pub(super) fn remove_link(path: &Path) -> io::Result<()> {
    // Best effort: the pin of a cgroup that is gone cannot be detached any more, and removing the pin does it too.
    let _ = syscall::open_pin(path).and_then(|link| syscall::link_detach(&link));
    ignore_missing(fs::remove_file(path))
}

pub(super) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Shape {
    fn fits(&self, info: &MapInfo) -> bool {
        info.map_type().is_ok_and(|kind| kind == self.kind)
            && info.key_size() as usize == self.key
            && info.value_size() as usize == self.value
            && info.map_flags() == self.flags
            && info.max_entries() as usize == self.capacity
    }
}

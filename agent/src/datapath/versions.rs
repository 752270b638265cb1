//! Layout versions: every version of Egret that pins maps of another shape has a directory of its own under the
//! instance's, so that an upgrade attaches its set of programs before it takes the older one's away. Called by `Capture`.
//!
//! Two sets on one cgroup do no harm: the first one rewrites the destination, and the second one sees loopback.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Error,
    pins::{Pins, ignore_missing, names_in},
    syscall,
};

/// The version of what is pinned. Raise it when a shape in `pins` changes, or when programs would read a value of an older
/// version wrongly.
const LAYOUT: u32 = 2;

/// Where our version pins, under the directory of the instance.
pub(super) fn ours(root: &Path) -> PathBuf {
    root.join(name(LAYOUT))
}

/// What other versions have pinned there, older or newer.
pub(super) fn others(root: &Path) -> io::Result<Vec<Pins>> {
    let ours = ours(root);
    Ok(all(root)?.into_iter().filter(|directory| *directory != ours).map(Pins::at).collect())
}

/// What any version has pinned there.
pub(super) fn every(root: &Path) -> io::Result<impl Iterator<Item = Pins>> {
    Ok(all(root)?.into_iter().map(Pins::at))
}

/// Detaches what any version has attached under a key. All of them are tried; the first error is told.
pub(super) fn detach(root: &Path, key: &str) -> io::Result<()> {
    let mut outcome = Ok(());
    for directory in all(root)? {
        outcome = outcome.and(Pins::at(directory).remove_links(Some(key)));
    }
    outcome
}

/// The same, but for ours: when our guard or lock is in force, and does what the other did.
pub(super) fn replace(root: &Path, key: &str) -> io::Result<()> {
    others(root)?.iter().try_for_each(|other| other.remove_links(Some(key)))
}

/// Takes away what other versions have on a cgroup on which our set is attached, in two calls. The first: what captures
/// connections. The next, a while later: the rest, which a `connect()` that was under way still needed, to publish where it
/// goes. Returns whether there are other versions, so that more may be left.
pub(super) fn step_down(root: &Path, key: &str) -> io::Result<bool> {
    let others = others(root)?;
    for other in &others {
        if other.remove_capturing_links(key)? == 0 {
            other.remove_links(Some(key))?;
        }
    }
    Ok(!others.is_empty())
}

/// Removes the directories of other versions that refuse nobody any more: those whose links are of cgroups that are gone, or on
/// which ours capture. A workload that could not be taken over keeps the links of its version, and stays refused. Returns how many
/// were removed.
pub(super) fn retire_others(root: &Path) -> Result<usize, Error> {
    let fail = |error: io::Error| Error::new(format_args!("older programs under {}", root.display()), error);
    let mut retired = 0;
    for pins in others(root).map_err(fail)? {
        for cgroup in pins.cgroups().map_err(fail)? {
            if !pins.has_capturing_links(&cgroup).map_err(fail)? {
                pins.remove_links(Some(&cgroup)).map_err(fail)?;
            }
        }
        let in_force = pins.link_paths().map_err(fail)?.into_iter().any(|path| {
            // What cannot be asked counts as in force.
            syscall::open_pin(&path)
                .and_then(|link| syscall::link_info(&link))
                .map_or(true, |info| info.cgroup != 0)
        });
        if !in_force {
            pins.remove_all().map_err(fail)?;
            retired += 1;
        }
    }
    Ok(retired)
}

/// The names of the links that any version has pinned.
pub(super) fn link_names(root: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for directory in all(root)? {
        names.extend(Pins::at(directory).link_names()?);
    }
    Ok(names)
}

/// Removes what every version has pinned, and the directory of the instance.
pub(super) fn remove_all(root: &Path) -> io::Result<()> {
    for directory in all(root)? {
        Pins::at(directory).remove_all()?;
    }
    ignore_missing(fs::remove_dir(root))
}

fn all(root: &Path) -> io::Result<Vec<PathBuf>> {
    let is_version = |name: &String| name.strip_prefix('v').is_some_and(|rest| rest.parse::<u32>().is_ok());
    Ok(names_in(root)?.into_iter().filter(is_version).map(|name| root.join(name)).collect())
}

fn name(layout: u32) -> String {
    format!("v{layout}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_count() {
        let root = tempfile::tempdir().unwrap();
        for directory in ["v0", "v17", "v", "vx", "maps"] {
            fs::create_dir(root.path().join(directory)).unwrap();
        }
        fs::create_dir(ours(root.path())).unwrap();
        let mut found = all(root.path()).unwrap();
        found.sort();
        assert_eq!(found, ["v0", "v17", "v2"].map(|name| root.path().join(name)));
        assert_eq!(others(root.path()).unwrap().len(), 2);
        assert_eq!(others(&root.path().join("none")).unwrap().len(), 0);
    }
}

//! How a WorkloadBinding names cgroups: systemd's units, containers, paths.
//!
//! A name in the tree of cgroups is only as good as whoever may make directories there: a user's service manager and a
//! container with a tree of its own choose names freely. So units and containers are found where root's managers put them and
//! nowhere below a service, a scope or a container. A path says itself where it looks.

use std::fmt;

/// Kinds of units that have a cgroup.
const UNITS: [&str; 6] = [".service", ".slice", ".scope", ".socket", ".mount", ".swap"];
/// What container engines put before the id in the name of a cgroup.
const ENGINES: [&str; 5] = ["docker-", "libpod-", "crio-", "cri-containerd-", "nerdctl-"];
/// Length of a container's id (SHA-256 in hexadecimal digits), and the shortest beginning of one: what engines show.
const ID_LENGTH: usize = 64;
const SHORT_ID_LENGTH: usize = 12;
/// No tree of cgroups is deeper, and it bounds the work of matching.
const MAX_DEPTH: usize = 32;

/// A selector that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} {why}")]
pub struct SelectorError {
    given: String,
    why: &'static str,
}

/// Selects cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupSelector {
    /// A unit of the system's service manager, by its full name.
    SystemdUnit(Glob),
    /// A container, by its id or, with LXC and systemd-nspawn, its name.
    Container(Glob),
    /// A cgroup, by its path from the root of the hierarchy.
    Path(Vec<Part>),
}

/// A part of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// One name.
    Name(Glob),
    /// `**`: any number of names, or none.
    Any,
}

/// A name in which `*` stands for any text.
#[derive(Clone, PartialEq, Eq)]
pub struct Glob(String);

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Glob {
    fn parse(given: &str) -> Result<Self, &'static str> {
        if given.is_empty() {
            return Err("is empty");
        }
        if given.contains(['?', '[', ']', '{', '}']) {
            return Err("has a wildcard that is not known: only * is");
        }
        Ok(Self(given.to_owned()))
    }

    fn matches(&self, name: &str) -> bool {
        let mut pieces = self.0.split('*');
        let Some(rest) = pieces.next().and_then(|first| name.strip_prefix(first)) else { return false };
        let Some(last) = pieces.next_back() else { return rest.is_empty() };
        // Each piece at its first place leaves the most for those after it.
        let middle = pieces.try_fold(rest, |rest, piece| rest.split_once(piece).map(|(_, after)| after));
        middle.is_some_and(|rest| rest.ends_with(last))
    }

    fn is_short_id_of(&self, id: &str) -> bool {
        self.0.len() >= SHORT_ID_LENGTH && is_hex(&self.0) && is_id(id) && id.starts_with(&self.0)
    }
}

impl CgroupSelector {
    /// The unit `given`, such as `nginx.service` or `backup-*.service`.
    pub fn systemd_unit(given: &str) -> Result<Self, SelectorError> {
        let fail = |why| SelectorError { given: given.to_owned(), why };
        if given.contains('/') {
            return Err(fail("is a path; a unit is named without its slice"));
        }
        if !UNITS.iter().any(|kind| given.ends_with(kind)) {
            return Err(fail("does not end like a unit that has a cgroup: .service, .slice, .scope, …"));
        }
        if given == "-.slice" {
            return Err(fail("is the root of all cgroups, which has Egret's own processes in it"));
        }
        Glob::parse(given).map(Self::SystemdUnit).map_err(fail)
    }

    /// The container `given`.
    pub fn container(given: &str) -> Result<Self, SelectorError> {
        let fail = |why| SelectorError { given: given.to_owned(), why };
        if given.contains('/') {
            return Err(fail(
                "is a path; a container is named by its id, or its name in LXC and systemd-nspawn",
            ));
        }
        Glob::parse(given).map(Self::Container).map_err(fail)
    }

    /// The cgroup at `given`, from the root of the hierarchy.
    pub fn path(given: &str) -> Result<Self, SelectorError> {
        let fail = |why| SelectorError { given: given.to_owned(), why };
        let parts = given.trim_matches('/').split('/').map(|part| match part {
            "**" => Ok(Part::Any),
            "." | ".." => Err("has a . or .. in it"),
            part if part.contains("**") => Err("has ** inside of a name; it stands for whole names"),
            part => Glob::parse(part).map(Part::Name),
        });
        let parts: Vec<_> = parts.collect::<Result<_, _>>().map_err(fail)?;
        if parts.last() == Some(&Part::Any) {
            return Err(fail("ends in **; name the cgroup above, everything in it is enrolled with it"));
        }
        if parts.len() > MAX_DEPTH {
            return Err(fail("is too long"));
        }
        Ok(Self::Path(parts))
    }

    /// The cgroup above all those that it can select, by its path, and how far below it they are, if that is one or two; None
    /// also where that is the root.
    pub fn parent(&self) -> Option<(String, u32)> {
        let Self::Path(parts) = self else { return None };
        let names: Option<Vec<&Glob>> = parts
            .iter()
            .map(|part| match part {
                Part::Name(glob) => Some(glob),
                Part::Any => None,
            })
            .collect();
        let (_, above) = names.as_ref()?.split_last()?;
        let above: Vec<&str> =
            above.iter().map(|glob| glob.0.as_str()).take_while(|name| !name.contains('*')).collect();
        let depth = parts.len() - above.len();
        (!above.is_empty() && depth <= 2).then(|| (above.join("/"), depth as u32))
    }

    /// Whether this is the path of a cgroup it selects.
    pub fn matches(&self, path: &[&str]) -> bool {
        let Some((last, above)) = path.split_last() else { return false };
        match self {
            Self::SystemdUnit(glob) => above.iter().all(|name| is_slice(name)) && glob.matches(last),
            Self::Container(glob) => {
                let parent = above.last().copied().unwrap_or_default();
                container(parent, last).is_some_and(|name| glob.matches(&name) || glob.is_short_id_of(&name))
                    && !closed(above)
            }
            Self::Path(parts) => path_matches(parts, path),
        }
    }

    /// Whether it can select a cgroup below this one; the empty path is the root.
    pub fn leads_below(&self, path: &[&str]) -> bool {
        match self {
            Self::SystemdUnit(_) => path.iter().all(|name| is_slice(name)),
            Self::Container(_) => !closed(path),
            Self::Path(parts) => path_leads_below(parts, path),
        }
    }
}

fn is_slice(name: &str) -> bool {
    is_unit(name, ".slice")
}

/// Names of units are compared as they are, letter case too.
fn is_unit(name: &str, kind: &str) -> bool {
    name.strip_suffix(kind).is_some()
}

/// Whether what is below this path is named by others than root's managers.
fn closed(path: &[&str]) -> bool {
    path.iter().enumerate().any(|(at, name)| {
        let parent = if at == 0 { "" } else { path[at - 1] };
        is_unit(name, ".service") || is_unit(name, ".scope") || container(parent, name).is_some()
    })
}

/// The id or name of the container whose cgroup has this name, below `parent`.
fn container(parent: &str, cgroup: &str) -> Option<String> {
    let scope = cgroup.strip_suffix(".scope");
    let id = ENGINES.iter().find_map(|engine| scope.unwrap_or(cgroup).strip_prefix(engine)).unwrap_or(cgroup);
    if is_id(id) {
        return Some(id.to_owned());
    }
    if let Some(name) = cgroup.strip_prefix("lxc.payload.") {
        return Some(name.to_owned());
    }
    if parent == "lxc" {
        return Some(cgroup.to_owned());
    }
    // systemd-nspawn, registered with systemd-machined or run as a service.
    let service = || cgroup.strip_prefix("systemd-nspawn@")?.strip_suffix(".service");
    let machine = scope.and_then(|scope| scope.strip_prefix("machine-")).or_else(service)?;
    (parent == "machine.slice").then(|| unescape(machine))
}

fn is_id(text: &str) -> bool {
    text.len() == ID_LENGTH && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Undoes the escaping of names in units (systemd.unit(5)): `\x2d` is `-`.
fn unescape(text: &str) -> String {
    let mut pieces = text.split("\\x");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let code = piece.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok());
        if let Some(byte) = code.filter(u8::is_ascii) {
            plain.push(byte.into());
            plain.push_str(&piece[2..]);
        } else {
            plain.push_str("\\x");
            plain.push_str(piece);
        }
    }
    plain
}

fn path_matches(parts: &[Part], path: &[&str]) -> bool {
    match (parts.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((Part::Any, rest)), _) => {
            path_matches(rest, path)
                || path.split_first().is_some_and(|(_, below)| path_matches(parts, below))
        }
        (Some((Part::Name(glob), rest)), Some((name, below))) => {
            glob.matches(name) && path_matches(rest, below)
        }
        _ => false,
    }
}

fn path_leads_below(parts: &[Part], path: &[&str]) -> bool {
    match (parts.split_first(), path.split_first()) {
        (None, _) => false,
        // Everything is below `**`.
        (Some((Part::Any, _)), _) | (Some(_), None) => true,
        (Some((Part::Name(glob), rest)), Some((name, below))) => {
            glob.matches(name) && path_leads_below(rest, below)
        }
    }
}

#[cfg(test)]
#[path = "cgroup_selector/tests.rs"]
mod tests;

//! Other programs on the hooks of Egret: at the cgroups above the workloads'. Programs run side by side, but an old-style
//! exclusive attachment above makes ours fail.

use std::path::{Path, PathBuf};

use super::Check;
use crate::{
    datapath::{
        Error,
        probe::{self, Neighbour},
    },
    node::cgroup::Hierarchy,
};

/// One check per cgroup on the way from the root to the workloads of `instance`.
pub(super) fn checks(instance: &str) -> Vec<Check> {
    // Its absence is the cgroup check's finding.
    let Ok(hierarchy) = Hierarchy::find() else { return Vec::new() };
    above(&hierarchy.instance(instance))
        .iter()
        .map(|cgroup| judge(cgroup, probe::neighbours(cgroup)))
        .collect()
}

/// The existing directories from the root of the hierarchy to `leaf`: `egret` and the instance are ours to make.
fn above(leaf: &Path) -> Vec<PathBuf> {
    let mut path: Vec<PathBuf> =
        leaf.ancestors().take(3).filter(|path| path.exists()).map(Path::to_path_buf).collect();
    path.reverse();
    path
}

fn judge(cgroup: &Path, found: Result<Vec<Neighbour>, Error>) -> Check {
    let name = format!("hooks of {}", cgroup.display());
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            return Check::error(name, error.to_string(), "run egret doctor as root");
        }
    };
    let list = |neighbours: &mut dyn Iterator<Item = &Neighbour>| {
        neighbours.map(|one| format!("{} on {}", one.programs, one.hook)).collect::<Vec<_>>().join(", ")
    };
    if found.iter().any(|one| one.exclusive) {
        let exclusive = list(&mut found.iter().filter(|one| one.exclusive));
        return Check::error(
            name,
            format!("held exclusively by another program: {exclusive}; no workload can be enrolled"),
            "`bpftool cgroup tree` names it; attach it by a link or with the multi flag",
        );
    }
    if found.is_empty() {
        return Check::ok(name, "nobody else's programs");
    }
    Check::ok(
        name,
        format!("shared with {}; they run after ours and see loopback destinations", list(&mut found.iter())),
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::judge;
    use crate::{datapath::probe::Neighbour, doctor::Status};

    #[test]
    fn only_an_exclusive_program_is_an_error() {
        let cgroup = Path::new("/sys/fs/cgroup");
        let shared = Neighbour { hook: "connect4", programs: 2, exclusive: false };
        assert_eq!(judge(cgroup, Ok(Vec::new())).status, Status::Ok);
        let check = judge(cgroup, Ok(vec![shared]));
        assert_eq!(check.status, Status::Ok);
        assert!(check.finding.contains("2 on connect4"), "{}", check.finding);
        let check =
            judge(cgroup, Ok(vec![shared, Neighbour { hook: "egress", programs: 1, exclusive: true }]));
        assert_eq!(check.status, Status::Error);
        assert!(check.finding.contains("1 on egress") && !check.finding.contains("connect4"));
    }
}

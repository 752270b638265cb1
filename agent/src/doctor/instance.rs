//! The instance: its run directory, whether its roles answer, the configuration it would read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::Duration,
};

use tokio::time;

use super::Check;
use crate::{
    admin::{AgentStatus, Ready, WorkloadStatus, client},
    app::run_dir::RunDir,
    node::{sockets::SocketStatus, workload::Workload},
    source::{directory, report::Severity},
};

/// A role that does not answer within this is as good as down.
const PATIENCE: Duration = Duration::from_secs(2);

/// Permission bits of group and others.
const OTHERS: u32 = 0o077;

/// What the agent says, if there is one.
pub(super) async fn agent_status(run_dir: &RunDir) -> Option<AgentStatus> {
    time::timeout(PATIENCE, client::get(&run_dir.agent_socket(), "/status")).await.ok()?.ok()
}

/// The run directory and the roles.
pub(super) async fn checks(run_dir: &RunDir) -> Vec<Check> {
    const NAME: &str = "run directory";
    let path = run_dir.path().display();
    let mode = match fs::metadata(run_dir.path()) {
        Ok(found) => found.permissions().mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return vec![Check::ok(NAME, format!("{path} does not exist: no instance runs here"))];
        }
        Err(error) => {
            return vec![Check::error(NAME, format!("{path}: {error}"), "run egret doctor as root")];
        }
    };
    let mut checks = vec![if mode & OTHERS == 0 {
        Check::ok(NAME, format!("{path}, root's only"))
    } else {
        Check::error(
            NAME,
            format!("{path} is open to others (mode {mode:o}): its sockets sign certificates"),
            format!("chmod 700 {path}"),
        )
    }];
    for role in ["ca", "gateway", "agent"] {
        checks.push(role_check(run_dir, role).await);
    }
    checks
}

async fn role_check(run_dir: &RunDir, role: &str) -> Check {
    let name = format!("role {role}");
    let socket = if role == "agent" { run_dir.agent_socket() } else { run_dir.socket(role) };
    match time::timeout(PATIENCE, client::get::<Ready>(&socket, "/ready")).await {
        Ok(Ok(_)) => Check::ok(name, "answers"),
        // A machine need not run every role.
        Ok(Err(_)) if !socket.exists() => Check::ok(name, "does not run here"),
        Ok(Err(error)) => Check::error(name, error.to_string(), "start it again; its log says why it ended"),
        Err(_) => {
            Check::error(name, format!("no answer within {PATIENCE:?}"), "look at its log and its load")
        }
    }
}

/// Which locks hold for which workloads. `egret verify-bypass` is the proof.
pub(super) fn workloads(enrolled: &[WorkloadStatus]) -> Check {
    const NAME: &str = "locks of workloads";
    let open: BTreeSet<String> = enrolled
        .iter()
        .filter_map(|WorkloadStatus { workload, locks, .. }| {
            let identity = &workload.identity;
            let why = locks.open()?;
            Some(format!("{}/{}: {why}", identity.namespace(), identity.service_account()))
        })
        .collect();
    if open.is_empty() {
        return Check::ok(NAME, format!("{}, all locks hold", enrolled.len()));
    }
    Check::warning(
        NAME,
        format!(
            "not all hold; root can send frames (AF_PACKET) or leave its cgroup there: {}",
            open.into_iter().collect::<Vec<_>>().join("; ")
        ),
        "a network namespace of its own, joined to the host's by veth; egret exec --netns, or PrivateNetwork=yes for a service, has no link at \
         all; or no root",
    )
}

/// Whether every connection to the outside was captured or permitted.
pub(super) fn escapes(enrolled: &[WorkloadStatus]) -> Check {
    const NAME: &str = "escapes";
    let with = |count: fn(&SocketStatus) -> u64| {
        let of: Vec<String> = enrolled
            .iter()
            .filter(|status| count(&status.sockets) > 0)
            .map(|status| format!("{} of {}", count(&status.sockets), name(&status.workload)))
            .collect();
        (!of.is_empty()).then(|| of.join(", "))
    };
    if let Some(escaped) = with(|sockets| sockets.escaped) {
        return Check::error(
            NAME,
            format!(
                "connections that were open to the outside though neither captured nor permitted: {escaped}"
            ),
            "the agent's log names them and their processes; find out who detached programs (`programs_reattached` in egret status)",
        );
    }
    if let Some(foreign) = with(|sockets| sockets.foreign as u64) {
        return Check::warning(
            NAME,
            format!("sockets that were made elsewhere, so that nothing sees what they send: {foreign}"),
            "the agent's log names them; start the workload's processes as part of it, or set existingConnections to RESET",
        );
    }
    Check::ok(NAME, "none")
}

/// Whether everything that the kernel programs had to tell was recorded.
pub(super) fn events(counters: &BTreeMap<String, u64>) -> Check {
    const NAME: &str = "records of the kernel";
    match counters.get("event_lost") {
        None | Some(0) => Check::ok(NAME, "none was lost"),
        Some(lost) => Check::warning(
            NAME,
            format!(
                "{lost} were lost: not all bypassed connections and refused calls are among the flows; captured ones are"
            ),
            "an agent that is away reads nothing; else there are thousands a second: `egret flows --bypassed` and `--reason kernel_refused` say whose",
        ),
    }
}

fn name(workload: &Workload) -> String {
    format!("{}/{}", workload.identity.namespace(), workload.identity.service_account())
}

/// The problems of a directory of YAML files.
pub(super) fn configuration(path: &Path) -> Check {
    const NAME: &str = "configuration";
    let report = match directory::load(path) {
        Ok(loaded) => loaded.report,
        Err(error) => {
            return Check::error(
                NAME,
                format!("{}: {error}", path.display()),
                "name a directory of YAML files with -f",
            );
        }
    };
    let count = |severity| report.problems.iter().filter(|problem| problem.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let finding = format!("{} objects, {errors} errors, {warnings} warnings", report.objects);
    let remedy = format!("egret check {}", path.display());
    if errors > 0 {
        Check::error(NAME, finding, remedy)
    } else if warnings > 0 {
        Check::warning(NAME, finding, remedy)
    } else {
        Check::ok(NAME, finding)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use super::{checks, configuration, escapes, events, workloads};
    use crate::{
        admin::WorkloadStatus,
        app::run_dir::RunDir,
        doctor::Status,
        mesh::SpiffeId,
        node::{
            locks::{Lock, Locks},
            sockets::{Existing, SocketStatus},
            workload::{Origin, Workload},
        },
    };

    #[tokio::test]
    async fn an_open_directory_and_a_dead_role_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(directory.path().join("run"));
        assert_eq!(checks(&run_dir).await.len(), 1);
        run_dir.create().unwrap();
        assert!(checks(&run_dir).await.iter().all(|check| check.status == Status::Ok));
        // A socket whose process has gone.
        drop(std::os::unix::net::UnixListener::bind(run_dir.socket("agent")).unwrap());
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(run_dir.path(), mode).unwrap();
        let failed = checks(&run_dir).await;
        let names = failed.iter().filter(|check| check.status == Status::Error).map(|check| &check.name);
        assert_eq!(names.collect::<Vec<_>>(), ["run directory", "role agent"]);
    }

    fn closed() -> WorkloadStatus {
        let workload = Workload {
            id: 1,
            identity: SpiffeId::new("td", "default", "sleep").unwrap(),
            cgroup: "/c".into(),
            cgroup_inode: 1,
            namespace: None,
            origin: Origin::Hand,
            existing: Existing::default(),
        };
        let locks = Locks { capture: Lock::Holds, backstop: Lock::Holds, link: Lock::Closed };
        WorkloadStatus {
            workload,
            networks: vec!["net:[1]".to_owned()],
            locks,
            sockets: SocketStatus::default(),
        }
    }

    #[test]
    fn escapes_are_errors_and_foreign_sockets_warnings() {
        let checked = |escaped, foreign| {
            let sockets = SocketStatus { escaped, foreign, ..SocketStatus::default() };
            escapes(&[closed(), WorkloadStatus { sockets, ..closed() }])
        };
        assert_eq!(checked(0, 0).status, Status::Ok);
        assert_eq!(checked(0, 2).status, Status::Warning);
        let lost = |number: u64| events(&BTreeMap::from([("event_lost".to_owned(), number)]));
        assert_eq!((lost(0).status, lost(7).status), (Status::Ok, Status::Warning));
        assert!(lost(7).finding.starts_with("7 were lost"), "{}", lost(7).finding);
        let escaped = checked(3, 2);
        assert_eq!(escaped.status, Status::Error);
        assert!(escaped.finding.ends_with(": 3 of default/sleep"), "{}", escaped.finding);
    }

    #[test]
    fn workloads_whose_locks_do_not_hold_are_named() {
        let closed = closed();
        assert_eq!(workloads(std::slice::from_ref(&closed)).status, Status::Ok);
        let link = Lock::Open("host network".to_owned());
        let open = WorkloadStatus { locks: Locks { link, ..closed.locks.clone() }, ..closed.clone() };
        let check = workloads(&[closed, open]);
        assert_eq!(check.status, Status::Warning);
        assert!(check.finding.contains("default/sleep: host network"), "{}", check.finding);
    }

    #[test]
    fn a_refused_object_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(configuration(directory.path()).status, Status::Ok);
        fs::write(directory.path().join("a.yaml"), "kind: VirtualService\n").unwrap();
        assert_eq!(configuration(directory.path()).status, Status::Error);
        assert_eq!(configuration(&directory.path().join("none")).status, Status::Error);
    }
}

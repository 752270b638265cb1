//! What agent, gateway and CA have in common as processes: pid file, admin socket, configuration.

use std::{
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{net::UnixListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{Settings, Source, run_dir::RunDir, settings::CA_TOKEN, take_over};
use crate::{
    kubernetes::{
        self, Cluster, ca_root,
        configuration::{self, Scope},
        names,
    },
    mesh::SpiffeId,
    net::endpoints::{Condition, Endpoints},
    source::{
        directory::{self, Loaded},
        report::Severity,
    },
    tls::issuer::{
        Issuer,
        network::{Network, NetworkIssuer},
        unix::UnixIssuer,
    },
};

/// The Service of the gateways, and the name of its port for tunnels: Istio's gateway chart calls it so.
const GATEWAY_SERVICE: &str = "istio-egressgateway";
const GATEWAY_PORT: &str = "hbone";

/// Raises the soft limit of open files to the hard one: every connection takes two or more descriptors, and the soft limit
/// is 1,024 on most systems for the sake of select(2), which nothing here uses.
pub(super) fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
    });
    if let Err(e) = raised {
        tracing::warn!("the limit of open files stays as it is: {e}");
    }
}

/// A process that has a role; nobody else gets it as long as this lives.
#[must_use]
#[derive(Debug)]
pub(super) struct Announced {
    _lock: File,
}

/// Writes the pid file of `role`, and makes the run directory where it is missing. Fails when another process has the role:
/// a second agent would take the workloads over, and leave them refused when it ends.
pub(super) fn announce(run_dir: &RunDir, role: &str) -> anyhow::Result<Announced> {
    lock(run_dir, role)?.or_else(|pid| {
        bail!(
            "egret {} runs already with {} (process {pid}): stop it first, or choose another directory with --run-dir",
            if role == "supervisor" { "up" } else { role },
            run_dir.path().display(),
        )
    })
}

/// The right to become the agent: no other process can as long as this lives. While one agent takes over from another, the
/// role passes between these two, and no third gets it.
#[must_use]
#[derive(Debug)]
pub(super) struct Candidate {
    run_dir: RunDir,
    _lock: Announced,
}

impl Candidate {
    /// Fails when another process is just becoming the agent.
    pub(super) fn stand(run_dir: &RunDir) -> anyhow::Result<Self> {
        let lock = lock(run_dir, "agent-candidate")?.or_else(|pid| {
            bail!(
                "another agent is just being started with {} (process {pid}); wait for it",
                run_dir.path().display()
            )
        })?;
        Ok(Self { run_dir: run_dir.clone(), _lock: lock })
    }

    /// Takes the role; the process that has it, if there is one.
    pub(super) fn announce(&self) -> anyhow::Result<Result<Announced, String>> {
        lock(&self.run_dir, "agent")
    }

    /// Takes away what agents leave in the run directory for their successors. For who has the role and gives it up for good; nobody
    /// becomes the agent meanwhile.
    pub(super) fn leave_nothing(self) -> io::Result<()> {
        let run_dir = &self.run_dir;
        let sockets = [run_dir.socket("agent"), run_dir.socket(take_over::SOCKET)].map(fs::remove_file);
        // Empty by now: standing has made them again.
        let directories = [run_dir.workloads(), run_dir.namespaces()].map(fs::remove_dir);
        let locks = [run_dir.pid_file("agent"), run_dir.pid_file("agent-candidate")].map(fs::remove_file);
        sockets.into_iter().chain(directories).chain(locks).try_for_each(|removed| match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        })
    }
}

/// Whether a process has the role.
pub(super) fn is_held(run_dir: &RunDir, role: &str) -> anyhow::Result<bool> {
    let path = run_dir.pid_file(role);
    let held = File::open(&path).and_then(|file| match file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(e),
    });
    held.with_context(|| format!("pid file {}", path.display()))
}

/// Whether this is the file that has the name.
fn is_same(named: &Metadata, file: &File) -> bool {
    file.metadata().is_ok_and(|open| (open.dev(), open.ino()) == (named.dev(), named.ino()))
}

/// Locks the pid file of `role` and writes it; the process that has it, if there is one.
fn lock(run_dir: &RunDir, role: &str) -> anyhow::Result<Result<Announced, String>> {
    run_dir.create().with_context(|| format!("run directory {} cannot be made", run_dir.path().display()))?;
    let path = run_dir.pid_file(role);
    let locked = || {
        let mut file = loop {
            let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Ok(Err(fs::read_to_string(&path)?.trim().to_owned()));
                }
                Err(TryLockError::Error(e)) => return Err(e),
            }
            // Who had the role may have removed the file meanwhile: that lock would be worth nothing.
            if fs::metadata(&path).is_ok_and(|named| is_same(&named, &file)) {
                break file;
            }
        };
        file.set_len(0)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
        Ok(Ok(Announced { _lock: file }))
    };
    locked().with_context(|| format!("pid file {}", path.display()))
}

/// Binds a Unix socket for this user only. One left by a process that was killed is replaced, and so is one of an agent that
/// was taken over, in one step: at no time does a client find none.
pub(super) fn bind(socket: &Path) -> anyhow::Result<UnixListener> {
    let bind = || {
        let aside = socket.with_extension("new");
        match fs::remove_file(&aside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&aside)?;
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o600))?;
        fs::rename(aside, socket)?;
        Ok(listener)
    };
    bind().with_context(|| format!("socket {}", socket.display()))
}

/// The cluster this process is a pod of, where configuration comes from one.
pub(super) fn cluster(settings: &Settings) -> anyhow::Result<Option<Cluster>> {
    match &settings.source {
        Source::Directory(_) => Ok(None),
        Source::Kubernetes => Cluster::around().map(Some),
    }
}

/// Where certificates come from: the CA of this machine, or the cluster's.
pub(super) fn issuer(
    settings: &Settings,
    cluster: Option<&Cluster>,
    trust_domain: &str,
) -> anyhow::Result<Arc<dyn Issuer>> {
    let Some(cluster) = cluster else {
        return Ok(Arc::new(UnixIssuer::new(settings.run_dir.issuer_socket())));
    };
    let endpoints = kubernetes::endpoints::watch(cluster, names::CA, names::CA_PORT);
    Ok(Arc::new(NetworkIssuer::new(Network {
        name: format!("Service {}/{}", cluster.own.namespace, names::CA),
        replicas: ready(endpoints),
        roots: ca_root::watch(cluster),
        identity: SpiffeId::new(trust_domain, &cluster.own.namespace, names::CA)?,
        token: CA_TOKEN.into(),
    })))
}

/// Those of a Service that take anything new. Ends when nobody listens.
fn ready(mut endpoints: watch::Receiver<Option<Endpoints>>) -> watch::Receiver<Option<Vec<SocketAddr>>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        loop {
            let now = endpoints.borrow_and_update().as_ref().map(|all| {
                let ready = all.iter().filter(|(_, condition)| **condition == Condition::Ready);
                ready.map(|(address, _)| *address).collect()
            });
            sender.send_replace(now);
            let changed = tokio::select! {
                changed = endpoints.changed() => changed.is_ok(),
                () = sender.closed() => false,
            };
            if !changed {
                return;
            }
        }
    });
    receiver
}

/// Starts to watch the configuration; the first load is done when this returns.
pub(super) async fn configuration(
    settings: &Settings,
    cluster: Option<&Cluster>,
    scope: Scope,
    stop: &CancellationToken,
) -> anyhow::Result<watch::Receiver<Loaded>> {
    match (&settings.source, cluster) {
        (Source::Kubernetes, Some(cluster)) => configuration::watch(cluster, scope, stop)
            .await
            .context("told to end before the configuration was read"),
        (Source::Directory(directory), _) => directory::watch(directory, stop.clone())
            .with_context(|| format!("configuration directory {}", directory.display())),
        (Source::Kubernetes, None) => bail!("there is no connection to the Kubernetes API"),
    }
}

/// Where the gateways are: the endpoints of their Service, or the one address of a machine.
pub(super) fn gateways(settings: &Settings, cluster: Option<&Cluster>) -> watch::Receiver<Option<Endpoints>> {
    match cluster {
        Some(cluster) => kubernetes::endpoints::watch(cluster, GATEWAY_SERVICE, GATEWAY_PORT),
        None => watch::channel(Some(Endpoints::from([(settings.hbone_address, Condition::Ready)]))).1,
    }
}

/// Logs what a load found, once per load. One role of an instance does.
pub(super) fn log_problems(loaded: &Loaded) {
    tracing::info!(
        version = loaded.snapshot.version,
        objects = loaded.report.objects,
        problems = loaded.report.problems.len(),
        "configuration in force"
    );
    for problem in &loaded.report.problems {
        match problem.severity {
            Severity::Error => tracing::error!("{problem}"),
            Severity::Warning => tracing::warn!("{problem}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Candidate, announce, is_held};
    use crate::app::run_dir::RunDir;

    #[test]
    fn a_role_is_one_process() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(directory.path().join("run"));
        let first = announce(&run_dir, "agent").unwrap();
        let error = announce(&run_dir, "agent").unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(announce(&run_dir, "gateway").is_ok());
        drop(first);
        assert!(announce(&run_dir, "agent").is_ok());
    }

    #[tokio::test]
    async fn who_gives_the_role_up_for_good_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(directory.path().join("run"));
        let role = Candidate::stand(&run_dir).unwrap().announce().unwrap().unwrap();
        let _socket = super::bind(&run_dir.socket("agent")).unwrap();
        let coming = Candidate::stand(&run_dir).unwrap();
        assert!(Candidate::stand(&run_dir).is_err(), "it is somebody else's by now");
        drop(coming);
        Candidate::stand(&run_dir).unwrap().leave_nothing().unwrap();
        assert_eq!(std::fs::read_dir(run_dir.path()).unwrap().count(), 0);
        // The old lock is not in the way of the next one, nor the other way round.
        let next = Candidate::stand(&run_dir).unwrap().announce().unwrap().unwrap();
        drop(role);
        assert!(is_held(&run_dir, "agent").unwrap());
        drop(next);
    }

    #[test]
    fn the_role_passes_from_the_old_agent_to_its_successor_and_to_no_third() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(directory.path().join("run"));
        let old = Candidate::stand(&run_dir).unwrap().announce().unwrap().unwrap();
        assert!(is_held(&run_dir, "agent").unwrap());
        let successor = Candidate::stand(&run_dir).unwrap();
        assert_eq!(successor.announce().unwrap().unwrap_err(), std::process::id().to_string());
        let error = Candidate::stand(&run_dir).unwrap_err().to_string();
        assert!(error.contains("just being started"), "{error}");
        drop(old);
        assert!(!is_held(&run_dir, "agent").unwrap());
        assert!(Candidate::stand(&run_dir).is_err(), "between the two nobody else gets it");
        let _role = successor.announce().unwrap().unwrap();
        drop(successor);
        assert!(Candidate::stand(&run_dir).unwrap().announce().unwrap().is_err());
    }
}

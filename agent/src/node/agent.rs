//! The node agent: its workloads, and how they come and go.
//!
//! Enrolling is: cgroup (and namespace), listener, programs. Releasing is the reverse. A workload without a live listener
//! is refused by the kernel, never let out: that is what every order of steps here preserves.

use std::{collections::HashMap, io, path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    counters::Counters,
    dial::HostDial,
    life,
    listener::Listeners,
    routes::Families,
    sockets::{Direct, Existing, SocketSettings, SocketStatus},
    workload::Workload,
};
use crate::{
    app::run_dir::RunDir,
    datapath::{self, Capture, WorkloadPolicy},
    flow::FlowTable,
    hbone::client::{Gateway, Pool},
    mesh::{ExistingConnections, SpiffeId},
    tls::store::CertificateStore,
};

/// Why a workload could not be enrolled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its cgroup, namespace or listener could not be made.
    #[error("workload {identity} cannot be set up")]
    Workload {
        /// The workload.
        identity: SpiffeId,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel half refused.
    #[error("workload {identity} cannot be captured")]
    Capture {
        /// The workload.
        identity: SpiffeId,
        /// The cause.
        #[source]
        source: datapath::Error,
    },
}

/// What an agent is made of.
pub struct Parts {
    /// The kernel half.
    pub capture: Capture,
    /// Certificates of the workloads.
    pub certificates: CertificateStore,
    /// The egress gateway.
    pub gateway: Gateway,
    /// Where flows are recorded.
    pub flows: FlowTable,
    /// The run directory.
    pub run_dir: RunDir,
    /// The cgroup under which workloads are made.
    pub cgroup: PathBuf,
    /// What the configuration says of workloads' sockets.
    pub sockets: SocketSettings,
}

/// The node agent.
pub struct Agent {
    pub(super) capture: Capture,
    pub(super) certificates: CertificateStore,
    pub(super) gateway: Gateway,
    pub(super) flows: FlowTable,
    pub(super) counters: Counters,
    pub(super) socket_settings: watch::Sender<SocketSettings>,
    pub(super) run_dir: RunDir,
    cgroup: PathBuf,
    pub(super) workloads: Mutex<Workloads>,
    pub(super) connections: TaskTracker,
}

#[derive(Default)]
pub(super) struct Workloads {
    pub(super) enrolled: HashMap<u32, Arc<Enrolled>>,
    last_id: u32,
}

/// An enrolled workload at work.
pub(super) struct Enrolled {
    pub(super) workload: Workload,
    pub(super) tunnels: Pool,
    pub(super) stop: CancellationToken,
    /// What the kernel programs are told of it. Who writes it to the kernel holds the lock.
    pub(super) policy: Mutex<WorkloadPolicy>,
    /// Programs of it had been detached and are attached again.
    pub(super) reattached: Notify,
    pub(super) sockets: Mutex<SocketStatus>,
}

/// What [`Agent::enroll`] needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Enrolment {
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// Give it a network namespace of its own, with nothing but loopback.
    pub own_network: bool,
}

impl Agent {
    /// An agent without workloads.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { capture, certificates, gateway, flows, run_dir, cgroup, sockets } = parts;
        Arc::new(Self {
            capture,
            certificates,
            gateway,
            flows,
            counters: Counters::default(),
            socket_settings: watch::Sender::new(sockets),
            run_dir,
            cgroup,
            workloads: Mutex::default(),
            connections: TaskTracker::new(),
        })
    }

    /// Makes a workload; the caller moves its process into the cgroup (and namespace) that the answer names.
    pub fn enroll(self: &Arc<Self>, identity: &SpiffeId, own_network: bool) -> Result<Workload, Error> {
        let fail = |source| Error::Workload { identity: identity.clone(), source };
        let id = {
            let mut workloads = self.workloads.lock();
            workloads.last_id += 1;
            workloads.last_id
        };
        // Nothing runs in it yet.
        let existing = Existing {
            nothing_older: true,
            map: self
                .capture
                .older_map()
                .map_err(|source| Error::Capture { identity: identity.clone(), source })?,
            ..Existing::new(self.socket_settings.borrow().existing, Timestamp::now())
        };
        let workload =
            Workload::create(&self.run_dir, &self.cgroup, id, identity.clone(), own_network, existing)
                .map_err(fail)?;
        // The state file comes before the first program: whatever is attached can be found and undone.
        let started = workload.save(&self.run_dir).map_err(fail).and_then(|()| self.start(workload.clone()));
        if let Err(e) = started {
            self.undo(&workload);
            return Err(e);
        }
        tracing::info!(workload = %workload.identity, cgroup = %workload.cgroup.display(), "enrolled");
        Ok(workload)
    }

    /// Takes over the workloads of an earlier agent: new listeners, same programs. Those that ended meanwhile are removed.
    pub fn adopt(self: &Arc<Self>) -> io::Result<()> {
        let workloads = Workload::load_all(&self.run_dir)?;
        Workload::remove_unknown(&self.run_dir, &self.cgroup, &workloads)?;
        for workload in workloads {
            {
                let mut workloads = self.workloads.lock();
                workloads.last_id = workloads.last_id.max(workload.id);
            }
            if workload.open_cgroup().is_err() {
                self.undo(&workload);
            } else if let Err(e) = self.start(workload.clone()) {
                // Its programs stay, and refuse: an error here must not let anything out.
                tracing::error!(workload = %workload.identity, "not taken over, its connections are refused: {:#}", anyhow::Error::new(e));
            } else {
                tracing::info!(workload = %workload.identity, "taken over");
            }
        }
        Ok(())
    }

    /// Releases a workload in which nothing runs (any more); `false` when something does, or it is not enrolled.
    pub fn release_empty(&self, id: u32) -> bool {
        let Some(enrolled) = self.workloads.lock().enrolled.get(&id).cloned() else { return false };
        let populated = enrolled.workload.open_cgroup().and_then(|cgroup| cgroup.populated());
        if populated.unwrap_or(false) {
            return false;
        }
        self.release(&enrolled)
    }

    /// The workloads enrolled, by number, with what is known of their sockets.
    pub fn workloads(&self) -> Vec<(Workload, SocketStatus)> {
        let workloads = self.workloads.lock();
        let mut workloads: Vec<_> = workloads
            .enrolled
            .values()
            .map(|enrolled| (enrolled.workload.clone(), enrolled.sockets.lock().clone()))
            .collect();
        workloads.sort_by_key(|(workload, _)| workload.id);
        workloads
    }

    /// Takes over what the configuration says of workloads' sockets now.
    pub fn set_direct(&self, direct: Direct, existing: ExistingConnections) {
        self.socket_settings.send_modify(|settings| *settings = settings.changed(direct, existing));
    }

    /// The flows recorded.
    pub fn flows(&self) -> &FlowTable {
        &self.flows
    }

    /// The gateway in use.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Counters of kernel programs and agent, by name.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.capture.counters().unwrap_or_else(|e| {
            tracing::warn!("counters of the kernel programs: {e}");
            Vec::new()
        });
        counters.extend(self.counters.by_name());
        counters
    }

    /// The kernel half, for settings that are not about one workload.
    pub fn capture(&self) -> &Capture {
        &self.capture
    }

    /// Stops accepting, and waits until the last connection ends or `deadline` passes. Programs stay attached and refuse.
    pub async fn drain(&self, deadline: Duration) {
        for enrolled in self.workloads.lock().enrolled.values() {
            enrolled.stop.cancel();
        }
        self.connections.close();
        if time::timeout(deadline, self.connections.wait()).await.is_err() {
            tracing::warn!(
                open = self.connections.len(),
                "connections are cut: the drain deadline has passed"
            );
        }
    }

    /// Listener, then programs, then the tasks that serve and watch it.
    fn start(self: &Arc<Self>, workload: Workload) -> Result<(), Error> {
        let identity = workload.identity.clone();
        let fail = |source| Error::Workload { identity: identity.clone(), source };
        let refused = |source| Error::Capture { identity: identity.clone(), source };
        let namespace = workload.namespace.as_deref();
        let listeners = Listeners::bind(namespace).map_err(fail)?;
        let (listener_v4, listener_v6) = listeners.ports().map_err(fail)?;
        // A namespace of our own making has no way out but the listener: nothing there is "no route".
        let families = if namespace.is_some() {
            Families { v4: true, v6: true }
        } else {
            Families::of(None).map_err(fail)?
        };
        let policy = WorkloadPolicy {
            workload: workload.id,
            listener_v4,
            listener_v6,
            no_route_v4: !families.v4,
            no_route_v6: !families.v6,
            drops_older: workload
                .existing
                .is_strict(Timestamp::now(), self.capture.older_map().map_err(refused)?),
        };
        let cgroup = workload.open_cgroup().map_err(fail)?;
        let listeners = [Some(listeners.v4), listeners.v6].into_iter().flatten().map(TcpListener::from_std);
        let listeners = listeners.collect::<io::Result<Vec<_>>>().map_err(fail)?;
        self.capture.attach(cgroup.path(), &policy).map_err(refused)?;

        let enrolled = Arc::new(Enrolled {
            workload,
            tunnels: Pool::new(Arc::new(HostDial)),
            stop: CancellationToken::new(),
            policy: Mutex::new(policy),
            reattached: Notify::new(),
            sockets: Mutex::default(),
        });
        self.workloads.lock().enrolled.insert(enrolled.workload.id, Arc::clone(&enrolled));
        for listener in listeners {
            self.connections.spawn(life::accept(Arc::clone(self), Arc::clone(&enrolled), listener));
        }
        self.connections.spawn(life::run(Arc::clone(self), enrolled, cgroup));
        Ok(())
    }

    /// Takes away what was made for a workload in which nothing runs.
    pub(super) fn undo(&self, workload: &Workload) {
        let undone = workload
            .remove_cgroup()
            .map_err(|e| e.to_string())
            .and_then(|()| self.capture.detach(workload.cgroup_inode).map_err(|e| e.to_string()))
            .and_then(|()| self.capture.forget_older(workload.id).map_err(|e| e.to_string()));
        if let Err(e) = undone.and_then(|()| workload.remove(&self.run_dir).map_err(|e| e.to_string())) {
            tracing::error!(workload = %workload.identity, "not all of it could be removed: {e}");
        }
    }
}

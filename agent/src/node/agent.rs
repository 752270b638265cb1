//! The node agent: its workloads, and how they come and go.
//!
//! Enrolling is: cgroup (and namespace), listener, programs. Releasing is the reverse. A workload without a live listener
//! is refused by the kernel, never let out: that is what every order of steps here preserves. Cgroups that somebody else
//! made are enrolled by `node::foreign`.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, RwLock, Semaphore, watch},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    cgroup::Hierarchy,
    counters::Counters,
    description::Description,
    dns::{self, Dns},
    guard::Standing,
    life,
    lock::{self, Users},
    locks::{Lock, Locks},
    observed::{Subject, Subjects},
    presence::{Arrival, DnsArrival, Examined, Presences},
    sockets::{Direct, Existing, SocketSettings, SocketStatus},
    workload::Workload,
};
use crate::{
    admin::WorkloadStatus,
    app::run_dir::RunDir,
    datapath::{self, Capture, WorkloadPolicy},
    flow::FlowTable,
    hbone::{baggage::Baggage, client::Gateways},
    mesh::{ExistingConnections, OnAgentDown, Snapshot, SpiffeId},
    reason::Reason,
    tls::store::CertificateStore,
    workers::Workers,
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
    /// The cgroup is none that can be enrolled, or not once more.
    #[error("cgroup {} cannot be enrolled: {why}", cgroup.display())]
    Cgroup {
        /// The cgroup.
        cgroup: PathBuf,
        /// The cause, and what to do.
        why: String,
    },
    /// The workload is not to be released like this.
    #[error("workload {id} is not released: {why}")]
    Release {
        /// Its number.
        id: u32,
        /// The cause, and what to do.
        why: String,
    },
}

/// What an agent is made of.
pub struct Parts {
    /// The kernel half.
    pub capture: Capture,
    /// Certificates of the workloads.
    pub certificates: CertificateStore,
    /// The egress gateways.
    pub gateways: Arc<Gateways>,
    /// Where flows are recorded.
    pub flows: FlowTable,
    /// The run directory.
    pub run_dir: RunDir,
    /// The cgroups of the machine.
    pub hierarchy: Hierarchy,
    /// What the configuration says of workloads' sockets.
    pub sockets: SocketSettings,
    /// Where connections are carried.
    pub workers: Workers,
}

/// The node agent.
pub struct Agent {
    pub(super) capture: Capture,
    pub(super) certificates: CertificateStore,
    pub(super) gateways: Arc<Gateways>,
    pub(super) flows: FlowTable,
    pub(super) counters: Counters,
    pub(super) dns: Dns,
    /// Held while a workload starts and while a configuration is put in force: no workload misses one. Nothing else is locked
    /// under it by the latter.
    configuring: Mutex<()>,
    pub(super) socket_settings: watch::Sender<SocketSettings>,
    pub(super) run_dir: RunDir,
    pub(super) hierarchy: Hierarchy,
    /// Held while a foreign cgroup is enrolled, so that none is enrolled twice.
    pub(super) enrolling: Mutex<()>,
    /// What stands in the way of bindings, for people.
    pub(super) binding_problems: Mutex<Vec<String>>,
    /// The same of pods.
    pub(super) pod_problems: Mutex<Vec<String>>,
    pub(super) guards: Standing,
    pub(super) workloads: Mutex<Workloads>,
    /// Whom the kernel programs tell of.
    pub(super) subjects: Mutex<Subjects>,
    pub(super) connections: TaskTracker,
    workers: Workers,
    /// Held while locks on links are changed.
    pub(super) links: Mutex<Users>,
    /// Taken for reading by whoever changes workloads; see `handover`.
    pub(super) changes: Arc<RwLock<()>>,
    /// Another agent has taken over.
    pub(super) moved: CancellationToken,
    /// Connections go out directly while no agent runs.
    pub(super) bypass_when_down: AtomicBool,
}

#[derive(Default)]
pub(super) struct Workloads {
    pub(super) enrolled: HashMap<u32, Arc<Enrolled>>,
    pub(super) last_id: u32,
}

/// An enrolled workload at work.
pub(super) struct Enrolled {
    pub(super) workload: Workload,
    /// Locked while programs are attached or detached: a check must not undo a release.
    pub(super) presences: Mutex<Presences>,
    /// Processes came or went, or the configuration changed.
    pub(super) changed: Notify,
    /// For DNS queries that take time.
    pub(super) dns_room: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
    pub(super) locks: Mutex<Locks>,
    /// How connections are treated that are older than its enrolment: as the state file says.
    pub(super) existing: Mutex<Existing>,
    /// There is a reason to look at its sockets: programs of it had been detached and are attached again, or `existing` has changed.
    pub(super) look: Notify,
    /// The last connection of the self-check did not arrive.
    pub(super) astray: AtomicBool,
    pub(super) sockets: Mutex<SocketStatus>,
    description: Mutex<Arc<Description>>,
}

impl Enrolled {
    fn new(workload: Workload) -> Arc<Self> {
        Arc::new(Self {
            existing: Mutex::new(workload.existing),
            description: Mutex::new(Description::of(&workload)),
            workload,
            presences: Mutex::new(Presences::new()),
            changed: Notify::new(),
            dns_room: dns::room(),
            stop: CancellationToken::new(),
            locks: Mutex::new(Locks { capture: Lock::Holds, backstop: Lock::Holds, link: Lock::Closed }),
            look: Notify::new(),
            astray: AtomicBool::new(false),
            sockets: Mutex::default(),
        })
    }

    /// How it is described.
    pub(super) fn description(&self) -> Arc<Description> {
        Arc::clone(&self.description.lock())
    }

    /// Describes it so from now on; connections that it has stay as they are described.
    pub(super) fn describe(&self, baggage: &Baggage) {
        let mut description = self.description.lock();
        if description.baggage() != baggage {
            *description = Description::new(baggage.clone());
        }
    }

    /// The workload as it is now.
    pub(super) fn current(&self) -> Workload {
        Workload { existing: *self.existing.lock(), ..self.workload.clone() }
    }
}

/// What [`Agent::enroll`] needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Enrolment {
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// Give it a network namespace of its own, with nothing but loopback.
    #[serde(default)]
    pub own_network: bool,
    /// Enrol this cgroup, which somebody else made: absolute, or below the root of the hierarchy. Absent: make one.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
}

impl Agent {
    /// An agent without workloads.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { capture, certificates, gateways, flows, run_dir, hierarchy, sockets, workers } = parts;
        Arc::new(Self {
            capture,
            certificates,
            gateways,
            flows,
            counters: Counters::default(),
            dns: Dns::load(run_dir.synthetic()),
            configuring: Mutex::default(),
            socket_settings: watch::Sender::new(sockets),
            run_dir,
            hierarchy,
            enrolling: Mutex::default(),
            binding_problems: Mutex::default(),
            pod_problems: Mutex::default(),
            guards: Standing::default(),
            workloads: Mutex::default(),
            subjects: Mutex::default(),
            connections: TaskTracker::new(),
            workers,
            links: Mutex::default(),
            changes: Arc::default(),
            moved: CancellationToken::new(),
            bypass_when_down: AtomicBool::new(false),
        })
    }

    /// Makes a workload; the caller moves its process into the cgroup (and namespace) that the answer names.
    pub fn enroll(self: &Arc<Self>, identity: &SpiffeId, own_network: bool) -> Result<Workload, Error> {
        let fail = |source| Error::Workload { identity: identity.clone(), source };
        let id = self.next_id();
        // Nothing runs in it yet.
        let existing = Existing {
            nothing_older: true,
            map: self
                .capture
                .older_map()
                .map_err(|source| Error::Capture { identity: identity.clone(), source })?,
            ..self.existing(None)
        };
        let parent = self.hierarchy.instance(&self.run_dir.instance());
        let workload = Workload::create(&self.run_dir, &parent, id, identity.clone(), own_network, existing)
            .map_err(fail)?;
        self.admit(workload)
    }

    /// How existing connections of a workload that is enrolled now are treated: as `own` says, else as the mesh does.
    pub(super) fn existing(&self, own: Option<ExistingConnections>) -> Existing {
        Existing::new(own.unwrap_or(self.socket_settings.borrow().existing), Timestamp::now())
    }

    /// Enrols a workload whose cgroup is there.
    pub(super) fn admit(self: &Arc<Self>, workload: Workload) -> Result<Workload, Error> {
        let fail = |source| Error::Workload { identity: workload.identity.clone(), source };
        // The state file comes before the first program: whatever is attached can be found and undone.
        let started = workload.save(&self.run_dir).map_err(fail).and_then(|()| self.start(workload.clone()));
        if let Err(e) = started {
            self.undo(&workload);
            return Err(e);
        }
        tracing::info!(workload = %workload.identity, cgroup = %workload.cgroup.display(), origin = %workload.origin, "enrolled");
        Ok(workload)
    }

    pub(super) fn next_id(&self) -> u32 {
        let mut workloads = self.workloads.lock();
        workloads.last_id += 1;
        workloads.last_id
    }

    /// Takes over the workloads of an earlier agent: new listeners, same programs. Those that ended meanwhile are removed.
    /// Returns how many could not be taken over.
    pub fn adopt(self: &Arc<Self>) -> io::Result<usize> {
        let mut refused = 0;
        let mut workloads = Workload::load_all(&self.run_dir)?;
        // Of two with one cgroup the later one counts.
        workloads.sort_by_key(|workload| std::cmp::Reverse(workload.id));
        let parent = self.hierarchy.instance(&self.run_dir.instance());
        Workload::remove_unknown(&self.run_dir, &parent, &workloads)?;
        for mut workload in workloads {
            if self.bypass_when_down.load(Relaxed) {
                // What it opened while no agent ran was let out on purpose: older, as the connections at an enrolment are.
                workload.existing = Existing { nothing_older: false, map: 0, ..workload.existing };
            }
            {
                let mut workloads = self.workloads.lock();
                workloads.last_id = workloads.last_id.max(workload.id);
            }
            if workload.is_gone() {
                self.undo(&workload);
            } else if self.by_inode(workload.cgroup_inode).is_some() {
                // An earlier agent could not take it over, and enrolled its cgroup again.
                workload.remove(&self.run_dir)?;
            } else if let Err(e) = self.start(workload.clone()) {
                // Its programs stay, and refuse: an error here must not let anything out.
                refused += 1;
                tracing::error!(workload = %workload.identity, "not taken over, its connections are refused: {:#}", anyhow::Error::new(e));
            } else {
                tracing::info!(workload = %workload.identity, "taken over");
            }
        }
        Ok(refused)
    }

    /// The workloads enrolled, by number.
    pub fn workloads(&self) -> Vec<WorkloadStatus> {
        let mut workloads: Vec<_> = self
            .all_enrolled()
            .iter()
            .map(|enrolled| WorkloadStatus {
                workload: enrolled.current(),
                networks: enrolled.presences.lock().names(),
                locks: enrolled.locks.lock().clone(),
                sockets: enrolled.sockets.lock().clone(),
            })
            .collect();
        workloads.sort_by_key(|status| status.workload.id);
        workloads
    }

    /// Puts what a configuration says about DNS in force, for workloads that are enrolled with their next check, which is due at
    /// once. `resolvers` are those that workloads may ask.
    pub fn configure(&self, snapshot: &Arc<Snapshot>, resolvers: &[SocketAddr]) {
        let _configuring = self.configuring.lock();
        if self.dns.configure(snapshot, resolvers) {
            for enrolled in self.all_enrolled() {
                enrolled.changed.notify_one();
            }
        }
    }

    /// What stands in the way of bindings and pods, one sentence each.
    pub fn binding_problems(&self) -> Vec<String> {
        [&self.binding_problems, &self.pod_problems].map(|problems| problems.lock().clone()).concat()
    }

    /// The parents that are to be guarded, with what is in the way.
    pub fn guards(&self) -> BTreeMap<PathBuf, Option<String>> {
        self.guards.lock().clone()
    }

    /// Takes over what the configuration says of workloads' sockets now.
    pub fn set_direct(&self, direct: Direct, existing: ExistingConnections) {
        self.socket_settings.send_modify(|settings| *settings = settings.changed(direct, existing));
    }

    /// The certificates of its workloads.
    pub fn certificates(&self) -> &CertificateStore {
        &self.certificates
    }

    /// The flows recorded.
    pub fn flows(&self) -> &FlowTable {
        &self.flows
    }

    /// What the kernel programs are to know of a workload.
    pub(super) fn policy(&self, workload: &Workload, presences: &Presences) -> WorkloadPolicy {
        WorkloadPolicy { bypass_when_down: self.bypass_when_down.load(Relaxed), ..presences.policy(workload) }
    }

    /// Writes it, to the very cgroup that is enrolled: a service that is started again has another one with the same name.
    pub(super) fn write_policy(&self, workload: &Workload, presences: &Presences) -> Result<(), Error> {
        let identity = &workload.identity;
        let cgroup = workload
            .open_cgroup()
            .map_err(|source| Error::Workload { identity: identity.clone(), source })?;
        self.capture
            .set_policy(&cgroup.path_by_descriptor(), &self.policy(workload, presences))
            .map_err(|source| Error::Capture { identity: identity.clone(), source })
    }

    /// Says what happens to connections while no agent runs, for workloads that are enrolled and those to come.
    pub fn set_on_agent_down(&self, chosen: OnAgentDown) {
        let bypass = chosen == OnAgentDown::Bypass;
        if self.bypass_when_down.swap(bypass, Relaxed) == bypass {
            return;
        }
        tracing::warn!("onAgentDown is now {}", chosen.name());
        for enrolled in self.all_enrolled() {
            let presences = enrolled.presences.lock();
            if presences.released {
                continue;
            }
            if let Err(e) = self.write_policy(&enrolled.workload, &presences) {
                // The next check writes it again.
                let e = anyhow::Error::new(e);
                tracing::warn!(workload = %enrolled.workload.identity, "onAgentDown is not in force yet: {e:#}");
            }
        }
    }

    /// The workloads at work, in no order. Not to be held while one of them is changed.
    pub(super) fn all_enrolled(&self) -> Vec<Arc<Enrolled>> {
        self.workloads.lock().enrolled.values().cloned().collect()
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

    /// Connections that were refused before the gateway, by reason.
    pub fn refusals(&self) -> Vec<(Reason, u64)> {
        self.counters.refused.counted().collect()
    }

    /// Counts a condition of a pod that could not be written.
    pub fn condition_not_written(&self) {
        self.counters.conditions_not_written.increment();
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

    /// Listeners, then the lock on its links and the programs, then the tasks that serve and watch it. In place of what it was
    /// enrolled as before, if it was.
    pub(super) fn start(self: &Arc<Self>, workload: Workload) -> Result<(), Error> {
        let identity = workload.identity.clone();
        let fail = |source| Error::Workload { identity: identity.clone(), source };
        let refused = |source| Error::Capture { identity: identity.clone(), source };
        let _configuring = self.configuring.lock();
        let cgroup = workload.open_cgroup().map_err(fail)?;
        let map = self.capture.older_map().map_err(refused)?;
        let enrolled = Enrolled::new(workload);
        let subject = Subject { identity: identity.clone(), pod: enrolled.workload.pod().map(Into::into) };
        self.subjects.lock().add(enrolled.workload.id, subject);
        let mut presences = enrolled.presences.lock();
        presences.drops_older = enrolled.workload.existing.is_strict(Timestamp::now(), map);
        let examined = presences.examine(&enrolled.workload, &enrolled.stop, &self.dns).map_err(fail)?;
        let ports = presences.ports();
        if ports.are_few() {
            self.counters.listener_ports_reduced.increment();
            tracing::warn!(
                workload = %identity,
                "only {} ports of loopback in a row are free for its listener: about {} new connections a second are possible \
                 where TIME_WAIT is not reused (net.ipv4.tcp_tw_reuse=0)",
                ports.count,
                u32::from(ports.count) * 28_232 / 60
            );
        }
        self.capture.attach(cgroup.path(), &self.policy(&enrolled.workload, &presences)).map_err(refused)?;
        // In this order: what a running workload opens is captured, or goes out as older. Between a lock and the programs it would do
        // neither, and wait for an answer that cannot come.
        self.check_link(&enrolled, &presences, true);
        drop(presences);
        self.workloads.lock().enrolled.insert(enrolled.workload.id, Arc::clone(&enrolled));
        self.serve(&enrolled, examined);
        self.connections.spawn(life::run(Arc::clone(self), enrolled, cgroup));
        Ok(())
    }

    /// Serves the listeners in namespaces that the workload has come to, and new DNS listeners.
    pub(super) fn serve(self: &Arc<Self>, enrolled: &Arc<Enrolled>, examined: Examined) {
        let Examined { arrivals, dns, replaced, failures } = examined;
        self.counters.namespaces_not_entered.add(failures);
        for DnsArrival { presence, listeners, stop } in dns {
            dns::serve(self, enrolled, &presence, listeners, &stop);
        }
        for stop in replaced {
            stop.cancel();
        }
        for Arrival { presence, listeners } in arrivals {
            if let Some(namespace) = presence.namespace.clone() {
                let (enrolled, stop) = (Arc::clone(enrolled), presence.stop.clone());
                self.connections.spawn(async move {
                    stop.run_until_cancelled(lock::watch(&enrolled, &namespace)).await;
                });
            }
            let accepting = listeners.into_iter().enumerate().map(|(n, (listener, port))| {
                let (agent, enrolled) = (Arc::clone(self), Arc::clone(enrolled));
                let accept = life::accept(agent, enrolled, Arc::clone(&presence), listener, port);
                self.connections.spawn_on(accept, self.workers.nth(n))
            });
            presence.serve_by(accepting.collect());
        }
    }

    /// Takes away what was made for a workload: one of ours in which nothing runs, or a foreign one.
    pub(super) fn undo(&self, workload: &Workload) {
        let undone = workload
            .remove_cgroup()
            .map_err(|e| e.to_string())
            .and_then(|()| self.capture.detach(workload.cgroup_inode).map_err(|e| e.to_string()))
            .and_then(|()| self.release_links(workload.id).map_err(|e| e.to_string()))
            .and_then(|()| self.capture.forget_older(workload.id).map_err(|e| e.to_string()));
        if let Err(e) = undone.and_then(|()| workload.remove(&self.run_dir).map_err(|e| e.to_string())) {
            tracing::error!(workload = %workload.identity, "not all of it could be removed: {e}");
        }
    }
}

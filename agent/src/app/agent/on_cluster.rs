//! The agent as a pod of a DaemonSet. It never ends because something is in the way: the kubelet would start it again, and nobody
//! could ask what it is. It says so (log, `egret ready`, `egret status`), and goes on when it is mended.
//!
//! An update starts the new agent beside the old one. The new one waits until it has read everything, takes the workloads
//! over, and becomes ready; the old one keeps its connections until it is told to end. Should it end by itself before, the kubelet
//! would start it again, and it would take the role back.

use std::{
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    beginning::{self, Start, Started},
    serve_metrics,
    serving::{Ended, Process, serve},
};
use crate::{
    admin::{self, AgentState, Readiness, Stage},
    app::{
        Settings, cleanup,
        role::{self, Announced, Candidate, is_held},
        settings::DRAIN_DEADLINE,
    },
    datapath,
    flow::{FlowTable, Side},
    kubernetes::{
        self, Cluster,
        configuration::Scope,
        pods::conditions,
        ranges,
        removal::{self, Mark},
    },
    node::{
        agent::Agent,
        guard::Guards,
        pods::{self, Pods, Said, Verdicts},
        resolvers,
    },
};

/// Before what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How often it is looked for what nobody tells.
const LOOK: Duration = Duration::from_millis(200);

/// How long nobody may have the role before an agent that was taken over ends, to be started again and take it. Longer than the
/// successor's container takes to start again once.
const ABANDONED: Duration = Duration::from_secs(20);

/// How long a start waits for the cluster-internal ranges.
const RANGES: Duration = Duration::from_secs(3);

/// How long after the order was deleted this pod may be told to end, where both are deleted with the DaemonSet.
const GOES_WITH_IT: Duration = Duration::from_secs(5);

/// Longer than anything lives.
const FOREVER: Duration = Duration::MAX;

/// Runs until it is told to end.
pub(super) async fn run(settings: Settings, cluster: Cluster, stop: CancellationToken) -> anyhow::Result<()> {
    settings.run_dir.create()?;
    if let Err(e) = settings.run_dir.forget_killed_pods() {
        tracing::warn!("what killed pods left in {} stays: {e}", settings.run_dir.path().display());
    }
    let found = ranges::watch(&cluster);
    let verdicts = watch::Sender::default();
    let admin = AgentState {
        acting: Arc::new(OnceLock::new()),
        flows: FlowTable::new(Side::Agent, settings.flow_capacity),
        readiness: Readiness::starting(cluster.standing.clone()),
        ranges: Some(found),
        verdicts: Some(verdicts.subscribe()),
        cluster: Some(cluster.clone()),
    };
    let own_socket = settings.run_dir.socket_of_pod(&cluster.own.uid);
    let tasks = TaskTracker::new();
    tasks.spawn(admin::serve(role::bind(&own_socket)?, admin::agent(admin.clone()), stop.clone()));
    if let Some(address) = settings.metrics_address {
        tasks.spawn(serve_metrics(address, admin.clone(), settings.run_dir.clone(), stop.clone()));
    }
    let pod = Pod {
        settings,
        removal: removal::watch(&cluster),
        pods: kubernetes::pods::watch(&cluster),
        verdicts,
        cluster,
        admin,
        tasks,
        stop,
    };
    let lived = pod.live().await;
    pod.stop.cancel();
    pod.tasks.close();
    pod.tasks.wait().await;
    drop(std::fs::remove_file(own_socket));
    lived
}

/// An agent's pod, whatever stage it is in.
struct Pod {
    settings: Settings,
    cluster: Cluster,
    removal: Mark,
    pods: watch::Receiver<Option<Arc<Pods>>>,
    /// What is said of them.
    verdicts: watch::Sender<Arc<Verdicts>>,
    admin: AgentState,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Pod {
    async fn live(&self) -> anyhow::Result<()> {
        let mut start = tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            () = self.removal.asked() => return self.remove(None).await,
            read = self.read_freed() => read?,
        };
        let Some(started) = self.start(&mut start).await else {
            return if self.removal.is_asked() { self.remove(None).await } else { Ok(()) };
        };
        let agent = Arc::clone(&started.agent);
        self.readiness().enter(Stage::Serving);
        let guards = self.follow_pods(&agent, &start, started.mesh.trust_domain.clone());
        let admin = self.admin.clone();
        let process = Process { tasks: &self.tasks, stop: &self.stop };
        match serve(&mut start, started, admin, Some(guards), self.removal.asked(), process).await {
            Ended::Told => {
                let left = agent.workloads().len();
                tracing::warn!(
                    workloads = left,
                    "this agent ends and no other has taken over: enrolled pods of this node stay captured, and are refused \
                     until an agent is back. To let them go instead, remove Egret (helm uninstall), or run `egret agent \
                     --cleanup` on this node"
                );
                agent.drain(DRAIN_DEADLINE).await;
                Ok(())
            }
            Ended::TakenOver => self.keep_connections(&agent).await,
            Ended::Removal => self.remove(Some(&agent)).await,
        }
    }

    fn readiness(&self) -> &Readiness {
        &self.admin.readiness
    }

    /// Reads what an agent cannot start without, and meanwhile frees this pod again and again, should an earlier agent's strict start
    /// hold it: who is held cannot ask the API server for anything.
    async fn read_freed(&self) -> anyhow::Result<Start> {
        const PART: &str = "strict start";
        let mut reading = pin!(self.read());
        loop {
            let freed = Self::has_bpffs().and_then(|()| pods::admit_own(&self.pins(), &self.cluster.own.uid));
            match freed {
                Ok(()) => self.readiness().goes_on(PART),
                Err(e) => self.readiness().waits(
                    PART,
                    format!("an earlier agent's may hold this pod, which cannot be let go: {e:#}; it is tried again"),
                ),
            }
            if let Ok(read) = timeout(RETRY, &mut reading).await {
                // What is still in the way is in the way of capture, too.
                self.readiness().goes_on(PART);
                return read;
            }
        }
    }

    /// An agent that is a pod cannot mount it for the node, and pins that end with the pod would let its workloads go.
    fn has_bpffs() -> anyhow::Result<()> {
        Ok(datapath::Bpffs::expect(Path::new(cleanup::BPFFS))?)
    }

    /// Reads what an agent cannot start without; what is in the way is said by whoever reads.
    async fn read(&self) -> anyhow::Result<Start> {
        // Nobody starts before it is known whether everything is to be taken away.
        self.removal.known().await;
        let configuration =
            role::configuration(&self.settings, Some(&self.cluster), Scope::Agent, &self.stop).await?;
        if let Some(mut found) = self.admin.ranges.clone() {
            // What an earlier agent bypassed is bypassed without a break. Without it pods are captured all the same.
            drop(timeout(RANGES, found.wait_for(|found| found.complete)).await);
        }
        let mut gateways = role::gateways(&self.settings, Some(&self.cluster));
        // Nobody is taken over before it is known: connections would be refused.
        gateways.wait_for(Option::is_some).await.context("the gateways are not watched any more")?;
        let machine_resolvers = resolvers::of_node().unwrap_or_else(|e| {
            tracing::warn!("pods cannot resolve names unless MeshConfig names dns.resolvers: {e}");
            Vec::new()
        });
        Ok(Start {
            settings: self.settings.clone(),
            cluster: Some(self.cluster.clone()),
            gateways,
            configuration: match &self.admin.ranges {
                Some(found) => ranges::bypassing(configuration, found.clone()),
                None => configuration,
            },
            machine_resolvers,
            flows: self.admin.flows.clone(),
        })
    }

    /// Becomes the agent, however often it has to try. None: it is told to end, or to take everything away.
    async fn start(&self, start: &mut Start) -> Option<Started> {
        const PART: &str = "capture";
        loop {
            if self.stop.is_cancelled() || self.removal.is_asked() {
                return None;
            }
            // One that serves is not replaced by one that does not know yet what to serve.
            if self.is_role_held() && !self.readiness().is_read() {
                sleep(LOOK).await;
                continue;
            }
            let started = async {
                Self::has_bpffs()?;
                let candidate = Candidate::stand(&self.settings.run_dir)?;
                beginning::start(start, &candidate, None).await
            };
            // Not to be interrupted: half of the workloads may be ours.
            match started.await {
                Ok(started) => {
                    self.readiness().goes_on(PART);
                    return Some(started);
                }
                Err(e) => {
                    self.readiness().waits(
                        PART,
                        format!("{e:#}; no pod of this node is newly captured until this is mended, and it is tried again"),
                    );
                }
            }
            tokio::select! {
                () = sleep(RETRY) => {}
                () = self.stop.cancelled() => {}
                () = self.removal.asked() => {}
            }
        }
    }

    /// Enrols the pods of this node, and tells them so. Returns what is to be guarded for them.
    fn follow_pods(
        &self,
        agent: &Arc<Agent>,
        start: &Start,
        trust_domain: String,
    ) -> watch::Receiver<Guards> {
        let (guards, wanted) = watch::channel(Guards::unknown());
        let parts = pods::Parts {
            agent: Arc::clone(agent),
            own: self.cluster.own.uid.clone(),
            trust_domain,
            pods: self.pods.clone(),
            configuration: start.configuration.clone(),
            verdicts: self.verdicts.clone(),
            guards,
        };
        self.tasks.spawn(pods::run(parts, self.stop.clone()));
        let (cluster, told, agent) = (self.cluster.clone(), self.verdicts.subscribe(), Arc::clone(agent));
        let failed = move || agent.condition_not_written();
        self.tasks.spawn(conditions::write(cluster, told, failed, self.stop.clone()));
        wanted
    }

    /// What was accepted goes on until it ends, or this pod does. Nothing else is ours any more.
    async fn keep_connections(&self, agent: &Agent) -> anyhow::Result<()> {
        self.readiness().enter(Stage::TakenOver);
        tracing::info!("another agent has taken over; connections go on until they or this pod are ended");
        tokio::select! {
            () = self.stop.cancelled() => {
                agent.drain(self.settings.take_over_drain).await;
                Ok(())
            }
            () = self.removal.asked() => self.remove(None).await,
            () = self.abandoned() => bail!(
                "the agent that took over is gone, and for {ABANDONED:?} no other came: this one ends, to be started again and take \
                 the workloads back"
            ),
            () = async {
                agent.drain(FOREVER).await;
                std::future::pending::<()>().await;
            } => Ok(()),
        }
    }

    /// Ready when nobody has the role, and has not had for a while.
    async fn abandoned(&self) {
        let mut since = Instant::now();
        while since.elapsed() < ABANDONED {
            sleep(LOOK).await;
            if self.is_role_held() {
                since = Instant::now();
            }
        }
    }

    fn is_role_held(&self) -> bool {
        // Without a pid file there is nobody; and what cannot be asked is found out by taking the role.
        is_held(&self.settings.run_dir, "agent").unwrap_or(false)
    }

    /// Takes everything away that Egret has on this node, says so, and stays idle. Ends when the order was taken back: then the
    /// kubelet starts it again.
    async fn remove(&self, agent: Option<&Arc<Agent>>) -> anyhow::Result<()> {
        const PART: &str = "removal";
        tracing::warn!("Egret is being removed: everything it has on this node is taken away");
        let (mut role, mut is_done) = (None, false);
        let removing = async {
            loop {
                match self.take_away(agent, &mut role).await {
                    Ok(true) => break,
                    // Another agent of this node does it.
                    Ok(false) => {}
                    Err(e) => self.readiness().waits(PART, format!("{e:#}; it is tried again")),
                }
                sleep(RETRY.min(LOOK * 5)).await;
            }
            self.readiness().goes_on(PART);
            self.readiness().enter(Stage::Removed);
            conditions::withdraw(&self.cluster, &released(&self.verdicts.borrow())).await;
            removal::confirm(&self.cluster).await;
            is_done = true;
            tracing::warn!("nothing of Egret is left on this node; this agent stays idle until it is ended");
            self.removal.taken_back().await;
            // The order goes with the DaemonSet, as does this pod, in no order.
            sleep(GOES_WITH_IT).await;
        };
        if self.stop.run_until_cancelled(removing).await.is_some() {
            tracing::warn!("Egret stays after all: this agent ends, to be started again");
            is_done = false;
        }
        if let Some(agent) = agent {
            agent.drain(DRAIN_DEADLINE).await;
        }
        let has_role = agent.is_some() || role.is_some();
        // Where another is just becoming the agent, Egret is back, and they are its own.
        if is_done
            && has_role
            && let Ok(candidate) = Candidate::stand(&self.settings.run_dir)
            && let Err(e) = candidate.leave_nothing()
        {
            tracing::warn!("what agents left in {} stays: {e}", self.settings.run_dir.path().display());
        }
        Ok(())
    }

    /// One attempt. `false`: another process has the role and is to do it.
    async fn take_away(
        &self,
        agent: Option<&Arc<Agent>>,
        role: &mut Option<Announced>,
    ) -> anyhow::Result<bool> {
        if let Some(agent) = agent {
            agent.let_go().await?;
        } else if role.is_none() {
            match Candidate::stand(&self.settings.run_dir).and_then(|candidate| candidate.announce()) {
                Ok(Ok(announced)) => *role = Some(announced),
                _ => return Ok(!self.pins().exists()),
            }
        }
        cleanup::of_node(&self.settings.run_dir).await?;
        // What was just being attached may have come afterwards.
        sleep(LOOK).await;
        Ok(!self.pins().exists())
    }

    fn pins(&self) -> PathBuf {
        cleanup::pin_directory(&self.settings.run_dir.instance())
    }
}

/// What is said of pods that were captured, when nothing is any more.
fn released(before: &Verdicts) -> Verdicts {
    let captured = before.iter().filter(|(_, (_, said))| said.holds);
    let said = Said {
        holds: false,
        reason: "Removed".to_owned(),
        message: "not captured: Egret was taken off this node".to_owned(),
    };
    captured.map(|(name, (pod, _))| (name.clone(), (pod.clone(), said.clone()))).collect()
}

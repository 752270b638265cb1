//! Where a workload is: what it has of ours in each network namespace that its processes are in, listeners and tunnels.
//!
//! `node::agent` sets it up, `node::life` brings it up to date. A workload of our own making stays in the namespace it was made for;
//! those that somebody else made may be in several, enter one late (containers), and leave. A namespace in which we are not
//! yet has no listener, so the kernel refuses there. Writes no policy and attaches nothing.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    dial::NamespaceDial,
    listener::{Listeners, Ports},
    netns::{Namespace, NamespaceId},
    processes,
    routes::Families,
    workload::Workload,
};
use crate::{datapath::WorkloadPolicy, hbone::client::Pool};

/// How long connections may go on in a namespace without a process of the workload: what a process has sent before it ended is
/// delivered, but our sockets must not keep the namespace alive.
const LINGER: Duration = Duration::from_secs(5);

/// Whoever runs in a workload can make namespaces; each costs us sockets. Further ones are refused.
const MAX_NAMESPACES: usize = 64;

/// What a workload has of ours in one network namespace.
pub(super) struct Presence {
    /// Absent: the agent's own.
    pub(super) namespace: Option<Arc<Namespace>>,
    /// One pool per namespace: a connection is carried from where it was accepted.
    pub(super) tunnels: Pool,
    /// Ends accepting.
    pub(super) stop: CancellationToken,
    /// Ends the connections.
    pub(super) gone: CancellationToken,
}

/// A namespace that was entered: its listeners are to be served.
pub(super) struct Arrival {
    pub(super) presence: Arc<Presence>,
    /// Each with its port.
    pub(super) listeners: Vec<(TcpListener, u16)>,
}

/// All of one workload's.
pub(super) struct Presences {
    /// The workload is released: nothing may be attached or bound any more.
    pub(super) released: bool,
    /// What has neither mark nor standing does not leave (`node::sockets`).
    pub(super) drops_older: bool,
    ports: Ports,
    entered: Vec<Arc<Presence>>,
    /// A process is in the agent's own namespace.
    in_agents: bool,
    families: Families,
    /// Namespaces that could not be entered, and why: said once.
    failed: BTreeMap<NamespaceId, String>,
}

impl Presences {
    pub(super) fn new() -> Self {
        Self {
            released: false,
            drops_older: false,
            ports: Ports::default(),
            entered: Vec::new(),
            in_agents: false,
            families: Families::default(),
            failed: BTreeMap::new(),
        }
    }

    /// What the kernel programs have to know.
    pub(super) fn policy(&self, workload: &Workload) -> WorkloadPolicy {
        WorkloadPolicy {
            workload: workload.id,
            listener_v4: self.ports.v4,
            listener_v6: self.ports.v6,
            listener_ports: self.ports.count,
            no_route_v4: !self.families.v4,
            no_route_v6: !self.families.v6,
            drops_older: self.drops_older,
        }
    }

    /// The namespaces that its processes are in; None is the agent's own.
    pub(super) fn namespaces(&self) -> Vec<Option<Arc<Namespace>>> {
        let agents = self.in_agents.then_some(None);
        agents.into_iter().chain(self.own_namespaces().cloned().map(Some)).collect()
    }

    /// The namespaces of its own that the workload is in, held open.
    pub(super) fn own_namespaces(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.entered.iter().filter_map(|presence| presence.namespace.as_ref())
    }

    /// Where its listeners are, the same in every namespace.
    pub(super) fn ports(&self) -> Ports {
        self.ports
    }

    /// Whether a process of it is in the agent's own namespace.
    pub(super) fn in_agents(&self) -> bool {
        self.in_agents
    }

    /// The namespaces its processes are in, for people: `host` for the agent's own.
    pub(super) fn names(&self) -> Vec<String> {
        let host = self.in_agents.then(|| "host".to_owned());
        host.into_iter().chain(self.own_namespaces().map(|namespace| namespace.id().to_string())).collect()
    }

    /// Finds where the workload is now: enters namespaces, leaves those without a process of it. Returns the ones entered, and
    /// how many could not be.
    pub(super) fn examine(
        &mut self,
        workload: &Workload,
        stop: &CancellationToken,
    ) -> io::Result<(Vec<Arrival>, u64)> {
        let (mut arrivals, mut failures) = (Vec::new(), 0);
        if self.entered.is_empty() {
            let own = workload.namespace.as_deref().map(Namespace::open).transpose()?;
            self.in_agents = own.is_none();
            arrivals.push(self.enter(own.map(Arc::new), stop)?);
        }
        if workload.origin.is_foreign() {
            let mut inhabited = processes::namespaces(&workload.cgroup)?;
            // We are in the agent's own from the start, and stay: a container's first process is often there for a moment.
            self.in_agents = inhabited.remove(&NamespaceId::of_agent()?).is_some() || inhabited.is_empty();
            self.leave_others(&inhabited);
            let known: Vec<_> = self.own_namespaces().map(|namespace| namespace.id()).collect();
            inhabited.retain(|id, _| !known.contains(id));
            self.failed.retain(|id, _| inhabited.contains_key(id));
            for (id, process) in inhabited {
                match self.follow(workload, process, id, stop) {
                    Ok(arrival) => arrivals.extend(arrival),
                    Err(e) => {
                        failures += 1;
                        self.complain(workload, id, &e);
                    }
                }
            }
        }
        match self.find_families() {
            Ok(families) => self.families = families,
            // What was known stays; at first that is "no route", which refuses.
            Err(e) => {
                failures += 1;
                tracing::error!(workload = %workload.identity, "the links of its network namespaces cannot be read: {e}");
            }
        }
        Ok((arrivals, failures))
    }

    /// Leaves all of them: the last process is gone.
    pub(super) fn end(&mut self) {
        self.entered.drain(..).for_each(|presence| presence.end());
    }

    fn follow(
        &mut self,
        workload: &Workload,
        process: u32,
        id: NamespaceId,
        stop: &CancellationToken,
    ) -> io::Result<Option<Arrival>> {
        if self.entered.len() > MAX_NAMESPACES {
            return Err(io::Error::other(format!("it is in more than {MAX_NAMESPACES} network namespaces")));
        }
        let Some(namespace) = processes::open(&workload.cgroup, process, id)? else { return Ok(None) };
        self.enter(Some(Arc::new(namespace)), stop).map(Some)
    }

    fn enter(&mut self, namespace: Option<Arc<Namespace>>, stop: &CancellationToken) -> io::Result<Arrival> {
        let listeners = Listeners::bind(namespace.as_deref(), self.ports)?;
        let ports = listeners.ports()?;
        let listeners = listeners.into_all().map(|listener| {
            let port = listener.local_addr()?.port();
            Ok((TcpListener::from_std(listener)?, port))
        });
        let listeners = listeners.collect::<io::Result<_>>()?;
        // The first one decides; IPv6 may be off there.
        self.ports = Ports { v6: if self.ports.v6 == 0 { ports.v6 } else { self.ports.v6 }, ..ports };
        let presence = Arc::new(Presence {
            tunnels: Pool::new(Arc::new(NamespaceDial { namespace: namespace.clone() })),
            namespace,
            stop: stop.child_token(),
            gone: CancellationToken::new(),
        });
        self.entered.push(Arc::clone(&presence));
        Ok(Arrival { presence, listeners })
    }

    fn leave_others(&mut self, inhabited: &BTreeMap<NamespaceId, u32>) {
        self.entered.retain(|presence| {
            let stays =
                presence.namespace.as_ref().is_none_or(|namespace| inhabited.contains_key(&namespace.id()));
            if !stays {
                presence.end();
            }
            stays
        });
    }

    /// A family that none of the namespaces has is "no route".
    fn find_families(&self) -> io::Result<Families> {
        let mut families = if self.in_agents { Families::of(None)? } else { Families::default() };
        for namespace in self.own_namespaces() {
            families = families.or(Families::of(Some(namespace))?);
        }
        Ok(families)
    }

    fn complain(&mut self, workload: &Workload, id: NamespaceId, error: &io::Error) {
        let why = match error.raw_os_error() {
            Some(nix::libc::EADDRINUSE) => {
                format!("port {} of its loopback is taken", self.ports.v4)
            }
            _ => error.to_string(),
        };
        if self.failed.get(&id) != Some(&why) {
            tracing::error!(workload = %workload.identity, "refused in its network namespace {id}: {why}");
            self.failed.insert(id, why);
        }
    }
}

impl Presence {
    fn end(&self) {
        self.stop.cancel();
        let gone = self.gone.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            gone.cancel();
        });
    }
}

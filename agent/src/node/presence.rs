//! Where a workload is: what it has of ours in each network namespace that its processes are in, listeners and tunnels.
//!
//! `node::agent` sets it up, `node::life` brings it up to date. A workload of our own making stays in the namespace it was made for;
//! those that somebody else made may be in several, enter one late (containers), and leave. A namespace in which we are not
//! yet has no listener, so the kernel refuses there. Writes no policy and attaches nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::TcpListener,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    dial::NamespaceDial,
    dns::{self, Dns},
    hop::Hop,
    listener::{Listeners, Ports},
    netns::{Namespace, NamespaceId},
    processes,
    routes::Families,
    workload::Workload,
};
use crate::{
    datapath::{Numbered, WorkloadPolicy},
    hbone::client::Pool,
};

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
    pub(super) tunnels: Arc<Pool>,
    /// Proves that connections made there arrive.
    pub(super) hop: Hop,
    /// The tasks that accept.
    accepting: Mutex<Vec<JoinHandle<()>>>,
    /// Ends accepting.
    pub(super) stop: CancellationToken,
    /// Ends the connections.
    pub(super) gone: CancellationToken,
    /// Ends the DNS listeners in use.
    dns: Mutex<CancellationToken>,
    /// Its loopback has IPv6.
    loopback_v6: bool,
    families: Mutex<Families>,
}

/// A namespace that was entered: its listeners are to be served.
pub(super) struct Arrival {
    pub(super) presence: Arc<Presence>,
    /// Each with its port.
    pub(super) listeners: Vec<(TcpListener, u16)>,
}

/// DNS listeners that were bound: they are to be served until the token is cancelled.
pub(super) struct DnsArrival {
    pub(super) presence: Arc<Presence>,
    pub(super) listeners: dns::Listeners,
    pub(super) stop: CancellationToken,
}

/// What [`Presences::examine`] has found and done.
#[derive(Default)]
pub(super) struct Examined {
    pub(super) arrivals: Vec<Arrival>,
    pub(super) dns: Vec<DnsArrival>,
    /// Those of DNS listeners that others have replaced: to be cancelled when the policy says so.
    pub(super) replaced: Vec<CancellationToken>,
    /// How many namespaces could not be entered or read.
    pub(super) failures: u64,
}

/// All of one workload's.
pub(super) struct Presences {
    /// The workload is released: nothing may be attached or bound any more.
    pub(super) released: bool,
    /// What has neither mark nor standing does not leave (`node::sockets`).
    pub(super) drops_older: bool,
    ports: Ports,
    entered: Vec<Arc<Presence>>,
    /// A process is in the agent's own namespace, or none is anywhere.
    in_agents: bool,
    /// No process is anywhere.
    is_empty: bool,
    families: Families,
    /// Namespaces that could not be entered, and why: said once.
    failed: BTreeMap<NamespaceId, String>,
    dns: dns::Bound,
}

impl Presences {
    pub(super) fn new() -> Self {
        Self {
            released: false,
            drops_older: false,
            ports: Ports::default(),
            entered: Vec::new(),
            in_agents: false,
            is_empty: false,
            families: Families::default(),
            failed: BTreeMap::new(),
            dns: dns::Bound::default(),
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
            own_network: self.own_network(workload),
            drops_older: self.drops_older,
            dns: self.dns.ports(),
            ..WorkloadPolicy::default()
        }
    }

    /// Where processes of the workload may be.
    pub(super) fn inhabited(&self) -> impl Iterator<Item = &Arc<Presence>> {
        self.entered.iter().filter(|presence| self.in_agents || presence.namespace.is_some())
    }

    /// Whether every listener is there and served.
    pub(super) fn are_served(&self) -> bool {
        self.entered.iter().all(|presence| presence.accepting.lock().iter().all(|task| !task.is_finished()))
    }

    /// Where it is refused because we could not follow it, if anywhere.
    pub(super) fn problem(&self) -> Option<String> {
        let (id, why) = self.failed.first_key_value()?;
        Some(format!("it is refused in its network namespace {id}: {why}"))
    }

    /// Makes new listeners, at other ports, in every namespace the workload is in. The second part of the answer had the old
    /// ones, which are to end when connections go to the new ones. An error changes nothing.
    pub(super) fn reopen(&mut self, stop: &CancellationToken) -> io::Result<(Examined, Vec<Arc<Presence>>)> {
        let (old, ports) = (std::mem::take(&mut self.entered), std::mem::take(&mut self.ports));
        let mut examined = Examined::default();
        let entered = old
            .iter()
            .try_for_each(|before| self.enter(before.namespace.clone(), Some(before), stop, &mut examined));
        let entered = entered.and_then(|()| {
            // Loopback is down, and has lost its IPv6 address for now.
            let lost = self.ports.v6 == 0 && ports.v6 != 0;
            if lost { Err(io::ErrorKind::AddrNotAvailable.into()) } else { Ok(()) }
        });
        match entered {
            Ok(()) => Ok((examined, old)),
            Err(e) => {
                (self.entered, self.ports) = (old, ports);
                Err(e)
            }
        }
    }

    /// The namespaces that its processes are in; None is the agent's own.
    pub(super) fn namespaces(&self) -> Vec<Option<Arc<Namespace>>> {
        self.inhabited().map(|presence| presence.namespace.clone()).collect()
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
        self.in_agents && !self.is_empty
    }

    /// Whether it is in namespaces of its own only. A pod's first process is about to enter its sandbox's; of another's nobody knows
    /// where it will be.
    fn own_network(&self, workload: &Workload) -> bool {
        if workload.pod().is_some() { !self.in_agents() } else { !self.in_agents }
    }

    /// The namespaces its processes are in, for people: `host` for the agent's own.
    pub(super) fn names(&self) -> Vec<String> {
        let host = self.in_agents.then(|| "host".to_owned());
        host.into_iter().chain(self.own_namespaces().map(|namespace| namespace.id().to_string())).collect()
    }

    /// Whether the processes of a foreign workload are elsewhere than [`Presences::examine`] last found them, or nobody knows.
    pub(super) fn has_moved(&self, workload: &Workload) -> bool {
        let moved = || {
            let inhabited = processes::namespaces(&workload.cgroup)?;
            let of_agent = NamespaceId::of_agent()?;
            let known: BTreeSet<_> = self.own_namespaces().map(|namespace| namespace.id()).collect();
            let found: BTreeSet<_> = inhabited.keys().copied().filter(|id| *id != of_agent).collect();
            let in_agents = inhabited.contains_key(&of_agent) || inhabited.is_empty();
            io::Result::Ok(
                known != found || (self.in_agents, self.is_empty) != (in_agents, inhabited.is_empty()),
            )
        };
        moved().unwrap_or(true)
    }

    /// Finds where the workload is now: enters namespaces, leaves those without a process of it. Makes the DNS listeners in all
    /// of them what the configuration wants.
    pub(super) fn examine(
        &mut self,
        workload: &Workload,
        stop: &CancellationToken,
        dns: &Dns,
    ) -> io::Result<Examined> {
        let mut examined = Examined::default();
        if self.entered.is_empty() {
            let own = workload.namespace.as_deref().map(Namespace::open).transpose()?;
            self.in_agents = own.is_none();
            self.enter(own.map(Arc::new), None, stop, &mut examined)?;
        }
        if workload.origin.is_foreign() {
            let mut inhabited = processes::namespaces(&workload.cgroup)?;
            // We are in the agent's own from the start, and stay: a container's first process is often there for a moment.
            self.is_empty = inhabited.is_empty();
            self.in_agents = inhabited.remove(&NamespaceId::of_agent()?).is_some() || self.is_empty;
            self.leave_others(&inhabited);
            let known: Vec<_> = self.own_namespaces().map(|namespace| namespace.id()).collect();
            inhabited.retain(|id, _| !known.contains(id));
            self.failed.retain(|id, _| inhabited.contains_key(id));
            for (id, process) in inhabited {
                if let Err(e) = self.follow(workload, process, id, stop, &mut examined) {
                    examined.failures += 1;
                    self.complain(workload, id, &e);
                }
            }
        }
        match self.find_families() {
            Ok(families) => self.families = families,
            // What was known stays; at first that is "no route", which refuses.
            Err(e) => {
                examined.failures += 1;
                tracing::error!(workload = %workload.identity, "the links of its network namespaces cannot be read: {e}");
            }
        }
        // Last, so that none of what was bound is lost to an error.
        if let Err(e) = self.renew_dns(dns.resolvers(), stop, &mut examined) {
            examined.failures += 1;
            tracing::error!(workload = %workload.identity, "its DNS queries are refused: {e}");
        }
        Ok(examined)
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
        examined: &mut Examined,
    ) -> io::Result<()> {
        if self.entered.len() > MAX_NAMESPACES {
            return Err(io::Error::other(format!("it is in more than {MAX_NAMESPACES} network namespaces")));
        }
        let Some(namespace) = processes::open(&workload.cgroup, process, id)? else { return Ok(()) };
        self.enter(Some(Arc::new(namespace)), None, stop, examined)
    }

    /// `before`: what it had there until now, whose connections, tunnels and DNS listeners go on.
    fn enter(
        &mut self,
        namespace: Option<Arc<Namespace>>,
        before: Option<&Arc<Presence>>,
        stop: &CancellationToken,
        examined: &mut Examined,
    ) -> io::Result<()> {
        let listeners = Listeners::bind(namespace.as_deref(), self.ports)?;
        let ports = listeners.ports()?;
        let dns = if before.is_some() { None } else { self.dns.enter(namespace.as_deref())? };
        let listeners = listeners.into_all().map(|listener| {
            let port = listener.local_addr()?.port();
            Ok((listener, port))
        });
        let listeners = listeners.collect::<io::Result<_>>()?;
        // The first one decides; IPv6 may be off there.
        self.ports = Ports { v6: if self.ports.v6 == 0 { ports.v6 } else { self.ports.v6 }, ..ports };
        let presence = Arc::new(Presence {
            tunnels: before.map_or_else(
                || Arc::new(Pool::new(Arc::new(NamespaceDial { namespace: namespace.clone() }))),
                |before| Arc::clone(&before.tunnels),
            ),
            namespace,
            hop: Hop::default(),
            accepting: Mutex::default(),
            stop: stop.child_token(),
            gone: before.map_or_else(CancellationToken::new, |before| before.gone.clone()),
            dns: Mutex::new(before.map_or_else(|| stop.child_token(), |before| before.dns.lock().clone())),
            loopback_v6: ports.v6 != 0,
            families: Mutex::new(before.map_or_else(Families::default, |before| *before.families.lock())),
        });
        if let Some(listeners) = dns {
            let stop = presence.dns.lock().clone();
            examined.dns.push(DnsArrival { presence: Arc::clone(&presence), listeners, stop });
        }
        self.entered.push(Arc::clone(&presence));
        examined.arrivals.push(Arrival { presence, listeners });
        Ok(())
    }

    /// Makes the DNS listeners in the namespaces entered anew, where they are not for these resolvers.
    fn renew_dns(
        &mut self,
        wanted: Option<Arc<Numbered>>,
        stop: &CancellationToken,
        examined: &mut Examined,
    ) -> io::Result<()> {
        let namespaces: Vec<_> = self.entered.iter().map(|presence| presence.namespace.as_deref()).collect();
        let Some(listeners) = self.dns.renew(wanted, &namespaces)? else { return Ok(()) };
        let mut listeners = listeners.into_iter();
        for presence in &self.entered {
            let stop = stop.child_token();
            examined.replaced.push(std::mem::replace(&mut *presence.dns.lock(), stop.clone()));
            let arrival = |listeners| DnsArrival { presence: Arc::clone(presence), listeners, stop };
            examined.dns.extend(listeners.next().map(arrival));
        }
        Ok(())
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
        let mut families = Families::default();
        for presence in self.inhabited() {
            let here = Families::of(presence.namespace.as_deref())?;
            *presence.families.lock() = here;
            families = families.or(here);
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
    /// Says by which tasks its listeners are served.
    pub(super) fn serve_by(&self, tasks: Vec<JoinHandle<()>>) {
        *self.accepting.lock() = tasks;
    }

    /// The address families that the workload can dial from here.
    pub(super) fn families(&self) -> Families {
        let Families { v4, v6 } = *self.families.lock();
        Families { v4, v6: v6 && self.loopback_v6 }
    }

    fn end(&self) {
        self.stop.cancel();
        self.dns.lock().cancel();
        let gone = self.gone.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            gone.cancel();
        });
    }
}

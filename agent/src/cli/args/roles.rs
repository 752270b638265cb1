//! The arguments of the roles: what runs until it is told to end.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;

use super::{Instance, WorkloadName, queries::loopback};
use crate::{
    app::{
        Ending, FLOW_CAPACITY, Settings, Source,
        ca::{DEFAULT_LISTEN, Network},
    },
    ca::Account,
    hbone,
    telemetry::traces::{Endpoint, Percent, Tracing},
};

/// The port on which gateway and CA answer probes of a kubelet: Istio's proxies use the same.
const HEALTH_PORT: u16 = 15021;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Up {
    /// Directory of YAML files; changes are picked up
    #[arg(short = 'f', long, value_name = "DIR")]
    pub(in crate::cli) config: PathBuf,
    #[command(flatten)]
    instance: Instance,
    #[command(flatten)]
    tunnels: Tunnels,
    #[command(flatten)]
    draining: Draining,
    #[command(flatten)]
    flows: Flows,
    #[command(flatten)]
    metrics: Metrics,
    #[command(flatten)]
    traces: Traces,
}

impl Up {
    pub(in crate::cli) fn settings(&self) -> anyhow::Result<Settings> {
        let source = directory(&self.config)?;
        let settings = settings(&self.instance, source, &self.tunnels, self.draining, &self.metrics);
        Ok(Settings { flow_capacity: self.flows.flow_capacity, tracing: self.traces.settings(), ..settings })
    }
}

#[derive(Debug, clap::Args)]
struct Metrics {
    /// Where to serve metrics for Prometheus, at /metrics; with `egret up` those of all roles. Whoever reaches it may read them
    /// [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_address: Option<SocketAddr>,
}

#[derive(Debug, clap::Args)]
struct Traces {
    /// Collector that the gateway sends spans to, by OTLP over gRPC, such as http://localhost:4317 [default: none, and nothing is traced]
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<Endpoint>,
    /// How many of the requests and connections that come without a trace begin one; those that come with one are traced as that
    /// says
    #[arg(long, value_name = "PERCENT", default_value_t, requires = "otlp_endpoint")]
    trace_sampling: Percent,
}

impl Traces {
    fn settings(&self) -> Option<Tracing> {
        self.otlp_endpoint.clone().map(|endpoint| Tracing { endpoint, sampling: self.trace_sampling })
    }
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Flows {
    /// How many flows that have ended agent and gateway each remember, about 2 KB each; flows that are open come on top. 0: no flow is
    /// recorded, and `egret flows` has nothing to tell; metrics and access log stay
    #[arg(long, value_name = "NUMBER", default_value_t = FLOW_CAPACITY)]
    flow_capacity: usize,
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Draining {
    /// How long connections may go on with an agent after another one has taken over
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain_deadline: u64,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Tunnels {
    /// Address of the gateway's tunnel port [default: 127.0.0.1:15008; of a gateway with --kubernetes: [::]:15008]
    #[arg(long, value_name = "ADDRESS:PORT")]
    hbone_address: Option<SocketAddr>,
}

impl Tunnels {
    pub(in crate::cli) fn on_machine(&self) -> SocketAddr {
        self.hbone_address.unwrap_or((Ipv4Addr::LOCALHOST, hbone::PORT).into())
    }

    fn with(&self, source: &Source) -> SocketAddr {
        match source {
            Source::Directory(_) => self.on_machine(),
            Source::Kubernetes => self.hbone_address.unwrap_or((Ipv6Addr::UNSPECIFIED, hbone::PORT).into()),
        }
    }
}

/// Where a role's configuration comes from.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Configuration {
    /// Directory of YAML files; changes are picked up
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// This process is a pod: configuration, workloads and the other roles are found through the Kubernetes API
    #[arg(long)]
    kubernetes: bool,
}

#[derive(Debug, clap::Args)]
struct Role {
    #[command(flatten)]
    configuration: Configuration,
    #[command(flatten)]
    instance: Instance,
    #[command(flatten)]
    tunnels: Tunnels,
    /// Where to answer probes, /healthz/live and /healthz/ready [default: nowhere; with --kubernetes: [::]:15021]
    #[arg(long, value_name = "ADDRESS:PORT")]
    health_address: Option<SocketAddr>,
    #[command(flatten)]
    metrics: Metrics,
}

impl Role {
    fn settings(&self) -> anyhow::Result<Settings> {
        let source = self.configuration.source()?;
        let health_address = self
            .health_address
            .or_else(|| (source == Source::Kubernetes).then(|| (Ipv6Addr::UNSPECIFIED, HEALTH_PORT).into()));
        // No other role than the agent can be taken over.
        let draining = Draining { drain_deadline: 0 };
        let settings = settings(&self.instance, source, &self.tunnels, draining, &self.metrics);
        Ok(Settings { health_address, ..settings })
    }
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Gateway {
    #[command(flatten)]
    role: Role,
    /// How long to go on taking new tunnels after SIGTERM, until agents have heard of the end [default: 0; with --kubernetes: 5]
    #[arg(long, value_name = "SECONDS")]
    drain_delay: Option<u64>,
    /// How long after SIGTERM what still goes on is cut [default: 5; with --kubernetes: 30]
    #[arg(long, value_name = "SECONDS")]
    drain_deadline: Option<u64>,
    #[command(flatten)]
    flows: Flows,
    #[command(flatten)]
    traces: Traces,
    /// Where to serve a page of what this gateway knows, read-only: an address of loopback. `egret ui --gateway` prints its address with
    /// the token that it wants [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = loopback)]
    page_address: Option<SocketAddr>,
    /// Write what is denied to a pod as an event of the pod
    #[arg(long)]
    pod_events: bool,
}

impl Gateway {
    pub(in crate::cli) fn settings(&self) -> anyhow::Result<Settings> {
        let settings = self.role.settings()?;
        let usual = settings.ending;
        let deadline = self.drain_deadline.map_or(usual.deadline, Duration::from_secs);
        let delay = self.drain_delay.map_or(usual.delay.min(deadline), Duration::from_secs);
        let ending = Ending { delay, deadline };
        anyhow::ensure!(
            ending.delay <= ending.deadline,
            "--drain-delay {} is longer than --drain-deadline {}: both count from the signal, so the deadline has to be the later one",
            ending.delay.as_secs(),
            ending.deadline.as_secs(),
        );
        anyhow::ensure!(
            !self.pod_events || settings.source == Source::Kubernetes,
            "--pod-events goes with --kubernetes: there are no pods elsewhere"
        );
        let (flow_capacity, page_address) = (self.flows.flow_capacity, self.page_address);
        let tracing = self.traces.settings();
        let pod_events = self.pod_events;
        Ok(Settings { page_address, pod_events, ending, flow_capacity, tracing, ..settings })
    }
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Ca {
    #[command(flatten)]
    role: Role,
    /// With --kubernetes, where agents and gateways find it
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = DEFAULT_LISTEN)]
    listen: SocketAddr,
    /// With --kubernetes, the service account of agents [default: egret-agent in the CA's own namespace]
    #[arg(long, value_name = "NAMESPACE/SERVICE-ACCOUNT")]
    agent_account: Option<WorkloadName>,
}

impl Ca {
    pub(in crate::cli) fn settings(&self) -> anyhow::Result<Settings> {
        self.role.settings()
    }

    pub(in crate::cli) fn network(&self) -> Network {
        let account =
            |account: WorkloadName| Account { namespace: account.namespace, name: account.service_account };
        Network { listen: self.listen, agent: self.agent_account.clone().map(account) }
    }
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Agent {
    #[command(flatten)]
    configuration: Configuration,
    /// Take away everything an instance left on this machine, and nothing else's: what `egret exec` ran is ended, services and
    /// containers are released and go on
    #[arg(long, group = "Configuration")]
    pub(in crate::cli) cleanup: bool,
    /// Take the workloads over from an agent that runs, without a gap; it ends when its connections have ended
    #[arg(long, conflicts_with = "cleanup")]
    pub(in crate::cli) take_over: bool,
    #[command(flatten)]
    pub(in crate::cli) instance: Instance,
    #[command(flatten)]
    tunnels: Tunnels,
    #[command(flatten)]
    draining: Draining,
    #[command(flatten)]
    flows: Flows,
    #[command(flatten)]
    metrics: Metrics,
}

impl Agent {
    pub(in crate::cli) fn settings(&self) -> anyhow::Result<Settings> {
        let source = self.configuration.source()?;
        let settings = settings(&self.instance, source, &self.tunnels, self.draining, &self.metrics);
        Ok(Settings { flow_capacity: self.flows.flow_capacity, ..settings })
    }
}

impl Configuration {
    fn source(&self) -> anyhow::Result<Source> {
        self.config.as_deref().map_or(Ok(Source::Kubernetes), directory)
    }
}

/// Relative paths would mean something else to the other processes of the instance.
fn directory(path: &Path) -> anyhow::Result<Source> {
    let absolute = std::path::absolute(path);
    Ok(Source::Directory(absolute.with_context(|| format!("configuration directory {}", path.display()))?))
}

fn settings(
    instance: &Instance,
    source: Source,
    tunnels: &Tunnels,
    draining: Draining,
    metrics: &Metrics,
) -> Settings {
    Settings {
        run_dir: instance.run_dir(),
        hbone_address: tunnels.with(&source),
        health_address: None,
        metrics_address: metrics.metrics_address,
        ending: Ending::usual(&source),
        source,
        page_address: None,
        pod_events: false,
        take_over_drain: Duration::from_secs(draining.drain_deadline),
        flow_capacity: FLOW_CAPACITY,
        tracing: None,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{
        super::{Args, Command},
        Ending,
    };

    #[test]
    fn a_gateway_ends_as_is_usual_where_it_runs_or_as_it_is_told() {
        let ending = |arguments: &[&str]| {
            let line = ["egret", "gateway"].iter().chain(arguments);
            let Command::Gateway(gateway) = Args::parse_from(line).command else { panic!() };
            gateway.settings().map(|settings| {
                let Ending { delay, deadline } = settings.ending;
                (
                    delay.as_secs(),
                    deadline.as_secs(),
                    settings.hbone_address.to_string(),
                    settings.health_address,
                )
            })
        };
        let machine = ending(&["--config", "/etc/egret"]).unwrap();
        assert_eq!(machine, (0, 5, "127.0.0.1:15008".to_owned(), None));
        let health = Some("[::]:15021".parse().unwrap());
        let cluster = ending(&["--kubernetes"]).unwrap();
        assert_eq!(cluster, (5, 30, "[::]:15008".to_owned(), health));
        let short = ending(&["--kubernetes", "--drain-deadline", "3"]).unwrap();
        assert_eq!((short.0, short.1), (3, 3), "the usual delay fits into any deadline");
        assert!(ending(&["--kubernetes", "--drain-delay", "9", "--drain-deadline", "3"]).is_err());
        assert!(ending(&["--kubernetes", "--pod-events"]).is_ok());
        assert!(ending(&["--config", "/etc/egret", "--pod-events"]).is_err());
    }
}

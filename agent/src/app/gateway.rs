//! `egret gateway`: the shared egress gateway, from its start to its end.
//!
//! On a cluster it waits for whatever is not there yet, and says so to probes. Told to end, it goes on taking tunnels until agents
//! have heard of it, then lets go of them: whoever has nothing open moves on, and what is open may finish until the deadline.

use std::{
    fs::OpenOptions,
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Ending, Settings, Source, health::Health, listen::listen, metrics, port, role,
    settings::gateway_identity, shutdown,
};
use crate::{
    admin,
    denials::Denials,
    dns::Resolver,
    flow::{FlowTable, Side},
    gateway::{self, Gateway, Parts},
    kubernetes::{Cluster, configuration::Scope, events},
    mesh::SpiffeId,
    telemetry::{access_log::AccessLog, traces::Traces},
    tls::store::CertificateStore,
    ui::{self, Token},
    workers::{self, Workers},
};

/// Between two tries to get the gateway's first certificate.
const CERTIFICATE_RETRY: Duration = Duration::from_secs(2);

/// Between two looks at whether its certificate is still valid.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(10);

/// What the gateway needs before it is ready.
const CONFIGURATION: &str = "configuration";
const CERTIFICATE: &str = "certificate";
const LISTENER: &str = "listener";

/// Runs the gateway until it is told to end, and its tunnels have ended.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    role::raise_open_files();
    let _announced = role::announce(&settings.run_dir, "gateway")?;
    let health = Health::waiting_for(&[CONFIGURATION, CERTIFICATE, LISTENER]);
    // Probes are answered until the very end.
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    if let Some(address) = settings.health_address {
        health.serve(address, ended.clone())?;
    }
    let cluster = role::cluster(&settings)?;
    if let Some(cluster) = &cluster {
        health.follow(cluster.standing.clone());
    }
    let flows = FlowTable::new(Side::Gateway, settings.flow_capacity);
    let (configured, serves) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
    let page = settings.page_address.map(page_listener).transpose()?;
    // From here on it can be asked what it waits for.
    let state = admin::GatewayState {
        configured: Arc::clone(&configured),
        serving: Arc::clone(&serves),
        flows: flows.clone(),
        readiness: health.asker(),
        cluster: cluster.clone(),
        page: page.as_ref().map(|(_, _, page)| page.clone()),
    };
    if let Some((listener, token, _)) = page {
        let router = ui::router(ui::api(state.clone()), &token);
        let ended = ended.clone();
        tokio::spawn(async move { ended.run_until_cancelled(port::answer(listener, router)).await });
    }
    if let Some(address) = settings.metrics_address {
        let measured = state.clone();
        metrics::serve(address, move || measured.measure(), ended.clone())?;
    }
    let admin = admin::gateway(state);
    let tasks = TaskTracker::new();
    let admin_listener = role::bind(&settings.run_dir.socket("gateway"))?;
    tasks.spawn(admin::serve(admin_listener, admin, ended.clone()));
    let mut configuration = role::configuration(&settings, cluster.as_ref(), Scope::Gateway, &stop).await?;
    health.has(CONFIGURATION);
    let identity = gateway_identity(&configuration.borrow().snapshot.settings)?;
    let certificates =
        CertificateStore::new(role::issuer(&settings, cluster.as_ref(), identity.trust_domain())?);
    // Nobody else sets it, and once is all.
    drop(configured.set((configuration.clone(), certificates.clone())));
    let access_log = access_log(&settings)?;
    let listener = listen(settings.hbone_address).with_context(|| {
        format!(
            "the gateway cannot listen on {}: choose another address with --hbone-address",
            settings.hbone_address
        )
    })?;
    health.has(LISTENER);
    match settings.source {
        Source::Directory(_) => {
            certificates.fetch(&identity).await.context("the gateway has no certificate")?;
        }
        Source::Kubernetes => {
            let waiting = wait_for_certificate(&certificates, &identity, &health);
            if stop.run_until_cancelled(waiting).await.is_none() {
                return Ok(());
            }
        }
    }
    health.has(CERTIFICATE);
    let service = format!("{}.{}", identity.service_account(), identity.namespace());
    let pod = cluster.as_ref().map(|cluster| &*cluster.own.name);
    let traced = settings.tracing.as_ref().map(|tracing| Traces::start(tracing, &service, pod));
    let (traces, exporting) = traced.transpose().context("traces cannot be exported")?.unzip();
    let parts = Parts {
        snapshot: configuration.clone(),
        certificates: certificates.clone(),
        identity: identity.clone(),
        resolver: Resolver::system().context("the system's resolver configuration")?,
        flows,
        access_log,
        traces,
        denials: denials(&settings, cluster.as_ref(), &ended),
        workers: Workers::start(workers::cpus(), settings.source.tunnels())
            .context("the gateway's threads")?,
    };
    let gateway = Gateway::new(gateway::Settings::default(), parts);
    // Nobody else sets it, and once is all.
    drop(serves.set(Arc::clone(&gateway)));
    tracing::info!(%identity, address = %settings.hbone_address, "serving tunnels");

    let drain = CancellationToken::new();
    let serving = tokio::spawn(gateway::serve(listener, Arc::clone(&gateway), drain.clone()));
    role::log_problems(&configuration.borrow_and_update());
    let follow = async {
        while configuration.changed().await.is_ok() {
            role::log_problems(&configuration.borrow_and_update());
        }
        // There will be no other configuration.
        std::future::pending::<()>().await;
    };
    let both = async { tokio::join!(follow, watch_certificate(&certificates, &identity, &health)) };
    stop.run_until_cancelled(both).await;
    health.drains();
    end(&gateway, settings.ending, &drain, serving).await;
    if let Some(exporting) = exporting {
        exporting.end().await;
    }
    ended.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// On a cluster, where that is wanted, an end of a queue whose other end is told as events.
fn denials(settings: &Settings, cluster: Option<&Cluster>, ended: &CancellationToken) -> Denials {
    let Some(cluster) = cluster.filter(|_| settings.pod_events) else { return Denials::default() };
    let (denials, queue) = Denials::queue();
    let writing = events::write(cluster.clone(), queue, denials.clone());
    let ended = ended.clone();
    tokio::spawn(async move { ended.run_until_cancelled(writing).await });
    denials
}

/// Where its page is served, with the token that is told on the admin socket only.
fn page_listener(address: SocketAddr) -> anyhow::Result<(TcpListener, Token, admin::GatewayPage)> {
    let listener = listen(address).with_context(|| {
        format!("the page cannot be served on {address}: choose another address with --page-address")
    })?;
    let token = Token::random();
    let url = format!("http://{}/#{token}", listener.local_addr()?);
    Ok((listener, token, admin::GatewayPage { url }))
}

/// On a machine a file; in a container what it prints: `kubectl logs` shows it, and the program's own log beside it is stderr.
fn access_log(settings: &Settings) -> anyhow::Result<AccessLog> {
    match settings.source {
        Source::Kubernetes => AccessLog::to(io::stdout()).context("access log"),
        Source::Directory(_) => {
            let file = settings.run_dir.access_log();
            let opened = OpenOptions::new().create(true).append(true).open(&file);
            opened.and_then(AccessLog::to).with_context(|| format!("access log {}", file.display()))
        }
    }
}

/// Tries until there is one: the CA may start later than we do, and is no reason to start again.
async fn wait_for_certificate(certificates: &CertificateStore, identity: &SpiffeId, health: &Health) {
    while let Err(e) = certificates.fetch(identity).await {
        if health.lacks(CERTIFICATE, &e.to_string()) {
            tracing::warn!("the gateway has no certificate yet and is not ready: {e}");
        }
        time::sleep(CERTIFICATE_RETRY).await;
    }
}

/// Says when there is no valid certificate any more, and when there is one again.
async fn watch_certificate(certificates: &CertificateStore, identity: &SpiffeId, health: &Health) {
    loop {
        time::sleep(CERTIFICATE_CHECK).await;
        match certificates.fetch(identity).await {
            Ok(_) => health.has(CERTIFICATE),
            Err(e) if health.lacks(CERTIFICATE, &e.to_string()) => {
                tracing::error!("the gateway has no certificate any more and refuses tunnels: {e}");
            }
            Err(_) => {}
        }
    }
}

/// Lets go of the tunnels: at first of what asks anyway, then of what is idle, in the end of everything.
async fn end(gateway: &Gateway, ending: Ending, drain: &CancellationToken, serving: JoinHandle<()>) {
    let deadline = Instant::now() + ending.deadline;
    tracing::info!(
        open = gateway.tunnels(),
        "told to end: new tunnels are taken for {:?}, those that are open may go on for {:?}",
        ending.delay,
        ending.deadline
    );
    gateway.close_after_answers();
    time::sleep(ending.delay).await;
    drain.cancel();
    match time::timeout_at(deadline, serving).await {
        Ok(Ok(())) => tracing::info!("all tunnels have ended"),
        Ok(Err(e)) => tracing::error!("the gateway broke: {e}"),
        Err(_) => {
            tracing::warn!(open = gateway.tunnels(), "tunnels are cut: the drain deadline has passed");
        }
    }
}

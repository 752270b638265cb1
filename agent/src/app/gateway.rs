//! `egret gateway`: the shared egress gateway.

use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::task::TaskTracker;

use super::{
    Settings, role,
    settings::{RECENT_FLOWS, gateway_identity},
    shutdown,
};
use crate::{
    admin,
    dns::Resolver,
    flow::{FlowTable, Side},
    gateway::{self, Gateway, Parts},
    telemetry::access_log::AccessLog,
    tls::{issuer::unix::UnixIssuer, store::CertificateStore},
};

/// Runs the gateway until it is told to end.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    role::raise_open_files();
    let _announced = role::announce(&settings.run_dir, "gateway")?;
    let cluster = role::cluster(&settings)?;
    let mut configuration = role::configuration(&settings, cluster.as_ref(), &stop).await?;
    let identity = gateway_identity(&configuration.borrow().snapshot.settings)?;
    let certificates = CertificateStore::new(Arc::new(UnixIssuer::new(settings.run_dir.issuer_socket())));
    let flows = FlowTable::new(Side::Gateway, RECENT_FLOWS);
    let log_file = settings.run_dir.access_log();
    let access_log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_file)
        .and_then(AccessLog::to)
        .with_context(|| format!("access log {}", log_file.display()))?;
    let listener = tokio::net::TcpListener::bind(settings.hbone_address).await.with_context(|| {
        format!(
            "the gateway cannot listen on {}: choose another address with --hbone-address",
            settings.hbone_address
        )
    })?;
    certificates.fetch(&identity).await.context("the gateway has no certificate")?;
    let parts = Parts {
        snapshot: configuration.clone(),
        certificates,
        identity: identity.clone(),
        resolver: Resolver::system().context("the system's resolver configuration")?,
        flows: flows.clone(),
        access_log,
    };
    let gateway = Gateway::new(gateway::Settings::default(), parts);
    let admin_listener = role::bind(&settings.run_dir.socket("gateway"))?;
    tracing::info!(%identity, address = %settings.hbone_address, "serving tunnels");

    let tasks = TaskTracker::new();
    tasks.spawn(admin::serve(admin_listener, admin::gateway(configuration.clone(), flows), stop.clone()));
    tasks.spawn(gateway::serve(listener, gateway, stop.clone()));
    role::log_problems(&configuration.borrow_and_update());
    while let Some(Ok(())) = stop.run_until_cancelled(configuration.changed()).await {
        role::log_problems(&configuration.borrow_and_update());
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

//! `egret ca`: issues certificates, to the agent and the gateway of this machine or to those of a cluster.

mod pod;

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio_util::task::TaskTracker;

pub use pod::DEFAULT_LISTEN;

use super::{Settings, metrics, role, shutdown};
use crate::{
    admin,
    ca::{self, Account},
    kubernetes::configuration::Scope,
};

/// What a CA is told that serves a cluster.
#[derive(Clone, Debug)]
pub struct Network {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The service account of agents, where it is another than the chart's.
    pub agent: Option<Account>,
}

/// Runs the CA until it is told to end.
pub async fn run(settings: Settings, network: Network) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    let _announced = role::announce(&settings.run_dir, "ca")?;
    if let Some(cluster) = role::cluster(&settings)? {
        role::raise_open_files();
        return pod::run(&settings, network, cluster, stop).await;
    }
    let configuration = role::configuration(&settings, None, Scope::Ca, &stop).await?;
    let trust_domain = configuration.borrow().snapshot.settings.trust_domain.clone();
    let authority = ca::Authority::load_or_create(&settings.run_dir.authority(), &trust_domain)
        .context("the certificate authority cannot start")?;
    let listener = role::bind(&settings.run_dir.issuer_socket())?;
    let admin_listener = role::bind(&settings.run_dir.socket("ca"))?;
    tracing::info!(trust_domain, "issuing certificates");

    let tasks = TaskTracker::new();
    if let Some(address) = settings.metrics_address {
        let authority = authority.clone();
        metrics::serve(address, move || admin::measure_authority(&authority), stop.clone())?;
    }
    tasks.spawn(admin::serve(admin_listener, admin::authority(authority.clone()), stop.clone()));
    tasks.spawn(ca::serve(listener, authority, stop.clone()));
    stop.cancelled().await;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

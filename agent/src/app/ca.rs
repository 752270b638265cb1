//! `egret ca`: issues certificates to the agent and the gateway of this machine.

use anyhow::Context as _;
use tokio_util::task::TaskTracker;

use super::{Settings, role, shutdown};
use crate::{admin, ca};

/// Runs the CA until it is told to end.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    let _announced = role::announce(&settings.run_dir, "ca")?;
    let cluster = role::cluster(&settings)?;
    let configuration = role::configuration(&settings, cluster.as_ref(), &stop).await?;
    let trust_domain = configuration.borrow().snapshot.settings.trust_domain.clone();
    let authority = ca::Authority::load_or_create(&settings.run_dir.authority(), &trust_domain)
        .context("the certificate authority cannot start")?;
    let listener = role::bind(&settings.run_dir.issuer_socket())?;
    let admin_listener = role::bind(&settings.run_dir.socket("ca"))?;
    tracing::info!(trust_domain, "issuing certificates");

    let tasks = TaskTracker::new();
    tasks.spawn(ca::serve(listener, authority, stop.clone()));
    tasks.spawn(admin::serve(admin_listener, admin::base(), stop.clone()));
    stop.cancelled().await;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

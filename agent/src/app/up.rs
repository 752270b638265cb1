//! `egret up`: agent, gateway and CA as one process tree on one machine: the embedded default.
//!
//! A role that dies is started again; the programs in the kernel refuse its workloads meanwhile. If this process itself
//! is killed the roles die with it, and the workloads stay refused until the next `egret up` takes them over. SIGHUP has
//! the agent taken over by the program that is installed now, without a gap.

mod role;

use std::{env, path::Path, process::ExitStatus};

use anyhow::{Context as _, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::role::{Draining, Role};
use super::{Settings, Source, cleanup, metrics, role::announce, shutdown};
use crate::{
    datapath::Bpffs,
    node::{cgroup::Hierarchy, workload::Workload},
};

/// The roles, in the order they start; they end in the reverse one.
const ROLES: [&str; 3] = ["ca", "gateway", AGENT];

/// The role that can be taken over.
const AGENT: &str = "agent";

/// Runs everything until it is told to end, then takes everything away. `ready` is called once all roles serve.
pub async fn run(settings: Settings, ready: impl FnOnce()) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "egret up needs root: it loads programs into the kernel (CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON) and enters network \
             namespaces (CAP_SYS_ADMIN); run it with sudo"
        );
    }
    let Source::Directory(directory) = &settings.source else {
        bail!("egret up is for one machine; on a cluster the Helm chart runs the roles");
    };
    if !directory.is_dir() {
        bail!("{} is not a directory: -f names the directory with the YAML files", directory.display());
    }
    Hierarchy::find().context("workloads cannot be captured")?;
    let stop = shutdown::on_signal()?;
    let hangup = signal(SignalKind::hangup())?;
    let _announced = announce(&settings.run_dir, "supervisor")?;
    if let Some(address) = settings.metrics_address {
        metrics::of_roles(address, &settings.run_dir, &ROLES, stop.clone())?;
    }
    let bpffs = Bpffs::ensure(Path::new(cleanup::BPFFS)).context("workloads cannot be captured")?;

    let served = serve(&settings, &stop, hangup, ready).await;
    let cleaned = cleanup::run(&settings.run_dir).await.context("not everything could be taken away");
    for Workload { identity, cgroup, .. } in cleaned.iter().flatten() {
        tracing::warn!(workload = %identity, cgroup = %cgroup.display(), "released: what it dials from now on is direct");
    }
    // Another instance may have pinned something meanwhile: then it stays mounted.
    if let Err(e) = bpffs.unmount() {
        tracing::debug!("{} stays mounted: {e}", cleanup::BPFFS);
    }
    served.and(cleaned.map(drop))
}

async fn serve(
    settings: &Settings,
    stop: &CancellationToken,
    mut hangup: Signal,
    ready: impl FnOnce(),
) -> anyhow::Result<()> {
    // Asked now: once the file is replaced, the kernel names it "(deleted)".
    let installed = env::current_exe().context("the path of this program")?;
    let draining = Draining::default();
    let mut roles = Vec::new();
    let started = async {
        for name in ROLES {
            let mut role = Role::start(settings, name)?;
            let up = role.wait_ready(settings).await;
            roles.push(role);
            up?;
        }
        anyhow::Ok(())
    };
    let outcome = match stop.run_until_cancelled(started).await {
        Some(Ok(())) => {
            ready();
            let watched = async {
                loop {
                    tokio::select! {
                        (index, ended) = first_to_end(&mut roles) => roles[index].restart(settings, ended).await,
                        _ = hangup.recv() => {
                            for role in roles.iter_mut().filter(|role| role.name == AGENT) {
                                role.replace(settings, &installed, &draining).await;
                            }
                        }
                    }
                }
            };
            stop.run_until_cancelled(watched).await;
            tracing::info!("ending");
            Ok(())
        }
        Some(Err(e)) => Err(e),
        None => Ok(()),
    };
    // Last started first.
    for role in roles.into_iter().rev() {
        if role.name == AGENT {
            tokio::join!(draining.end(), role::stop(role.name, role.child));
        } else {
            role::stop(role.name, role.child).await;
        }
    }
    outcome
}

async fn first_to_end(roles: &mut [Role]) -> (usize, std::io::Result<ExitStatus>) {
    let mut waits: Vec<_> = roles.iter_mut().map(|role| Box::pin(role.child.wait())).collect();
    std::future::poll_fn(|context| {
        for (index, wait) in waits.iter_mut().enumerate() {
            if let std::task::Poll::Ready(ended) = wait.as_mut().poll(context) {
                return std::task::Poll::Ready((index, ended));
            }
        }
        std::task::Poll::Pending
    })
    .await
}

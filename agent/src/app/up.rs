//! `egret up`: agent, gateway and CA as one process tree on one machine: the embedded default.
//!
//! A role that dies is started again; the programs in the kernel refuse its workloads meanwhile. If this process itself
//! is killed the roles die with it, and the workloads stay refused until the next `egret up` takes them over.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{Settings, cleanup, role, settings::DRAIN_DEADLINE, shutdown};
use crate::{
    admin,
    datapath::Bpffs,
    node::{cgroup::Hierarchy, workload::Workload},
};

/// The roles, in the order they start; they end in the reverse one.
const ROLES: [&str; 3] = ["ca", "gateway", "agent"];

/// How long a role may take until it serves.
const READY_DEADLINE: Duration = Duration::from_secs(20);

/// First pause before a role that died is started again; doubles up to [`MAX_BACKOFF`], and starts over once it has
/// stayed up for that long.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// A role at work, or about to be started again.
struct Role {
    name: &'static str,
    child: Child,
    started: Instant,
    backoff: Duration,
}

/// Runs everything until it is told to end, then takes everything away. `ready` is called once all roles serve.
pub async fn run(settings: Settings, ready: impl FnOnce()) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "egret up needs root: it loads programs into the kernel (CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON) and enters network \
             namespaces (CAP_SYS_ADMIN); run it with sudo"
        );
    }
    if !settings.config.is_dir() {
        bail!("{} is not a directory: -f names the directory with the YAML files", settings.config.display());
    }
    Hierarchy::find().context("workloads cannot be captured")?;
    let stop = shutdown::on_signal()?;
    let _announced = role::announce(&settings.run_dir, "supervisor")?;
    let bpffs = Bpffs::ensure(Path::new(cleanup::BPFFS)).context("workloads cannot be captured")?;

    let served = serve(&settings, &stop, ready).await;
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

async fn serve(settings: &Settings, stop: &CancellationToken, ready: impl FnOnce()) -> anyhow::Result<()> {
    let mut roles = Vec::new();
    let started = async {
        for name in ROLES {
            let mut role =
                Role { name, child: spawn(settings, name)?, started: Instant::now(), backoff: MIN_BACKOFF };
            let up = wait_ready(settings, &mut role).await;
            roles.push(role);
            up?;
        }
        anyhow::Ok(())
    };
    match stop.run_until_cancelled(started).await {
        Some(Ok(())) => {
            ready();
            stop.run_until_cancelled(watch(settings, &mut roles)).await;
        }
        Some(Err(e)) => {
            end(roles).await;
            return Err(e);
        }
        None => {}
    }
    tracing::info!("ending");
    end(roles).await;
    Ok(())
}

fn spawn(settings: &Settings, role: &str) -> anyhow::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(role)
        .arg("--run-dir")
        .arg(settings.run_dir.path())
        .arg("--config")
        .arg(&settings.config)
        .arg("--hbone-address")
        .arg(settings.hbone_address.to_string())
        .stdin(Stdio::null())
        // A Ctrl-C in the terminal goes to the supervisor only, which ends the roles in order.
        .process_group(0)
        .kill_on_drop(true);
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    command.spawn().with_context(|| format!("egret {role} cannot be started"))
}

/// Waits until the role answers on its admin socket.
async fn wait_ready(settings: &Settings, role: &mut Role) -> anyhow::Result<()> {
    let socket = settings.run_dir.socket(role.name);
    let answers = async {
        while admin::client::get::<admin::Ready>(&socket, "/ready").await.is_err() {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        ended = role.child.wait() => bail!("egret {} could not start: {}", role.name, describe(ended?)),
        answered = time::timeout(READY_DEADLINE, answers) => {
            answered.with_context(|| format!("egret {} does not serve after {READY_DEADLINE:?}", role.name))
        }
    }
}

/// Starts roles again as they die. Never returns.
async fn watch(settings: &Settings, roles: &mut [Role]) {
    loop {
        let (index, ended) = first_to_end(roles).await;
        let role = &mut roles[index];
        if role.started.elapsed() > MAX_BACKOFF {
            role.backoff = MIN_BACKOFF;
        }
        let what = ended.map_or_else(|e| e.to_string(), describe);
        tracing::error!(
            "egret {} {what}; workloads are refused until it is back, next start in {:?}",
            role.name,
            role.backoff
        );
        time::sleep(role.backoff).await;
        role.backoff = (role.backoff * 2).min(MAX_BACKOFF);
        role.started = Instant::now();
        match spawn(settings, role.name) {
            Ok(child) => {
                role.child = child;
                match wait_ready(settings, role).await {
                    Ok(()) => tracing::info!("egret {} is back", role.name),
                    Err(e) => tracing::error!("{e:#}"),
                }
            }
            Err(e) => tracing::error!("{e:#}"),
        }
    }
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

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal().map(Signal::try_from)) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(Ok(signal))) => format!("was ended by {signal}"),
        (None, _) => "ended".to_owned(),
    }
}

/// Ends the roles, last started first: asks, then insists.
async fn end(roles: Vec<Role>) {
    for mut role in roles.into_iter().rev() {
        let pid = role.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(Err(e)) = pid.map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM)) {
            tracing::debug!("egret {} has ended already: {e}", role.name);
        }
        if time::timeout(DRAIN_DEADLINE + Duration::from_secs(2), role.child.wait()).await.is_err() {
            tracing::warn!("egret {} does not end and is killed", role.name);
            if let Err(e) = role.child.kill().await {
                tracing::error!("egret {}: {e}", role.name);
            }
        }
    }
}

//! One role as a child process of `egret up`: starting it, waiting until it serves, replacing it, ending it.

use std::{
    ffi::OsStr,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
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
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin,
    app::{Settings, role::is_held, settings::DRAIN_DEADLINE},
    telemetry::traces::Tracing,
};

/// How long a role may take until it serves.
const READY_DEADLINE: Duration = Duration::from_secs(20);

/// First pause before a role that died is started again; doubles up to [`MAX_BACKOFF`], and starts over once it has
/// stayed up for that long.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// The program that this process runs, also when its file was replaced or removed meanwhile.
const SAME_PROGRAM: &str = "/proc/self/exe";

/// A role at work, or about to be started again.
pub(super) struct Role {
    pub(super) name: &'static str,
    pub(super) child: Child,
    /// What is started for it.
    program: PathBuf,
    started: Instant,
    backoff: Duration,
}

impl Role {
    /// Starts it, of the same version as this process.
    pub(super) fn start(settings: &Settings, name: &'static str) -> anyhow::Result<Self> {
        let program = PathBuf::from(SAME_PROGRAM);
        let child = spawn(settings, &program, name, false)?;
        Ok(Self { name, child, program, started: Instant::now(), backoff: MIN_BACKOFF })
    }

    /// Waits until it answers on its admin socket.
    pub(super) async fn wait_ready(&mut self, settings: &Settings) -> anyhow::Result<()> {
        serves(settings, self.name, &mut self.child).await
    }

    /// Starts it again after it has ended, and a pause.
    pub(super) async fn restart(&mut self, settings: &Settings, ended: std::io::Result<ExitStatus>) {
        if self.started.elapsed() > MAX_BACKOFF {
            self.backoff = MIN_BACKOFF;
        }
        let what = ended.map_or_else(|e| e.to_string(), describe);
        tracing::error!(
            "egret {} {what}; workloads are refused until it is back, next start in {:?}",
            self.name,
            self.backoff
        );
        time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
        self.started = Instant::now();
        let back = async {
            self.child = spawn(settings, &self.program, self.name, false)?;
            self.wait_ready(settings).await
        };
        match back.await {
            Ok(()) => tracing::info!("egret {} is back", self.name),
            Err(e) => tracing::error!("{e:#}"),
        }
    }

    /// Has the agent taken over by `program`; the process that was it goes to `draining`. When that fails, all stays as it is.
    pub(super) async fn replace(&mut self, settings: &Settings, program: &Path, draining: &Draining) {
        let replaced = async {
            let mut successor = spawn(settings, program, self.name, true)?;
            if let Err(e) = serves(settings, self.name, &mut successor).await {
                // It must not take over later, when nobody watches it.
                successor.kill().await?;
                return Err(e);
            }
            anyhow::Ok(successor)
        };
        match replaced.await {
            Ok(successor) => {
                tracing::info!(
                    "egret {} was taken over by process {}",
                    self.name,
                    successor.id().unwrap_or(0)
                );
                draining.add(self.name, std::mem::replace(&mut self.child, successor));
                program.clone_into(&mut self.program);
                self.started = Instant::now();
            }
            Err(e) => {
                tracing::error!("the egret {} that runs stays: {e:#}", self.name);
                self.replace_one_that_left(settings, draining).await;
            }
        }
    }

    /// Starts the role when nobody has it: a successor may die just after the old process has left it.
    async fn replace_one_that_left(&mut self, settings: &Settings, draining: &Draining) {
        let started = async {
            if is_held(&settings.run_dir, self.name)? {
                return Ok(());
            }
            tracing::error!("nobody is the {} now; workloads are refused until it is back", self.name);
            let child = spawn(settings, &self.program, self.name, false)?;
            draining.add(self.name, std::mem::replace(&mut self.child, child));
            self.started = Instant::now();
            self.wait_ready(settings).await
        };
        if let Err(e) = started.await {
            tracing::error!("{e:#}");
        }
    }
}

/// Processes whose role another has taken over: their connections go on for a while.
#[derive(Default)]
pub(super) struct Draining {
    processes: TaskTracker,
    end: CancellationToken,
}

impl Draining {
    fn add(&self, name: &'static str, mut child: Child) {
        let end = self.end.clone();
        self.processes.spawn(async move {
            match end.run_until_cancelled(child.wait()).await {
                Some(Ok(status)) if status.success() => tracing::info!("the earlier egret {name} has ended"),
                Some(Ok(status)) => tracing::warn!("the earlier egret {name} {}", describe(status)),
                Some(Err(e)) => tracing::warn!("the earlier egret {name}: {e}"),
                None => stop(name, child).await,
            }
        });
    }

    /// Ends them.
    pub(super) async fn end(&self) {
        self.end.cancel();
        self.processes.close();
        self.processes.wait().await;
    }
}

/// Ends a role: asks, then insists.
pub(super) async fn stop(name: &str, mut child: Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(Err(e)) = pid.map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM)) {
        tracing::debug!("egret {name} has ended already: {e}");
    }
    if time::timeout(DRAIN_DEADLINE + Duration::from_secs(2), child.wait()).await.is_err() {
        tracing::warn!("egret {name} does not end and is killed");
        if let Err(e) = child.kill().await {
            tracing::error!("egret {name}: {e}");
        }
    }
}

fn spawn(settings: &Settings, program: &Path, role: &str, take_over: bool) -> anyhow::Result<Child> {
    let mut command = Command::new(program);
    command
        .arg(role)
        .arg("--run-dir")
        .arg(settings.run_dir.path())
        .args(settings.source.arguments())
        .arg("--hbone-address")
        .arg(settings.hbone_address.to_string());
    if matches!(role, "agent" | "gateway") {
        command.arg("--flow-capacity").arg(settings.flow_capacity.to_string());
    }
    if let ("gateway", Some(Tracing { endpoint, sampling })) = (role, &settings.tracing) {
        command.arg("--otlp-endpoint").arg(endpoint.to_string());
        command.arg("--trace-sampling").arg(sampling.to_string());
    }
    if role == "agent" {
        command.arg("--drain-deadline").arg(settings.take_over_drain.as_secs().to_string());
        command.args(take_over.then_some(OsStr::new("--take-over")));
    }
    command
        .stdin(Stdio::null())
        // A Ctrl-C in the terminal goes to the supervisor only, which ends the roles in order.
        .process_group(0)
        .kill_on_drop(true);
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    command.spawn().with_context(|| format!("egret {role} cannot be started from {}", program.display()))
}

/// Waits until this very process answers for the role; an error when it ends first, or takes too long.
async fn serves(settings: &Settings, name: &str, child: &mut Child) -> anyhow::Result<()> {
    let (socket, pid) = (settings.run_dir.socket(name), child.id());
    let answers = async {
        let answer = || admin::client::get::<admin::Ready>(&socket, "/ready");
        while !answer().await.is_ok_and(|answer| answer.ready && Some(answer.pid) == pid) {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        ended = child.wait() => bail!("egret {name} could not start: {}", describe(ended?)),
        answered = time::timeout(READY_DEADLINE, answers) => {
            answered.with_context(|| format!("egret {name} does not serve after {READY_DEADLINE:?}"))
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal().map(Signal::try_from)) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(Ok(signal))) => format!("was ended by {signal}"),
        (None, _) => "ended".to_owned(),
    }
}

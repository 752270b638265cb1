//! The command line: one file per verb. Human output by default, `-o json` where there is something to read.
//!
//! Decides nothing: it starts roles (`app`) or asks them (`admin::client`).

mod args;
mod ask;
mod check;
mod cluster;
mod completions;
mod crds;
mod doctor;
mod enroll;
mod exec;
mod explain;
mod flow;
mod flows;
mod output;
mod plugin;
mod ready;
mod status;
mod top;
mod ui;
mod uninstall;
mod verify_bypass;

use std::process::ExitCode;

use tokio::runtime;

use crate::{app, memory::kept_low, node::workload::Workload, telemetry::logging};
use args::Command;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match plugin::parse().and_then(run) {
        Ok(code) => code,
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            output::error(&e);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Up(up) => {
            logging::init();
            // The roles die with the thread that starts them (PR_SET_PDEATHSIG), so it has to be the main one.
            let settings = up.settings()?;
            let ready = format!("ready, configuration from {}", settings.source);
            let up = app::up::run(settings, || tracing::info!("{ready}"));
            current_thread()?.block_on(kept_low(up)).map(done)
        }
        Command::Agent(role) if role.cleanup => {
            let run_dir = role.instance.run_dir();
            let released = current_thread()?.block_on(app::cleanup::after_crash(&run_dir))?;
            for Workload { identity, cgroup, .. } in released {
                let cgroup = cgroup.display();
                output::text(format!("released {cgroup} ({identity}): what it dials from now on is direct"))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Agent(role) => {
            logging::init();
            beside_workers()?.block_on(kept_low(app::agent::run(role.settings()?, role.take_over))).map(done)
        }
        Command::Gateway(role) => {
            logging::init();
            beside_workers()?.block_on(kept_low(app::gateway::run(role.settings()?))).map(done)
        }
        Command::Ca(role) => {
            logging::init();
            current_thread()?.block_on(kept_low(app::ca::run(role.settings()?, role.network()))).map(done)
        }
        Command::Ready(ready) => current_thread()?.block_on(ready::run(ready)),
        Command::Uninstall(uninstall) => current_thread()?.block_on(uninstall::run(&uninstall)).map(done),
        Command::Exec(exec) => exec::run(exec, &current_thread()?),
        Command::Enroll(enroll) => current_thread()?.block_on(enroll::enroll(enroll)).map(done),
        Command::Release(release) => current_thread()?.block_on(enroll::release(release)).map(done),
        Command::Flows(flows) => current_thread()?.block_on(flows::run(flows)),
        Command::Flow(flow) => current_thread()?.block_on(flow::run(flow)),
        Command::Top(top) => current_thread()?.block_on(top::run(top)),
        Command::Ui(ui) => multi_thread()?.block_on(ui::run(ui)).map(done),
        Command::Status(status) => current_thread()?.block_on(status::run(status)),
        Command::Ask(ask) => current_thread()?.block_on(ask::run(ask)).map(done),
        Command::Check(check) => current_thread()?.block_on(check::run(check)),
        Command::Completions(completions) => {
            completions::run(completions.shell).map(done).map_err(Into::into)
        }
        Command::Crds(output) => crds::run(&output).map(done),
        Command::VerifyBypass(verify) => verify_bypass::run(&verify),
        Command::Doctor(doctor) => current_thread()?.block_on(doctor::run(doctor)),
        Command::Explain(explain) => current_thread()?.block_on(explain::run(explain)),
    }
}

fn current_thread() -> std::io::Result<runtime::Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

fn multi_thread() -> std::io::Result<runtime::Runtime> {
    runtime::Builder::new_multi_thread().enable_all().build()
}

/// For what agent and gateway do beside carrying bytes, which has threads of its own (`workers`).
fn beside_workers() -> std::io::Result<runtime::Runtime> {
    runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
}

/// A reader that has seen enough (`egret flows | head`) is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

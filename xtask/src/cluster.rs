//! `cargo xtask cluster`: a real Kubernetes of two nodes on this machine. The cluster itself is `egret_tests::cluster`; here is
//! what a person sees of it, and what has to be built for it.

mod build;

use std::{env, path::PathBuf, time::Instant};

use anyhow::{Result, bail};
use egret_tests::{
    cluster::{
        self, Cluster,
        plan::{NODES, Plan},
        tools,
    },
    privileges, wait,
};

use crate::{command, packages, signals, terminal::Terminal};

/// What to do with the cluster.
#[derive(clap::Subcommand)]
pub(crate) enum Task {
    /// Build what a cluster is made of, without starting one
    Tools,
    /// Start a cluster, and leave it running
    Up(Name),
    /// Run the tests that take a real cluster; they start their own
    Test,
    /// Remove a cluster and everything of it
    Down(Name),
}

/// Which cluster.
#[derive(clap::Args)]
pub(crate) struct Name {
    /// Short name; clusters of different names run side by side
    #[arg(long, default_value = "egret")]
    name: String,
}

/// Runs one task.
pub(crate) fn run(task: &Task) -> Result<()> {
    let mut terminal = Terminal::new();
    signals::handle()?;
    match task {
        Task::Tools => build(&mut terminal),
        Task::Up(name) => up(&mut terminal, &name.name),
        Task::Test => test(&mut terminal),
        Task::Down(name) => down(&mut terminal, &name.name),
    }
}

fn up(terminal: &mut Terminal, name: &str) -> Result<()> {
    if let Some(kubeconfig) = foreign() {
        return terminal.good(&format!(
            "KUBECONFIG names {}: that cluster is used, and none is started. Unset it to start one here.",
            kubeconfig.display()
        ));
    }
    machine_allows()?;
    Plan::new(name)?;
    let built = build::tools(terminal)?;
    if let Ok(running) = Cluster::attach(name, &built)
        && running.wait_for_nodes().is_ok()
    {
        terminal.good(&format!("The cluster {name} is up already"))?;
        return usage(terminal, &running);
    }
    terminal.section(&format!("Starting the cluster {name}"))?;
    let started = Instant::now();
    let options = cluster::Options { name: name.to_owned(), tools: built, files: tools::files() };
    let running = Cluster::start(&options, &mut |reached| {
        terminal.done(&format!("{:.1} s", started.elapsed().as_secs_f32()), reached)
    });
    if wait::interrupted() {
        // Dropped at the latest here, and with it all that was started.
        drop(running);
        bail!("interrupted; {}", gone(name)?);
    }
    let mut running = running?;
    running.keep();
    usage(terminal, &running)
}

fn down(terminal: &mut Terminal, name: &str) -> Result<()> {
    if let Some(kubeconfig) = foreign() {
        return terminal.good(&format!(
            "KUBECONFIG names {}: that cluster is not ours to remove. Unset it to remove the one here.",
            kubeconfig.display()
        ));
    }
    machine_allows()?;
    if !cluster::exists(name)? {
        return terminal.good(&format!("There is no cluster {name} on this machine"));
    }
    cluster::remove(name)?;
    terminal.good(&gone(name)?)
}

/// Says that nothing of a cluster is left, if that is so.
fn gone(name: &str) -> Result<String> {
    let left = cluster::left(name)?;
    if !left.is_empty() {
        bail!("of the cluster {name} there is left: {}", left.join("; "));
    }
    Ok(format!("the cluster {name} is gone: no process, namespace, cgroup or mount is left"))
}

/// What keeps the tests from running on this machine.
pub(crate) fn missing() -> Option<String> {
    privileges::missing().or_else(|| {
        let go = packages::installed("go") || tools::Tools::built().is_ok();
        (!go).then(|| "Go, with which Kubernetes is built, is not on this machine".to_owned())
    })
}

/// Builds what a cluster is made of, where it is not there.
pub(crate) fn build(terminal: &mut Terminal) -> Result<()> {
    build::tools(terminal).map(drop)
}

/// Builds everything and runs the tests, one at a time.
pub(crate) fn test(terminal: &mut Terminal) -> Result<()> {
    machine_allows()?;
    build::tools(terminal)?;
    let arguments = ["test", "--release", "--package", "egret-tests", "--test", "cluster", "--"];
    command::run(command::cargo().args(arguments).arg("--test-threads=1"))
}

/// The kubeconfig of a cluster that is to be used instead of one of ours.
fn foreign() -> Option<PathBuf> {
    env::var_os("KUBECONFIG").filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn machine_allows() -> Result<()> {
    match privileges::missing() {
        None => Ok(()),
        Some(why) => bail!(
            "a cluster needs root and a kernel with eBPF: {why}; run \
             `sudo env \"PATH=$PATH\" \"HOME=$HOME\" cargo xtask cluster …`"
        ),
    }
}

fn usage(terminal: &mut Terminal, running: &Cluster) -> Result<()> {
    let state = running.plan().state();
    terminal.block(&format!(
        "kubectl       export KUBECONFIG={}; {} get pods -A\n\
         on a node     {}/machines/{}/enter sh\n\
         logs          {}/logs\n\
         end it        cargo xtask cluster down --name {}\n",
        running.kube().kubeconfig().display(),
        running.kube().command("kubectl").get_program().to_string_lossy(),
        state.display(),
        NODES[0],
        state.display(),
        running.plan().name(),
    ))
}

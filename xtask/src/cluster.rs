//! `cargo xtask cluster`: a real Kubernetes of two nodes on this machine, with Egret installed as a user does it. The cluster itself is
//! `egret_tests::cluster`; here is what a person sees of it, and what has to be built for it. With `KUBECONFIG` set it is that cluster,
//! and only Egret in it is installed and removed.

mod build;
mod demo;
mod install;

use std::{fs, path::Path, time::Instant};

use anyhow::{Result, bail};
use egret_tests::{
    cluster::{
        self, Cluster, Kube,
        plan::{NODES, Plan},
        tools::{self, Tools},
    },
    privileges, signals, wait,
};

use self::install::{Source, foreign};
use crate::{
    command,
    image::{self, Profile},
    packages,
    terminal::Terminal,
};

/// The cluster that the tests share; `EGRET_CLUSTER` names another.
const OF_TESTS: &str = "test";

/// What to do with the cluster.
#[derive(clap::Subcommand)]
pub(crate) enum Task {
    /// Build what a cluster is made of, without starting one
    Tools,
    /// Start a cluster, install Egret in it, and leave it running
    Up(Up),
    /// Walk through the scenario on a cluster, with kubectl and a real curl
    Demo(demo::Options),
    /// Run the tests that take a real cluster; they start their own
    Test {
        /// Only those whose names contain this
        filter: Option<String>,
    },
    /// Remove a cluster and everything of it
    Down(Name),
}

/// What to start.
#[derive(clap::Args)]
pub(crate) struct Up {
    #[command(flatten)]
    name: Name,
    #[command(flatten)]
    source: Source,
    /// Without Egret
    #[arg(long)]
    bare: bool,
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
        Task::Up(options) => up(&mut terminal, options),
        Task::Demo(options) => demo::run(options, &mut terminal),
        Task::Test { filter } => test(&mut terminal, filter.as_deref()),
        Task::Down(name) => down(&mut terminal, &name.name),
    }
}

fn up(terminal: &mut Terminal, options: &Up) -> Result<()> {
    let name = &options.name.name;
    if let Some(kubeconfig) = foreign() {
        if options.bare {
            bail!("KUBECONFIG names {}: without Egret there is nothing to do in it", kubeconfig.display());
        }
        let release = options.source.there(&build::tools(terminal)?, &kubeconfig);
        terminal.section(&format!("Installing Egret in the cluster of {}", kubeconfig.display()))?;
        install::install(terminal, &release, &[])?;
        return usage(terminal, release.kube(), &options.source.compile()?);
    }
    machine_allows()?;
    Plan::new(name)?;
    let tools = build::tools(terminal)?;
    let image = if options.bare { None } else { Some(options.source.build(terminal)?) };
    let mut running = match Cluster::attach(name, &tools) {
        Ok(running) if running.wait_for_nodes().is_ok() => {
            terminal.good(&format!("The cluster {name} is up already"))?;
            running
        }
        _ => start(terminal, name, tools)?,
    };
    if let Some(image) = image {
        terminal.section("Installing Egret")?;
        running.import_image(&image.path)?;
        let release = Source::here(&running);
        let there = release.revision()?.is_some();
        install::install(terminal, &release, &[])?;
        if there {
            // The image has the name of the one before: pods stay what they are until they are told.
            release.restart()?;
            release.wait_until_ready()?;
        }
    }
    running.keep();
    usage(terminal, running.kube(), &options.source.binary())?;
    let state = running.plan().state();
    terminal.block(&format!(
        "on a node     {}/machines/{}/enter sh\n\
         logs          {}/logs\n\
         end it        cargo xtask cluster down --name {name}\n",
        state.display(),
        NODES[0],
        state.display(),
    ))
}

/// Starts a cluster; interrupted, it is gone again.
fn start(terminal: &mut Terminal, name: &str, tools: Tools) -> Result<Cluster> {
    terminal.section(&format!("Starting the cluster {name}: two nodes"))?;
    let started = Instant::now();
    let options = cluster::Options { name: name.to_owned(), tools, files: tools::files() };
    let running = Cluster::start(&options, &mut |reached| {
        terminal.done(&format!("{:.1} s", started.elapsed().as_secs_f32()), reached)
    });
    if wait::interrupted() {
        // Dropped at the latest here, and with it all that was started.
        drop(running);
        bail!("interrupted; {}", gone(name)?);
    }
    running
}

fn down(terminal: &mut Terminal, name: &str) -> Result<()> {
    if let Some(kubeconfig) = foreign() {
        let tools = build::tools(terminal)?;
        terminal.section(&format!("Removing Egret from the cluster of {}", kubeconfig.display()))?;
        let release = Source::default().there(&tools, &kubeconfig);
        release.uninstall()?;
        return terminal.good("Egret is uninstalled; every agent has released its node");
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
        let go = packages::installed("go") || Tools::built().is_ok();
        (!go).then(|| "Go, with which Kubernetes is built, is not on this machine".to_owned())
    })
}

/// Builds what a cluster is made of, where it is not there.
pub(crate) fn build(terminal: &mut Terminal) -> Result<()> {
    build::tools(terminal).map(drop)
}

/// Builds everything and runs the tests, all or those of a name, one at a time, on a cluster that is new and removed afterwards.
pub(crate) fn test(terminal: &mut Terminal, filter: Option<&str>) -> Result<()> {
    machine_allows()?;
    if let Some(kubeconfig) = foreign() {
        bail!(
            "the tests take nodes away and bring them back: they are not for the cluster of {}",
            kubeconfig.display()
        );
    }
    build::tools(terminal)?;
    let egret = image::compile(Profile::Tested)?;
    let image = image::build(&image::Options::of_binary(egret.clone()))?;
    terminal.done("image", &image.path.display().to_string())?;
    let name = std::env::var("EGRET_CLUSTER").unwrap_or_else(|_| OF_TESTS.to_owned());
    cluster::remove(&name)?;
    let mut cargo = image::cargo("test", Profile::Tested);
    cargo.args(["--package", "egret-tests", "--test", "cluster", "--", "--test-threads=1"]).args(filter);
    cargo.env("EGRET_BIN", fs::canonicalize(egret)?);
    let tested = command::run(&mut cargo);
    let removed = cluster::remove(&name).and_then(|()| terminal.good(&gone(&name)?));
    tested.and(removed)
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

/// How to use a cluster.
fn usage(terminal: &mut Terminal, kube: &Kube, egret: &Path) -> Result<()> {
    let tools = kube.command("kubectl").get_program().to_owned();
    let (kubeconfig, egret) = (kube.kubeconfig().display(), egret.display());
    terminal.block(&format!(
        "kubectl       export KUBECONFIG={kubeconfig} PATH={}:$PATH; kubectl get pods -A\n\
         enrol         kubectl label namespace NAMESPACE egret.dev/egress=enabled\n\
         status        {egret} status --kubeconfig {kubeconfig}\n\
         flows         {egret} flows --kubeconfig {kubeconfig}\n",
        Path::new(&tools).parent().unwrap_or(Path::new(".")).display(),
    ))
}

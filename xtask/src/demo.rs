//! `cargo xtask demo`: everything on one machine, from the build to the flow table, and nothing left of it afterwards.
//!
//! The steps themselves, and what proves them, are `egret_tests::scenario`: the end-to-end test runs the same ones. Here
//! is what a person sees of it.

mod build;
mod programs;
pub(crate) mod show;

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use egret_tests::{
    egret,
    netns::Namespace,
    residue::Footprint,
    scenario::{OUTSIDE, Places, STEPS, World},
    signals, wait,
};
use nix::{
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};

use crate::{packages, terminal::Terminal, toolchain};

/// Run directory of the demo's Egret: its own, so that it disturbs no other on this machine.
const RUN_DIR: &str = "/run/egret-demo";
/// Configuration, certificates and logs.
const WORK_DIR: &str = "/run/egret-demo-files";
/// Who holds the demo and its address range.
const LOCK_DIR: &str = "/run/lock/egret-demo";
/// Prefix of namespace and link.
const NAMESPACE_PREFIX: &str = "egd";

/// Options of the demo.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave everything running at the end, to play with, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// Runs the demo. It succeeds when every step passed and nothing was left behind.
pub(crate) fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let mut terminal = Terminal::new();
    signals::handle()?;
    prepare_and_walk(options, &mut terminal)?;
    terminal.good(&format!("All passed, in {:.1} s.", started.elapsed().as_secs_f32()))
}

fn prepare_and_walk(options: &Options, terminal: &mut Terminal) -> Result<()> {
    if !geteuid().is_root() {
        bail!(
            "the demo loads programs into the kernel and makes network namespaces, which takes root: \
             run `sudo env \"PATH=$PATH\" \"HOME=$HOME\" cargo xtask demo`"
        );
    }
    terminal.title("Egret: egress through eBPF capture, mutual TLS and a shared gateway")?;
    let _lock = lock("demo")?;
    packages::ensure(terminal)?;
    toolchain::ensure()?;
    let binaries = build::all(terminal)?;
    clear_leftovers(&binaries.egret)?;

    let mut footprint = Footprint::of(Path::new(RUN_DIR));
    let namespace = Namespace::create(NAMESPACE_PREFIX, Path::new(LOCK_DIR))?;
    let namespace_file = Path::new("/run/netns").join(namespace.name());
    let walked = walk(options, terminal, binaries, namespace, &mut footprint);

    // Whatever happened, everything is gone now, or we say what is not.
    let mut left = footprint.left()?;
    if namespace_file.exists() {
        left.push(format!("network namespace {} is still there", namespace_file.display()));
    }
    let removed = fs::remove_dir_all(WORK_DIR);
    if let Err(error) = removed
        && Path::new(WORK_DIR).exists()
    {
        left.push(format!("{WORK_DIR} cannot be removed: {error}"));
    }
    if left.is_empty() {
        terminal.good(&format!(
            "Nothing left behind: no process, no namespace, no cgroup, no pin; all {} programs unloaded.",
            footprint.programs().len()
        ))?;
    } else {
        terminal.bad(&left.join("\n"))?;
    }
    walked?;
    if left.is_empty() { Ok(()) } else { bail!("the demo left something behind") }
}

/// Starts everything, walks the steps, ends everything.
fn walk(
    options: &Options,
    terminal: &mut Terminal,
    binaries: build::Binaries,
    namespace: Namespace,
    footprint: &mut Footprint,
) -> Result<()> {
    let places = Places {
        egret: binaries.egret,
        external: binaries.external,
        steps: build::workspace().join("deploy/demo"),
        work: PathBuf::from(WORK_DIR),
        run: PathBuf::from(RUN_DIR),
    };
    let started = Instant::now();
    let mut world = World::start(places, namespace)?;
    terminal.done(
        "external service",
        &format!(
            "{} in namespace {}: port 80 plain, port 443 wants a client certificate",
            world.external.address(),
            world.external.namespace().name()
        ),
    )?;
    terminal.done(
        "egret up",
        &format!("CA, gateway and agent serve after {:.1} s", started.elapsed().as_secs_f32()),
    )?;

    let passed = steps(terminal, &mut world, footprint);
    if passed.is_ok() && options.keep {
        keep(terminal, &world)?;
    }
    footprint.record(&world.egret).ok();
    terminal.section("Cleaning up")?;
    let stopped = world.stop();
    passed.and(stopped)
}

fn steps(terminal: &mut Terminal, world: &mut World, footprint: &mut Footprint) -> Result<()> {
    for (index, step) in STEPS.iter().chain([&OUTSIDE]).enumerate() {
        if wait::interrupted() {
            bail!("interrupted");
        }
        terminal.section(&format!("{}  {}", index + 1, step.title))?;
        let outcome = world.run(step)?;
        show::outcome(terminal, step, &outcome)?;
        if !outcome.failures.is_empty() {
            terminal.section("What Egret said")?;
            terminal.block(&world.egret.process().tail())?;
            bail!("step {} ({}) failed", index + 1, step.title);
        }
    }
    if !world.gateway_lines_are_complete()? {
        bail!("the gateway's access log has lines that no step accounts for");
    }
    programs::show(terminal, world, footprint)?;
    show::explanation(terminal, world)?;
    terminal.section("Every flow, from the socket to the external server")?;
    let table = world.egret.flow_table()?;
    terminal.block(&table)
}

/// Waits for Ctrl-C with everything running.
fn keep(terminal: &mut Terminal, world: &World) -> Result<()> {
    let egret = world.egret.binary().display();
    let address = world.external.address();
    terminal.section("Everything stays up; press Ctrl-C here to end it and clean up")?;
    terminal.block(&format!(
        "call out      {egret} exec --run-dir {RUN_DIR} default/sleep -- curl -i -H host:test.com {address}/anything\n\
         flows         {egret} flows --run-dir {RUN_DIR}\n\
         status        {egret} status --run-dir {RUN_DIR}\n\
         configuration {} (changes are picked up)\n\
         access log    tail -f {}\n\
         far side      tail -f {}\n",
        world.config.path().display(),
        world.egret.access_log().path().display(),
        world.external.log().path().display(),
    ))?;
    while !wait::interrupted() {
        wait::settled(Duration::from_hours(1), wait::interrupted);
    }
    Ok(())
}

/// One demo of a kind at a time. The lock goes with the process, however it ends.
pub(crate) fn lock(name: &str) -> Result<Flock<fs::File>> {
    fs::create_dir_all(LOCK_DIR).with_context(|| format!("cannot create {LOCK_DIR}"))?;
    let path = Path::new(LOCK_DIR).join(format!("{name}.lock"));
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| anyhow::anyhow!("another such demo runs on this machine: end it first"))
}

/// Removes what a demo left that was killed. We hold the lock: nobody uses it.
fn clear_leftovers(binary: &Path) -> Result<()> {
    if Path::new(RUN_DIR).exists() {
        egret::clean_up_after_crash(binary, Path::new(RUN_DIR))
            .context("an earlier demo was killed, and what it left cannot be removed")?;
    }
    if Path::new(WORK_DIR).exists() {
        fs::remove_dir_all(WORK_DIR).with_context(|| format!("cannot remove {WORK_DIR}"))?;
    }
    Ok(())
}

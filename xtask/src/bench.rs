//! `cargo xtask bench`: what a request, a connection and a byte cost through Egret, and through Envoy, HAProxy and nginx, in one
//! run on this machine. Gets the peers and builds both; what is measured, and how, is in `tests/benches/paths`.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use egret_tests::{egret, privileges, signals};

use crate::{
    command,
    image::{self, Profile},
    packages,
    terminal::Terminal,
};

/// Options of the benchmark.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The main ratios only, in less than five minutes
    #[arg(long)]
    quick: bool,
    /// Rounds [default: 5, as far as time allows]
    #[arg(long)]
    rounds: Option<usize>,
    /// CPUs to use
    #[arg(long, default_value_t = 2)]
    cpus: usize,
    /// Only these paths, by their names in the summary: egret,envoy_pair,…
    #[arg(long, value_delimiter = ',')]
    paths: Vec<String>,
    /// Only these phases: memory,closed,open,fresh,bulk
    #[arg(long, value_delimiter = ',')]
    phases: Vec<String>,
}

/// Runs it. Results land in `target/bench`.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(why) = privileges::missing() {
        bail!("the benchmark cannot run here: {why}");
    }
    signals::handle()?;
    let mut terminal = Terminal::new();
    terminal.section("Peers")?;
    let peers = Peers::get(&mut terminal)?;
    terminal.section("The product, as it is released, and the benchmark")?;
    let product =
        if env::var_os("EGRET_BIN").is_some() { egret::binary()? } else { image::compile(Profile::Release)? };
    terminal.done("egret", &product.display().to_string())?;
    let mut bench = program()?;
    terminal.section("Measuring: leave the machine alone meanwhile")?;
    bench.arg("--egret").arg(product.canonicalize()?).arg("--nginx").arg(peers.nginx);
    for (name, program) in [("--haproxy", peers.haproxy), ("--envoy", peers.envoy)] {
        if let Some(program) = program {
            bench.arg(name).arg(program);
        }
    }
    bench.args(["--cpus", &options.cpus.to_string()]);
    if options.quick {
        bench.arg("--quick");
    }
    if let Some(rounds) = options.rounds {
        bench.args(["--rounds", &rounds.to_string()]);
    }
    for (name, only) in [("--paths", &options.paths), ("--phases", &options.phases)] {
        if !only.is_empty() {
            bench.args([name, &only.join(",")]);
        }
    }
    command::run(&mut bench)
}

/// Builds the benchmark: a command that measures, as soon as it knows the programs.
pub(crate) fn program() -> Result<Command> {
    let build = ["build", "--release", "--package", "egret-tests", "--bin", "egret-bench"];
    command::run(command::cargo().args(build))?;
    let mut bench = Command::new(image::target_directory().join("release/egret-bench"));
    bench.arg("run");
    Ok(bench)
}

/// nginx: the server of all paths.
pub(crate) fn nginx(terminal: &mut Terminal) -> Result<PathBuf> {
    let nginx = packages::NGINX.get(terminal).context("nginx is the server of all paths")?;
    let nginx = if nginx.is_absolute() || nginx.components().count() > 1 { nginx } else { found(&nginx)? };
    terminal.done("nginx", &nginx.display().to_string())?;
    Ok(nginx.canonicalize()?)
}

/// Where the programs are. Without nginx there is no server; without the others, their columns are left out.
struct Peers {
    nginx: PathBuf,
    haproxy: Option<PathBuf>,
    envoy: Option<PathBuf>,
}

impl Peers {
    fn get(terminal: &mut Terminal) -> Result<Self> {
        packages::ensure(terminal)?;
        let nginx = nginx(terminal)?;
        let haproxy = package("haproxy", terminal).and_then(|()| found(Path::new("haproxy")));
        let haproxy = or_without(terminal, "haproxy", haproxy)?;
        let envoy = package("iptables", terminal).and_then(|()| packages::envoy(terminal));
        let envoy = or_without(terminal, "envoy", envoy)?;
        Ok(Self { nginx, haproxy, envoy })
    }
}

/// Installs a package, whose program has the same name, where it is missing.
fn package(name: &str, terminal: &mut Terminal) -> Result<()> {
    let missing: &[&str] = if packages::installed(name) { &[] } else { &[name] };
    packages::ensure_for_tests(terminal, missing)
}

/// A program on the path, or among those for root.
fn found(program: &Path) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin".into()]);
    let found = directories.map(|directory| directory.join(program)).find(|file| file.is_file());
    found.with_context(|| format!("{} is not in PATH", program.display()))
}

fn or_without(terminal: &mut Terminal, name: &str, program: Result<PathBuf>) -> Result<Option<PathBuf>> {
    match program {
        Ok(program) => {
            terminal.done(name, &program.display().to_string())?;
            Ok(Some(program.canonicalize()?))
        }
        Err(why) => {
            terminal.bad(&format!("{name} is left out: {why:#}"))?;
            Ok(None)
        }
    }
}

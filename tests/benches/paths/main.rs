//! `cargo xtask bench`: what a request, a connection and a byte cost through Egret, and through its peers, on the same machine
//! in the same run. As root. `cargo xtask bench` builds this, gets the peers and names them here.
//!
//! - **Rounds**: in each, every path is visited once, in an order of its own. A visit starts all of the path's processes and
//!   namespaces anew and ends them: what a process drew by chance (hashed listeners, pooled tunnels), and what an earlier
//!   load left in heaps, pools, connection tracking and TIME_WAIT, is drawn again each time and does not favour whoever was there first.
//!   The external server alone stays.
//! - **CPU** is the time of all processes of the proxies, from their cgroup's `cpu.stat`; client and server do not count. Softirqs count for
//!   whom they interrupt, unless the kernel accounts them apart (`CONFIG_IRQ_TIME_ACCOUNTING`); the same for all paths either way.
//! - **Ratios** are taken within each round, then the median over the rounds, with the quartiles.
//! - All run on the same CPUs (two, unless told otherwise), with a worker per CPU where that can be said.
//!
//! An unexpected status, a failed request or an empty access log is an error, with the logs' ends; the path is left out from
//! then on, and the exit status is 1.

mod load;
mod path;
mod peers;
mod place;
mod plan;
mod plot;
mod policies;
mod ratios;
mod report;
mod results;
mod server;
mod visit;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    hash::{BuildHasher as _, RandomState},
    path::{Path as FilePath, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use egret_tests::{egret, privileges, signals, wait};
use nix::{
    fcntl::{Flock, FlockArg},
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::Pid,
};
use serde_json::{Value, json};

use self::{
    path::{Ground, Path},
    peers::Peers,
    plan::{Effort, Phase},
    results::Results,
    server::Server,
};

/// Open files of each process: 10,000 connections, both ends, and room; and what just does.
const OPEN_FILES: u64 = 65_536;
const FEWEST_OPEN_FILES: u64 = 12_000;
/// Of the product, below everything else that is written.
const RUN_DIR: &str = "run";

#[derive(Parser)]
enum Command {
    /// Measure
    Run(Options),
    /// Be the client
    #[command(hide = true)]
    Load(load::Options),
}

#[derive(clap::Args)]
struct Options {
    #[command(flatten)]
    peers: Peers,
    /// The main ratios only, in less than five minutes
    #[arg(long)]
    quick: bool,
    /// Rounds
    #[arg(long)]
    rounds: Option<usize>,
    /// CPUs to use, from the first that this process may
    #[arg(long, default_value_t = 2)]
    cpus: usize,
    /// Only these paths, by their names in the summary
    #[arg(long, value_delimiter = ',')]
    paths: Vec<String>,
    /// Only these phases
    #[arg(long, value_delimiter = ',', value_parser = Phase::KEYS)]
    phases: Vec<String>,
    /// Where the results go [default: target/bench]
    #[arg(long)]
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Load(options) => load::run(&options),
        Command::Run(options) => run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if let Some(why) = privileges::missing() {
        bail!("this benchmark cannot run here: {why}");
    }
    signals::handle()?;
    let began = Instant::now();
    let _lock = lock()?;
    let workers = stay_on(options.cpus)?;
    raise_open_files()?;
    place::clear_cgroups()?;
    let directory = Directory::create(&options.peers.egret)?;
    let server = Server::start(&options.peers.nginx, &directory.0, workers)?;
    let ground = Ground { peers: options.peers.clone(), server, directory: directory.0.clone(), workers };

    let effort = if options.quick { Effort::Quick } else { Effort::Full };
    let paths = chosen(options, effort)?;
    let mut results = Results::new(machine(options, &ground)?, options.quick);
    let measured = rounds(options, effort, &paths, &ground, began, &mut results);
    // What was measured until an interruption is not a result.
    measured?;
    let output = options.output.clone().unwrap_or_else(|| egret::workspace().join("target/bench"));
    report::write(&results, &output)?;
    let failed = results.failures();
    if failed > 0 {
        bail!("{failed} paths failed, see above");
    }
    Ok(())
}

fn rounds(
    options: &Options,
    effort: Effort,
    paths: &[Path],
    ground: &Ground,
    began: Instant,
    results: &mut Results,
) -> Result<()> {
    let (rounds, patience) = effort.rounds();
    let rounds = options.rounds.unwrap_or(rounds);
    let mut last = Duration::ZERO;
    for round in 0..rounds {
        if round > 0 && options.rounds.is_none() && began.elapsed() + last > patience {
            say(&format!("no time for round {}", round + 1));
            break;
        }
        let round_began = Instant::now();
        let mut figures = BTreeMap::new();
        for path in shuffled(paths) {
            if results.has_failed(path) {
                continue;
            }
            let phases = effort.phases(path, round).into_iter();
            let wanted = |phase: &Phase| {
                options.phases.is_empty() || options.phases.iter().any(|key| key == phase.key())
            };
            let visit_began = Instant::now();
            match visit::visit(path, ground, effort, phases.filter(wanted).collect()) {
                Ok(measured) => {
                    say(&progress(round, rounds, path, &measured, visit_began));
                    figures.insert(path, measured);
                }
                Err(error) if wait::interrupted() => return Err(error.context("interrupted")),
                Err(error) => {
                    say(&format!("{} failed: {error:#}", path.title()));
                    results.fail(path, &error);
                }
            }
        }
        results.add(figures);
        last = round_began.elapsed();
    }
    Ok(())
}

/// The paths that can be taken.
fn chosen(options: &Options, effort: Effort) -> Result<Vec<Path>> {
    if let Some(unknown) = options.paths.iter().find(|name| Path::ALL.iter().all(|path| path.key() != *name))
    {
        bail!("there is no path {unknown}; there are {}", Path::ALL.map(Path::key).join(", "));
    }
    let wanted =
        |path: &Path| options.paths.is_empty() || options.paths.iter().any(|name| name == path.key());
    let paths = if options.paths.is_empty() { effort.paths() } else { Path::ALL.to_vec() };
    let (there, missing): (Vec<Path>, Vec<Path>) = paths
        .into_iter()
        .filter(wanted)
        .partition(|path| path.needs().is_none_or(|peer| options.peers.have(peer)));
    for path in missing {
        say(&format!(
            "left out: {} ({} is not on this machine)",
            path.title(),
            path.needs().unwrap_or_default()
        ));
    }
    Ok(there)
}

/// An order for this round.
fn shuffled(paths: &[Path]) -> Vec<Path> {
    let mut paths: Vec<_> = paths.iter().map(|path| (RandomState::new().hash_one(path), *path)).collect();
    // Each `RandomState` has other keys.
    paths.sort_unstable();
    paths.into_iter().map(|(_, path)| path).collect()
}

fn progress(round: usize, rounds: usize, path: Path, figures: &visit::Figures, began: Instant) -> String {
    let figure = |name: &str, unit: &str| figures.get(name).map(|value| format!("{value:.3} {unit}"));
    let shown = [
        figure("cpu_s_per_10k_requests_at_32", "CPU-s/10k"),
        figure("p99_ms_at_1000_rps", "ms p99"),
        figure("down_mib_per_s", "MiB/s"),
    ];
    let shown: Vec<String> = shown.into_iter().flatten().collect();
    let (round, seconds) = (round + 1, began.elapsed().as_secs_f32());
    format!("round {round} of {rounds}  {:<38} {seconds:>5.1} s  {}", path.title(), shown.join(", "))
}

/// What the figures depend on.
fn machine(options: &Options, ground: &Ground) -> Result<Value> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Ok(json!({
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        "cpu": model.map(|(_, model)| model),
        "cpus_used": options.cpus,
        "load_average_before": fs::read_to_string("/proc/loadavg")?.trim(),
        "versions": ground.peers.versions()?,
    }))
}

/// This process, and all that it starts, stay on so many CPUs.
fn stay_on(cpus: usize) -> Result<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let mut chosen = CpuSet::new();
    let mut count = 0;
    for cpu in 0..CpuSet::count() {
        if count < cpus && allowed.is_set(cpu)? {
            chosen.set(cpu)?;
            count += 1;
        }
    }
    sched_setaffinity(Pid::from_raw(0), &chosen).context("CPU affinity")?;
    Ok(count)
}

/// As many as this machine allows, and no less than the client of 10,000 flows needs.
fn raise_open_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Raising the hard limit takes CAP_SYS_RESOURCE, which root in a container may not have.
    if hard >= OPEN_FILES || setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES).is_err() {
        if hard < FEWEST_OPEN_FILES {
            bail!("the hard limit of open files is {hard}: raise it to {FEWEST_OPEN_FILES} (`ulimit -Hn`)");
        }
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")?;
    }
    Ok(())
}

/// One benchmark at a time: their processor times would not be comparable.
fn lock() -> Result<Flock<File>> {
    fs::create_dir_all(server::LOCKS).with_context(|| format!("cannot create {}", server::LOCKS))?;
    let path = FilePath::new(server::LOCKS).join("bench.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| anyhow::anyhow!("another benchmark runs on this machine: let it end first"))
}

/// Everything that is written on the way: in memory, where a disk would disturb. Removed at the end, and at the next start.
struct Directory(PathBuf);

impl Directory {
    fn create(egret: &FilePath) -> Result<Self> {
        let parent = ["/dev/shm", "/run"].into_iter().find(|parent| FilePath::new(parent).is_dir());
        let path = FilePath::new(parent.context("neither /dev/shm nor /run is there")?).join("egret-bench");
        if path.exists() {
            egret::clean_up_after_crash(egret, &path.join(RUN_DIR))
                .context("an earlier benchmark was killed, and what it left cannot be removed")?;
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            say(&format!("{} is left behind: {error}", self.0.display()));
        }
    }
}

#[expect(clippy::print_stderr, reason = "addressed to whoever runs it")]
fn say(text: &str) {
    eprintln!("{text}");
}

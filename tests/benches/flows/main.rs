//! `cargo bench -p egret-tests --bench flows`: what `egret flows` takes where agent and gateway each remember 100,000 flows.
//!
//! Two flow tables behind the admin sockets of a run directory, as the roles serve them, and the released binary asking (`EGRET_BIN`, else `target/release/egret`): every figure is a
//! whole process, from its start to the last line. Meanwhile flows begin and end in the agent's table, and the longest that took is
//! printed, too: a question must not hold up new connections. The goal is [`GOAL`] for whatever a limit bounds; all flows at once
//! are measured and have no goal.
//!
//! `-- --flows NUMBER` for smaller tables, `-- --runs NUMBER` for more of each.

mod made;

use std::{
    io::{self, Write as _},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use egret::{admin, app::run_dir::RunDir, flow::FlowTable};
use egret_tests::egret::binary;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use self::made::Made;

/// What a question may take that a limit bounds.
const GOAL: Duration = Duration::from_millis(200);

/// What `egret flows` takes.
#[derive(Parser)]
struct Options {
    /// Flows in each of the two tables
    #[arg(long, default_value_t = 100_000)]
    flows: usize,
    /// Runs of each question
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.runs > 0, "--runs 0 measures nothing");
    let directory = tempfile::tempdir()?;
    let before = resident()?;
    let made = Made::fill(options.flows);
    let record = (resident()? - before) / (2 * options.flows.max(1));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let run_dir = RunDir::new(directory.path());
    for (socket, flows) in [(run_dir.agent_socket(), &made.agent), (run_dir.socket("gateway"), &made.gateway)]
    {
        let _inside = runtime.enter();
        let routes = admin::flow_routes(flows.clone());
        runtime.spawn(admin::serve(UnixListener::bind(socket)?, routes, CancellationToken::new()));
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{} flows at each side, {record} bytes a record; {} runs each",
        options.flows, options.runs
    )?;
    writeln!(out, "{:<46} {:>9} {:>9} {:>9} {:>11}", "", "median", "slowest", "lines", "a flow waits")?;
    let mut missed = 0;
    let binary = binary()?;
    for (question, bounded) in questions(&made) {
        let mut command = Command::new(&binary);
        command.args(&question).arg("--run-dir").arg(directory.path());
        let asked = ask(&mut command, &made.agent, options.runs)?;
        let over = bounded && asked.slowest > GOAL;
        missed += usize::from(over);
        writeln!(
            out,
            "{:<46} {:>6.0} ms {:>6.0} ms {:>9} {:>8.2} ms{}",
            question.join(" "),
            milliseconds(asked.median),
            milliseconds(asked.slowest),
            asked.lines,
            milliseconds(asked.flow_waited),
            if over { "  over the goal" } else { "" },
        )?;
    }
    writeln!(out, "goal: {GOAL:?} for all but --limit 0; {missed} over it")?;
    Ok(())
}

/// Arguments of `egret`, and whether a limit bounds what they ask for.
fn questions(made: &Made) -> Vec<(Vec<String>, bool)> {
    let id = made.rare.to_string();
    let bounded = [
        "flows",
        "flows -w",
        "flows -o json",
        "flows -n ns-3",
        "flows --pod sleep-7",
        "flows --host host-7.example.com",
        "flows --host *.example.com",
        "flows --host host-7.example.com --pod sleep-7",
        "flows --host none.example.com",
        "flows --verdict denied",
        "flows --reason policy_denied",
        "flows --min-bytes 64K",
        "flows --since 1h",
        "flows --since 1s",
        "flows --sort bytes",
        "flows --sort duration --limit 10",
        &format!("flow {}", &id[..8]),
        &format!("flow {id}"),
    ]
    .map(|line| (line.to_owned(), true));
    let unbounded = ["flows --limit 0", "flows --limit 0 --host *.example.com", "flows --limit 0 -o json"]
        .map(|line| (line.to_owned(), false));
    let words = |line: String| line.split(' ').map(str::to_owned).collect();
    bounded.into_iter().chain(unbounded).map(|(line, bounded)| (words(line), bounded)).collect()
}

/// What a question took.
struct Asked {
    median: Duration,
    slowest: Duration,
    lines: usize,
    /// The longest that a flow took to begin and end meanwhile.
    flow_waited: Duration,
}

fn ask(command: &mut Command, table: &FlowTable, runs: usize) -> Result<Asked> {
    let over = Arc::new(AtomicBool::new(false));
    let flows = thread::spawn({
        let (over, table) = (Arc::clone(&over), table.clone());
        move || made::begin_and_end(&table, || over.load(Relaxed))
    });
    let mut times = Vec::new();
    let mut lines = 0;
    for _ in 0..runs {
        let began = Instant::now();
        let output = command.stdin(Stdio::null()).output().context("cannot run egret")?;
        times.push(began.elapsed());
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?} failed: {said}");
        lines = output.stdout.split(|byte| *byte == b'\n').count() - 1;
    }
    over.store(true, Relaxed);
    let flow_waited = flows.join().map_err(|_| anyhow::anyhow!("the thread that makes flows panicked"))?;
    times.sort_unstable();
    Ok(Asked { median: times[times.len() / 2], slowest: times[times.len() - 1], lines, flow_waited })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Bytes of this process that are in memory.
fn resident() -> Result<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = statm.split(' ').nth(1).context("statm has no second field")?.parse()?;
    Ok(pages * 4096)
}

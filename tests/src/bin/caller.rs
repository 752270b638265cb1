//! A workload that makes many new connections: so many a second, for so long, each with one request, closed by the client, so
//! that the TIME_WAIT is the client's. Says on standard output, as JSON, what came of it. The workload of the soak tests.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Parser;
use serde_json::json;

/// More than are open at a time when each takes 30 ms, at 1,000 a second.
const THREADS: u64 = 32;
/// How long a connection and its answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the sockets in TIME_WAIT are counted.
const SAMPLING: Duration = Duration::from_millis(500);

/// Makes many new connections.
#[derive(Parser)]
struct Options {
    /// New connections a second
    #[arg(long)]
    rate: u64,
    /// Seconds
    #[arg(long)]
    seconds: u64,
    /// Keep every source port for the whole minute of TIME_WAIT (net.ipv4.tcp_tw_reuse=0). In a namespace of its own only
    #[arg(long)]
    no_reuse: bool,
    /// Ephemeral ports (net.ipv4.ip_local_port_range), such as "40000 40499". In a namespace of its own only
    #[arg(long)]
    ports: Option<String>,
    /// The Host header
    #[arg(long, default_value = "test.com")]
    host: String,
    /// Where to
    address: SocketAddr,
}

/// What came of the connections of one thread.
#[derive(Default)]
struct Outcomes {
    connected: u64,
    answered: u64,
    /// Failed connect(), by error.
    refused: BTreeMap<String, u64>,
    /// No answer with status 200, by error.
    unanswered: BTreeMap<String, u64>,
    /// Microseconds of connect().
    latencies: Vec<u32>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if options.no_reuse {
        set("tcp_tw_reuse", "0")?;
    }
    if let Some(ports) = &options.ports {
        set("ip_local_port_range", ports)?;
    }
    let (next, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let begin = Instant::now();
    let (outcomes, peak) = thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut peak = 0;
            while !done.load(Relaxed) {
                peak = peak.max(time_waits().unwrap_or(0));
                thread::park_timeout(SAMPLING);
            }
            peak
        });
        let callers: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| call(&options, begin, &next))).collect();
        let outcomes: Vec<_> = callers.into_iter().filter_map(|caller| caller.join().ok()).collect();
        done.store(true, Relaxed);
        sampler.thread().unpark();
        (outcomes, sampler.join().unwrap_or(0))
    });
    report(&sum(outcomes), peak, begin.elapsed())
}

/// Makes every connection whose turn it is, when it is its turn, until the time is over.
fn call(options: &Options, begin: Instant, next: &AtomicU64) -> Outcomes {
    let request = format!("GET /status/200 HTTP/1.1\r\nhost: {}\r\n\r\n", options.host);
    let mut outcomes = Outcomes::default();
    loop {
        let number = next.fetch_add(1, Relaxed);
        if number >= options.rate * options.seconds {
            return outcomes;
        }
        let due = begin + Duration::from_nanos(number * 1_000_000_000 / options.rate);
        while let Some(early) = due.checked_duration_since(Instant::now()).filter(|early| !early.is_zero()) {
            thread::park_timeout(early);
        }
        let started = Instant::now();
        match TcpStream::connect_timeout(&options.address, PATIENCE) {
            Ok(stream) => {
                outcomes.latencies.push(started.elapsed().as_micros() as u32);
                outcomes.connected += 1;
                match exchange(stream, &request) {
                    Ok(()) => outcomes.answered += 1,
                    Err(error) => *outcomes.unanswered.entry(error.to_string()).or_default() += 1,
                }
            }
            Err(error) => *outcomes.refused.entry(error.to_string()).or_default() += 1,
        }
    }
}

/// Sends the request and reads the head of the answer; then the stream is closed.
fn exchange(mut stream: TcpStream, request: &str) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = stream.read(&mut buffer)?;
        anyhow::ensure!(length != 0, "closed without an answer");
        answer.extend_from_slice(&buffer[..length]);
    }
    let line = String::from_utf8_lossy(&answer);
    let line = line.lines().next().unwrap_or_default();
    anyhow::ensure!(line.starts_with("HTTP/1.1 200"), "answered {line:?}");
    Ok(())
}

fn sum(outcomes: Vec<Outcomes>) -> Outcomes {
    outcomes.into_iter().fold(Outcomes::default(), |mut all, one| {
        all.connected += one.connected;
        all.answered += one.answered;
        for (sum, part) in [(&mut all.refused, one.refused), (&mut all.unanswered, one.unanswered)] {
            for (error, count) in part {
                *sum.entry(error).or_default() += count;
            }
        }
        all.latencies.extend(one.latencies);
        all
    })
}

fn report(all: &Outcomes, peak: u64, took: Duration) -> Result<()> {
    let mut latencies = all.latencies.clone();
    latencies.sort_unstable();
    let at = |percent: usize| latencies.get(latencies.len() * percent / 100).or(latencies.last());
    let report = json!({
        "connected": all.connected,
        "answered": all.answered,
        "refused": all.refused,
        "unanswered": all.unanswered,
        "seconds": took.as_secs_f64(),
        "per_second": all.connected as f64 / took.as_secs_f64(),
        "time_wait_peak": peak,
        "connect_microseconds": { "median": at(50), "p99": at(99), "max": latencies.last() },
    });
    writeln!(std::io::stdout(), "{report}").context("cannot write to standard output")
}

/// Sockets in TIME_WAIT in this network namespace.
fn time_waits() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/net/sockstat").ok()?;
    let mut words =
        text.lines().find(|line| line.starts_with("TCP:"))?.split(' ').skip_while(|word| *word != "tw");
    words.nth(1)?.parse().ok()
}

/// Writes a setting of this network namespace.
fn set(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/{name}");
    fs::write(&path, value).with_context(|| format!("cannot set {path}"))
}

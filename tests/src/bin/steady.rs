//! A workload that calls out at a steady rate, each time over a new connection, until it is killed. Runs in a pod, and tells on
//! standard output, as one JSON object a line, every request that failed (`failed`, and when it began and ended), and every
//! second how many were begun and answered in it, and since when the oldest is open. Times are milliseconds since the epoch. See
//! `cluster::load`.
//!
//! A request whose turn it is waits for nobody: what hangs does not slow the others down, and is seen when its patience ends.

use std::{
    collections::BTreeSet,
    env,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// For so many requests that hang there are threads.
const MOST: usize = 4000;
/// Nobody ends a workload whose test was killed.
const LONGEST: Duration = Duration::from_mins(15);
/// Little is on these stacks.
const STACK: usize = 64 << 10;

/// What the second so far has had.
#[derive(Default)]
struct Counts {
    begun: AtomicU64,
    answered: AtomicU64,
    /// When each that is open began, with its number.
    open: Mutex<BTreeSet<(u64, u32)>>,
}

impl Counts {
    fn open(&self) -> MutexGuard<'_, BTreeSet<(u64, u32)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().collect();
    let [_, address, host, rate] = &arguments[..] else {
        anyhow::bail!(
            "steady ADDRESS HOST RATE: which server, which Host header, how many requests a second"
        );
    };
    let address: SocketAddr = address.parse().context("the address")?;
    let rate: u32 = rate.parse().context("the rate")?;
    let request: Arc<str> =
        format!("GET /status/200 HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").into();
    let counts = Arc::new(Counts::default());
    let output = Arc::new(Mutex::new(io::stdout()));
    let started = Instant::now();
    let mut tell_at = started + Duration::from_secs(1);
    for number in 0_u32.. {
        let due = started + Duration::from_secs(1) * number / rate;
        while let Some(early) = due.checked_duration_since(Instant::now()).filter(|early| !early.is_zero()) {
            thread::park_timeout(early);
        }
        if started.elapsed() > LONGEST {
            break;
        }
        if Instant::now() >= tell_at {
            tell_at += Duration::from_secs(1);
            let [begun, answered] = [&counts.begun, &counts.answered].map(|counter| counter.swap(0, Relaxed));
            let oldest = counts.open().first().map_or_else(now, |(begun, _)| *begun);
            tell(&output, &json!({ "at": now(), "begun": begun, "answered": answered, "oldest": oldest }));
        }
        let begun = now();
        if counts.open().len() >= MOST {
            tell(&output, &json!({ "failed": "too many requests hang", "begun": begun, "ended": begun }));
            continue;
        }
        counts.begun.fetch_add(1, Relaxed);
        counts.open().insert((begun, number));
        let (request, counts, output) = (Arc::clone(&request), Arc::clone(&counts), Arc::clone(&output));
        thread::Builder::new().stack_size(STACK).spawn(move || {
            match exchange(address, &request) {
                Ok(()) => drop(counts.answered.fetch_add(1, Relaxed)),
                Err(error) => {
                    let error = format!("{error:#}");
                    tell(&output, &json!({ "failed": error, "begun": begun, "ended": now() }));
                }
            }
            counts.open().remove(&(begun, number));
        })?;
    }
    Ok(())
}

/// Connects, asks, and reads the answer to its end.
fn exchange(address: SocketAddr, request: &str) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes()).context("write")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read")?;
    let answer = String::from_utf8_lossy(&answer);
    let line = answer.lines().next().unwrap_or_default();
    anyhow::ensure!(line.starts_with("HTTP/1.1 200"), "answered {line:?}");
    Ok(())
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A line that cannot be written is one that the test misses.
fn tell(output: &Mutex<io::Stdout>, line: &Value) {
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    drop(writeln!(output, "{line}"));
}

//! A pod under whose eyes Egret is updated and loses parts: it calls out at a steady rate, each time over a new connection (the
//! program `steady`), and tells every request that failed. What it wrote is asked for afterwards, so it goes on while there is no API
//! server. Called by the cluster tests.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    image,
    installed::{Caller, Installed},
    plan, tools,
};
use crate::wait;

/// Its name, and its image's.
const NAME: &str = "load";
/// In its image.
const PROGRAM: &str = "/steady";
/// What its requests get until they are over, and a busy machine until they are told. They themselves give up after 15 s.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often its output is asked for.
const INTERVAL: Duration = Duration::from_millis(500);

/// A load that runs. Its namespace is its own.
pub struct Load<'a> {
    egret: &'a Installed,
    namespace: String,
    /// The pod's own address: what is seen outside of whoever goes out directly.
    address: String,
}

/// A time, in milliseconds since the epoch: the same on all machines of the cluster, which are one.
pub type Moment = u64;

/// A request that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it began.
    pub begun: Moment,
    /// When it was over.
    pub ended: Moment,
    /// What came instead of the answer.
    pub error: String,
}

/// What the load has seen from a moment on.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Requests with their answer.
    pub answered: u64,
    /// The others, in the order of their ends.
    pub failures: Vec<Failure>,
    /// From the first to the last second that was told.
    pub seconds: f64,
}

/// Now.
pub fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl<'a> Load<'a> {
    /// Makes the namespace `namespace`, enrolled, and starts the load there on a node, `rate` requests a second to the external
    /// service, for `paths` in turn. `program` is `steady`. It is returned when its requests are answered.
    pub fn start(
        egret: &'a Installed,
        program: &Path,
        namespace: &str,
        node: &str,
        rate: u32,
        paths: &[&str],
    ) -> Result<Self> {
        egret.cluster().import_image(&image(program)?)?;
        egret.namespace(namespace, true)?;
        let mut command = vec![
            PROGRAM.to_owned(),
            format!("{}:80", plan::EXTERNAL),
            format!("{namespace}.test"),
            rate.to_string(),
        ];
        command.extend(paths.iter().map(|&path| path.to_owned()));
        let spec = json!({ "restartPolicy": "Never", "containers": [{ "name": NAME, "image": "load:test", "imagePullPolicy": "Never",
            "command": command }] });
        egret.start_captured(&Caller {
            namespace,
            name: NAME,
            node: Some(node),
            spec,
            ..Caller::default()
        })?;
        let pod = egret.kube().get(&["pod", NAME, "-n", namespace])?;
        let address = pod["status"]["podIP"].as_str().context("a pod without an address")?.to_owned();
        let load = Self { egret, namespace: namespace.to_owned(), address };
        load.steady()?;
        Ok(load)
    }

    /// The pod's address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits for two seconds in which no request failed; since when it is so.
    pub fn steady(&self) -> Result<Moment> {
        const FOR: Duration = Duration::from_secs(2);
        const TRIES: usize = 30;
        let mut last = Seen::default();
        for _ in 0..TRIES {
            let from = now();
            // Not a wait for a state: that nothing fails meanwhile is the state.
            thread::park_timeout(FOR);
            last = self.seen(from)?;
            if last.answered > 0 && last.failures.is_empty() {
                return Ok(from);
            }
        }
        bail!("the requests of {}/{NAME} go on failing: {}", self.namespace, last.summary(now()))
    }

    /// What it has seen of requests that ended after `from`, and of all that were begun until now: waits for those that are open.
    pub fn seen(&self, from: Moment) -> Result<Seen> {
        let until = now();
        let what = format!("the requests of {}/{NAME} to end", self.namespace);
        wait::until(&what, PATIENCE, || {
            let (seen, oldest) = self.read(from)?;
            if oldest < until {
                thread::park_timeout(INTERVAL);
                return Ok(None);
            }
            Ok(Some(seen))
        })
    }

    /// The same without waiting, and since when the oldest request is open.
    fn read(&self, from: Moment) -> Result<(Seen, Moment)> {
        // Whole seconds, and one more, so that nothing is missed; what is older is left out below.
        let since = format!("--since={}s", now().saturating_sub(from) / 1000 + 2);
        let text = self.egret.kube().kubectl(&["logs", "-n", &self.namespace, NAME, &since])?;
        let mut seen = Seen::default();
        let (mut first, mut last, mut oldest) = (None, 0, 0);
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
            let number = |name: &str| line[name].as_u64().with_context(|| format!("no {name}: {line}"));
            if let Some(error) = line["failed"].as_str() {
                let failure =
                    Failure { begun: number("begun")?, ended: number("ended")?, error: error.to_owned() };
                if failure.ended >= from {
                    seen.failures.push(failure);
                }
            } else if number("at")? >= from {
                seen.answered += number("answered")?;
                (last, oldest) = (number("at")?, number("oldest")?);
                first.get_or_insert(last - 1000);
            }
        }
        seen.seconds = first.map_or(0.0, |first| (last - first) as f64 / 1000.0);
        Ok((seen, oldest))
    }

    /// Ends it.
    pub fn end(mut self) -> Result<()> {
        self.egret.remove_namespace(&std::mem::take(&mut self.namespace))
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        // A test has failed: the others are not to meet its requests.
        if !self.namespace.is_empty() {
            let _ = self.egret.remove_namespace(&self.namespace);
        }
    }
}

impl Seen {
    /// Requests with their answer in a second.
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.answered as f64 / self.seconds } else { 0.0 }
    }

    /// How long after `from` the last failure was over.
    pub fn over_after(&self, from: Moment) -> Duration {
        let last = self.failures.iter().map(|failure| failure.ended).max().unwrap_or(from);
        Duration::from_millis(last.saturating_sub(from))
    }

    /// That nothing failed; the error says what did, by milliseconds from `from`.
    pub fn ensure_none_failed(&self, from: Moment) -> Result<()> {
        ensure!(self.failures.is_empty(), "{}", self.summary(from));
        Ok(())
    }

    /// In a few lines, by milliseconds from `from`.
    pub fn summary(&self, from: Moment) -> String {
        let after = |at: Moment| at.cast_signed() - from.cast_signed();
        let failed = self.failures.iter().take(10).map(|failure| {
            format!("\n{} to {} ms: {}", after(failure.begun), after(failure.ended), failure.error)
        });
        format!(
            "{} answered in {:.0} s ({:.0} a second), {} failed, the last after {:?}{}",
            self.answered,
            self.seconds,
            self.rate(),
            self.failures.len(),
            self.over_after(from),
            failed.collect::<String>()
        )
    }
}

/// Writes its image.
fn image(program: &Path) -> Result<PathBuf> {
    let archive = tools::files().join("images/load.tar");
    fs::create_dir_all(archive.parent().unwrap_or(&archive))?;
    let mut layer = image::Layer::default();
    layer.directory("tmp/", 0o1777)?;
    layer.program(PROGRAM.trim_start_matches('/'), program)?;
    layer.write("docker.io/library/load:test", &image::Settings::default(), &archive)?;
    Ok(archive)
}

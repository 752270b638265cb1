//! The time in which is measured: what came of it, per second and per processor time.

use std::{path::PathBuf, time::Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::{Options, latency::Latencies, meter::Cpu};

/// A window that has begun.
pub(super) struct Window {
    proxies: Option<PathBuf>,
    began: Instant,
    cpu: Cpu,
}

impl Window {
    pub(super) fn begin(options: &Options) -> Result<Self> {
        let proxies = options.proxies.clone();
        let cpu = Cpu::read(proxies.as_deref())?;
        Ok(Self { proxies, began: Instant::now(), cpu })
    }

    /// Ends now. Latencies of all that ended in it.
    pub(super) fn end_with(self, latencies: Latencies) -> Result<Value> {
        let count = latencies.count();
        anyhow::ensure!(count > 0, "not one request was answered in the window");
        let mut report = self.end(count)?;
        report["latency"] = latencies.percentiles();
        Ok(report)
    }

    /// Ends now; so many requests or bytes came through.
    pub(super) fn end(self, count: usize) -> Result<Value> {
        let seconds = self.began.elapsed().as_secs_f64();
        let cpu = Cpu::read(self.proxies.as_deref())?.since(self.cpu);
        Ok(json!({ "count": count, "seconds": seconds, "cpu_seconds": cpu }))
    }
}

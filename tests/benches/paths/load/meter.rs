//! Processor time and memory of the processes in a cgroup: children, and threads that have ended, are in it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// Microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cpu {
    total: f64,
    user: f64,
    system: f64,
}

impl Cpu {
    /// So far; of nobody: none.
    pub(super) fn read(cgroup: Option<&Path>) -> Result<Self> {
        let Some(cgroup) = cgroup else { return Ok(Self::default()) };
        let path = cgroup.join("cpu.stat");
        Self::parse(&fs::read_to_string(&path).with_context(|| path.display().to_string())?)
    }

    fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| {
            let value =
                text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
            value.with_context(|| format!("no {name} in cpu.stat"))
        };
        Ok(Self { total: field("usage_usec")?, user: field("user_usec")?, system: field("system_usec")? })
    }

    /// Seconds since then.
    pub(super) fn since(self, begin: Self) -> Value {
        let seconds = |pick: fn(&Self) -> f64| (pick(&self) - pick(&begin)) / 1e6;
        json!({ "total": seconds(|cpu| cpu.total), "user": seconds(|cpu| cpu.user), "system": seconds(|cpu| cpu.system) })
    }
}

/// MiB: resident, and with what processes share counted once (its part in each).
pub(super) fn memory(cgroup: &Path) -> Result<(f64, f64)> {
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).context("the proxies' cgroup")?;
    let (mut rss, mut pss) = (0.0, 0.0);
    for process in processes.lines() {
        let path = format!("/proc/{process}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
            kibibytes.with_context(|| format!("no {name} in {path}"))
        };
        rss += field("Rss:")? / 1024.0;
        pss += field("Pss:")? / 1024.0;
    }
    Ok((rss, pss))
}

#[cfg(test)]
mod tests {
    use super::Cpu;

    #[test]
    fn differences_are_seconds() {
        let read = |text| Cpu::parse(text).unwrap();
        let begin = read("usage_usec 500000\nuser_usec 200000\nsystem_usec 300000\n");
        let end = read("usage_usec 2500000\nuser_usec 700000\nsystem_usec 1800000\nnice_usec 7\n");
        let difference = end.since(begin);
        assert_eq!(difference, serde_json::json!({ "total": 2.0, "user": 0.5, "system": 1.5 }));
        assert!(Cpu::parse("usage_usec 1\n").is_err());
    }
}

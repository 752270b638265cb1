//! A growing file of JSON lines, read from a mark: what was logged *because of* a request.

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::wait;

/// The log file, which need not exist yet.
#[derive(Clone, Debug)]
pub struct JsonLog(PathBuf);

/// A place in a log: its length at some time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark(u64);

impl JsonLog {
    /// The log at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The end of the log as it is now.
    pub fn mark(&self) -> Mark {
        Mark(std::fs::metadata(&self.0).map_or(0, |metadata| metadata.len()))
    }

    /// The complete lines after `mark`. A line that is no JSON is an error: nothing may hide in one.
    pub fn since(&self, mark: Mark) -> Result<Vec<Value>> {
        let mut file = match File::open(&self.0) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", self.0.display()));
            }
        };
        file.seek(SeekFrom::Start(mark.0))?;
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(|| format!("cannot read {}", self.0.display()))?;
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete
            .lines()
            .map(|line| {
                serde_json::from_str(line)
                    .with_context(|| format!("{}: not a JSON line: {line}", self.0.display()))
            })
            .collect()
    }

    /// Waits for a line after `mark` that satisfies `wanted`, and gives all lines after `mark`.
    pub fn wait_since(
        &self,
        mark: Mark,
        patience: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Vec<Value>> {
        wait::until(&format!("a line in {}", self.0.display()), patience, || {
            let lines = self.since(mark)?;
            Ok(lines.iter().any(&wanted).then_some(lines))
        })
    }
}

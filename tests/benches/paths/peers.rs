//! The programs that are compared, where they are, and which versions.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// Where each is; `cargo xtask bench` gets and names them.
#[derive(clap::Args, Clone)]
pub(crate) struct Peers {
    /// The product
    #[arg(long)]
    pub(crate) egret: PathBuf,
    /// The external server, and one of the hops
    #[arg(long)]
    pub(crate) nginx: PathBuf,
    /// HAProxy
    #[arg(long)]
    pub(crate) haproxy: Option<PathBuf>,
    /// Envoy
    #[arg(long)]
    pub(crate) envoy: Option<PathBuf>,
}

impl Peers {
    /// Whether it is there.
    pub(crate) fn have(&self, name: &str) -> bool {
        match name {
            "haproxy" => self.haproxy.is_some(),
            "envoy" => self.envoy.is_some(),
            _ => true,
        }
    }

    /// What each says of its version.
    pub(crate) fn versions(&self) -> Result<Value> {
        Ok(json!({
            "egret": version(&self.egret, "--version")?,
            "nginx": version(&self.nginx, "-v")?,
            "haproxy": self.haproxy.as_deref().map(|program| version(program, "-v")).transpose()?,
            "envoy": self.envoy.as_deref().map(|program| version(program, "--version")).transpose()?,
        }))
    }
}

fn version(program: &Path, argument: &str) -> Result<String> {
    let output = Command::new(program)
        .arg(argument)
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Ok(text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned())
}

//! The external service as a guard: certificates, namespace, process and request log in one.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{json_log::JsonLog, netns::Namespace, process::Process};

/// The running service. Dropping it ends the process, then removes the namespace.
pub struct External {
    process: Process,
    namespace: Namespace,
    directory: PathBuf,
}

impl External {
    /// Makes certificates in `directory`, and starts `binary` (`egret-external`) inside `namespace`.
    pub fn start(binary: &Path, namespace: Namespace, directory: &Path) -> Result<Self> {
        let made = Command::new(binary)
            .args(["pki", "--out"])
            .arg(directory)
            .status()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        if !made.success() {
            bail!("`{} pki` failed ({made})", binary.display());
        }
        let address = namespace.address();
        let file = |name: &str| directory.join(name);
        let mut command = namespace.command(binary);
        command
            .arg("serve")
            .args(["--http", &format!("{address}:80"), "--https", &format!("{address}:443"), "--certificate"])
            .arg(file("server.crt"))
            .arg("--key")
            .arg(file("server.key"))
            .arg("--client-ca")
            .arg(file("client-ca.crt"))
            .arg("--log")
            .arg(file("requests.log"));
        let mut process = Process::spawn("the external service", &mut command)?;
        process.wait_for_line("ready", Duration::from_secs(10))?;
        Ok(Self { process, namespace, directory: directory.to_owned() })
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.namespace.address()
    }

    /// The namespace it lives in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Where the certificates of this run are.
    pub fn certificates(&self) -> &Path {
        &self.directory
    }

    /// A certificate or key of this run; see `pki::write` for the names.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What arrived.
    pub fn log(&self) -> JsonLog {
        JsonLog::new(self.file("requests.log"))
    }

    /// The process, for tests that end it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

//! A network namespace joined to the host by a veth pair: where the external service lives.
//!
//! Addresses are from the ranges for documentation (RFC 5737), one range per concurrent run. A lock file per range says
//! who has it; what a killed run left is found by its lock being free, and removed.

use std::{
    fs::{self, File, OpenOptions},
    net::Ipv4Addr,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::process;

/// First three octets of TEST-NET-3, TEST-NET-2 and TEST-NET-1. The scenario prefers the first.
const RANGES: [[u8; 3]; 3] = [[203, 0, 113], [198, 51, 100], [192, 0, 2]];
/// The name in place of a namespace's: where this process is.
const OWN: &str = ".";
/// Ranges are split into this many subnets of /26.
const SUBNETS: u8 = 4;

/// The namespace, for as long as this lives.
pub struct Namespace {
    name: String,
    host_link: String,
    host_address: Ipv4Addr,
    address: Ipv4Addr,
    /// Of a namespace that is ours to remove.
    lock: Option<Flock<File>>,
}

impl Namespace {
    /// Makes a namespace in the first free range. `locks` is a directory for the lock files, the same for all users of
    /// one `prefix` (at most six characters; it names namespace and link).
    pub fn create(prefix: &str, locks: &Path) -> Result<Self> {
        fs::create_dir_all(locks).with_context(|| format!("cannot create {}", locks.display()))?;
        let subnets =
            RANGES.iter().flat_map(|range| (0..SUBNETS).map(move |subnet| (*range, subnet))).enumerate();
        for (index, (range, subnet)) in subnets {
            let path = locks.join(format!("{prefix}-{index}.lock"));
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()))?;
            let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
                continue;
            };
            let host = |last: u8| Ipv4Addr::new(range[0], range[1], range[2], subnet * 64 + last);
            let namespace = Self {
                name: format!("{prefix}-{index}"),
                host_link: format!("{prefix}-h{index}"),
                host_address: host(1),
                address: host(10),
                lock: Some(lock),
            };
            namespace.remove();
            if namespace.range_is_routed()? {
                continue;
            }
            namespace.set_up()?;
            return Ok(namespace);
        }
        bail!("no free documentation range: all are routed on this machine or in use by other runs")
    }

    /// One that others made and will remove.
    pub fn of_others(name: &str, host_link: &str, host_address: Ipv4Addr, address: Ipv4Addr) -> Self {
        let (name, host_link) = (name.to_owned(), host_link.to_owned());
        Self { name, host_link, host_address, address, lock: None }
    }

    /// None at all, but this machine's own network at one of its addresses.
    pub fn of_this_machine(address: Ipv4Addr) -> Self {
        Self::of_others(OWN, "", address, address)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's end of the link.
    pub fn host_link(&self) -> &str {
        &self.host_link
    }

    /// The host's address on the link.
    pub fn host_address(&self) -> Ipv4Addr {
        self.host_address
    }

    /// The address inside.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A command that will run inside.
    pub fn command(&self, program: &Path) -> Command {
        if self.name == OWN {
            return Command::new(program);
        }
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Whether another interface already has the range (the default route does not count).
    fn range_is_routed(&self) -> Result<bool> {
        let routes =
            process::run("ip", &["-4", "route", "show", "root", &format!("{}/26", self.host_address)])?;
        let nested = process::run("ip", &["-4", "route", "show", "match", &self.address.to_string()])?;
        Ok(!routes.trim().is_empty() || nested.lines().any(|line| !line.starts_with("default")))
    }

    fn set_up(&self) -> Result<()> {
        let (name, link) = (self.name.as_str(), self.host_link.as_str());
        let host = format!("{}/26", self.host_address);
        let inside = format!("{}/26", self.address);
        process::run("ip", &["netns", "add", name])?;
        process::run("ip", &["link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        process::run("ip", &["addr", "add", &host, "dev", link])?;
        process::run("ip", &["link", "set", link, "up"])?;
        process::run("ip", &["-n", name, "addr", "add", &inside, "dev", "eth0"])?;
        process::run("ip", &["-n", name, "link", "set", "lo", "up"])?;
        process::run("ip", &["-n", name, "link", "set", "eth0", "up"])?;
        Ok(())
    }

    /// Removes namespace and link where they exist.
    fn remove(&self) {
        let _ = process::run("ip", &["link", "del", &self.host_link]);
        let _ = process::run("ip", &["netns", "del", &self.name]);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.lock.is_some() {
            self.remove();
        }
    }
}

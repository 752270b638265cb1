//! Names and addresses of a cluster, all derived from its short name, so that several run side by side on one machine.
//!
//! Pods, services and the "internet" are known only inside the cluster's namespaces and are the same in every cluster. Only
//! the network of the nodes is seen by this machine too (its API server is reached there), so only that one differs.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

/// Addresses of all pods; each node has a part.
pub const POD_RANGE: &str = "10.244.0.0/16";
/// Addresses of Services.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";
/// Address of the cluster's DNS Service.
pub const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Address of the Service `kubernetes`.
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Where the external service is, in the part of the "internet" that the scenario uses.
pub const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// What plays the internet: the ranges for documentation (RFC 5737). Every address is there, open ports are what tests open.
pub const INTERNET: [&str; 3] = ["203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24"];
/// Port of the API server.
pub const API_PORT: u16 = 6443;
/// The machine of the control plane, which also routes between the nodes and plays the internet.
pub const CONTROL: &str = "control";
/// The nodes.
pub const NODES: [&str; 2] = ["node-1", "node-2"];

/// Where the state of all clusters is.
const STATE: &str = "/run/egret-cluster";
/// Who starts or removes which cluster.
const LOCKS: &str = "/run/lock/egret-cluster";
/// Names of links have 15 characters at most, and ours carry a prefix.
const LONGEST_NAME: usize = 10;

/// Names and addresses of one cluster.
#[derive(Clone, Debug)]
pub struct Plan {
    name: String,
}

impl Plan {
    /// The plan of the cluster `name`: up to ten lower-case letters and digits.
    pub fn new(name: &str) -> Result<Self> {
        let fits = (1..=LONGEST_NAME).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if !fits {
            bail!(
                "`{name}` cannot name a cluster: use one to {LONGEST_NAME} lower-case letters and digits, such as `egret`"
            );
        }
        Ok(Self { name: name.to_owned() })
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Directory of kubeconfig, certificates, logs and records.
    pub fn state(&self) -> PathBuf {
        Path::new(STATE).join(&self.name)
    }

    /// The lock that `up` and `down` hold.
    pub fn lock(&self) -> PathBuf {
        Path::new(LOCKS).join(format!("{}.lock", self.name))
    }

    /// Name of the control machine's network namespace for `ip netns`, and of this machine's link into it.
    pub fn link(&self) -> String {
        format!("egk-{}", self.name)
    }

    /// Name of a machine's cgroup.
    pub fn cgroup(&self, machine: &str) -> String {
        format!("egk-{}-{machine}", self.name)
    }

    /// The control machine in the nodes' network.
    pub fn control(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// A node, by its place in [`NODES`].
    pub fn node(&self, index: usize) -> Ipv4Addr {
        self.address(11 + index as u8)
    }

    /// This machine in the nodes' network.
    pub fn host(&self) -> Ipv4Addr {
        self.address(254)
    }

    /// Length of the prefix of the nodes' network.
    pub fn prefix(&self) -> u8 {
        24
    }

    /// Addresses of a node's pods.
    pub fn pods(&self, index: usize) -> String {
        format!("10.244.{}.0/24", index + 1)
    }

    /// In the shared address space (RFC 6598), which is nobody's; the name decides which part of it.
    fn address(&self, last: u8) -> Ipv4Addr {
        let hash = self
            .name
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let [second, third, ..] = hash.to_le_bytes();
        Ipv4Addr::new(100, 64 + second % 64, third, last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["egret", "a", "test2", "abcdefghij"] {
            assert!(Plan::new(good).is_ok(), "{good}");
        }
        for bad in ["", "abcdefghijk", "Egret", "a-b", "../x", "ä"] {
            assert!(Plan::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_name_fits_a_link() {
        assert!(Plan::new("abcdefghij").unwrap().link().len() <= 15);
    }

    #[test]
    fn clusters_have_networks_of_their_own() {
        let plans: Vec<Plan> =
            ["egret", "test", "deploy", "node"].map(|name| Plan::new(name).unwrap()).into();
        for (index, plan) in plans.iter().enumerate() {
            let [first, second, ..] = plan.control().octets();
            assert_eq!((first, second & 0xc0), (100, 64), "{} is not in 100.64.0.0/10", plan.control());
            assert!(plans[..index].iter().all(|other| other.control() != plan.control()));
        }
    }
}

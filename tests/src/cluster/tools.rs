//! The programs of the cluster that are built from Go modules, once, by `cargo xtask cluster`; and those of the distribution.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

/// The commands of Kubernetes.
pub const KUBERNETES: [&str; 6] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];
/// The other programs that are built.
pub const OTHERS: [&str; 3] = ["helm", "kubeconform", "coredns"];
/// Programs of the distribution that a cluster needs, with the Debian packages that have them.
pub const PACKAGES: [(&str, &str); 12] = [
    ("etcd", "etcd-server"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("socat", "socat"),
    ("busybox", "busybox-static"),
    ("openssl", "openssl"),
    ("curl", "curl"),
    ("nsenter", "util-linux"),
];
/// The package with the network plugins, which are not in any path.
pub const PLUGINS_PACKAGE: &str = "containernetworking-plugins";

/// Where everything of clusters is that is not below `/run`: `cluster` in cargo's target directory.
pub fn files() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(target).join("cluster")
}

/// Where the built programs are.
#[derive(Clone, Debug)]
pub struct Tools {
    directory: PathBuf,
}

impl Tools {
    /// The programs where `cargo xtask cluster` builds them.
    pub fn built() -> Result<Self> {
        Self::at(&files().join("bin"))
    }

    /// The programs in `directory`; all of them have to be there.
    pub fn at(directory: &Path) -> Result<Self> {
        let missing: Vec<&str> =
            KUBERNETES.into_iter().chain(OTHERS).filter(|name| !directory.join(name).is_file()).collect();
        if !missing.is_empty() {
            bail!(
                "{} {} not in {}: `cargo xtask cluster tools` builds what a cluster is made of",
                missing.join(", "),
                if missing.len() == 1 { "is" } else { "are" },
                directory.display()
            );
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// One of them.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

//! A node: containerd with runc and the `ptp` network plugin, the kubelet, and kube-proxy.
//!
//! `ptp` gives every pod a link of its own that is routed. A bridge would let replies between pods of one node pass below the
//! node's address translation, which breaks Services where the kernel has no br_netfilter.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::{
    cluster::{
        certificates::Certificates,
        image,
        machine::Machine,
        plan::{DNS_ADDRESS, NODES, POD_RANGE, Plan},
        tools::Tools,
    },
    wait,
};

/// Where distributions have the network plugins.
const PLUGINS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// Writes the node's configuration below its machine's `/var/lib` (which is `files/lib`), and says how its services start.
pub(super) fn define(
    plan: &Plan,
    index: usize,
    machine: &Machine,
    tools: &Tools,
    certificates: &Certificates,
    files: &Path,
) -> Result<()> {
    let Some(plugins) = PLUGINS.into_iter().find(|place| Path::new(place).join("ptp").is_file()) else {
        bail!("no CNI plugins on this machine: install containernetworking-plugins");
    };
    let name = NODES[index];
    let lib = files.join("lib");
    for directory in ["egret-cluster/cni", "kubelet/static-pods", "containerd"] {
        let path = lib.join(directory);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    let own = lib.join("egret-cluster");
    let write = |file: &str, text: &str| {
        let path = own.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("containerd.toml", &containerd(plugins))?;
    write("cni/10-pods.conflist", &network(&plan.pods(index)))?;
    write("kubelet.json", &kubelet(certificates, name))?;
    // Pods that use the node's resolver get this one: it knows nothing.
    write("resolv.conf", "# No names outside the cluster.\n")?;
    for (identity, file) in [(name, "kubelet.conf"), ("kube-proxy", "kube-proxy.conf")] {
        certificates.kubeconfig(plan, identity, &own.join(file))?;
    }

    let arguments = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    machine.define(
        "containerd",
        Path::new("containerd"),
        &arguments(&["--config", "/var/lib/egret-cluster/containerd.toml"]),
    )?;
    machine.define(
        "kubelet",
        &tools.path("kubelet"),
        &arguments(&[
            "--config=/var/lib/egret-cluster/kubelet.json",
            "--kubeconfig=/var/lib/egret-cluster/kubelet.conf",
            &format!("--hostname-override={name}"),
            &format!("--node-ip={}", plan.node(index)),
        ]),
    )?;
    machine.define(
        "kube-proxy",
        &tools.path("kube-proxy"),
        &arguments(&[
            "--kubeconfig=/var/lib/egret-cluster/kube-proxy.conf",
            "--proxy-mode=nftables",
            &format!("--cluster-cidr={POD_RANGE}"),
            &format!("--hostname-override={name}"),
            // Only the first network namespace may set these.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
            "--oom-score-adj=0",
        ]),
    )
}

/// Starts containerd, and waits until it serves: a kubelet that does not find it gives up.
pub(super) fn start_containerd(machine: &Machine) -> Result<()> {
    machine.start("containerd")?;
    wait::until("containerd to serve", Duration::from_secs(30), || Ok(machine.run("ctr", &["version"]).ok()))
        .map(drop)
        .map_err(|error| machine.explained(&error, "containerd"))
}

/// Starts what makes the machine a node of the cluster.
pub(super) fn start_kubelet(machine: &Machine) -> Result<()> {
    machine.start("kubelet")?;
    machine.start("kube-proxy")
}

/// The node object. It is made by us, because the range of the node's pods is fixed.
pub(super) fn object(plan: &Plan, index: usize) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODES[index]},
        "spec": {"podCIDR": plan.pods(index), "podCIDRs": [plan.pods(index)]},
    })
    .to_string()
}

fn containerd(plugins: &str) -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{}"
  # Not every machine lets us protect processes from the OOM killer, or has AppArmor.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "/var/lib/egret-cluster/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"#,
        image::PAUSE
    )
}

fn network(pods: &str) -> String {
    json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni-addresses",
                    "ranges": [[{"subnet": pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    })
    .to_string()
}

fn kubelet(certificates: &Certificates, name: &str) -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": certificates.path("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": certificates.path(&format!("{name}.crt")),
        "tlsPrivateKeyFile": certificates.path(&format!("{name}.key")),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "staticPodPath": "/var/lib/kubelet/static-pods",
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": "/var/lib/egret-cluster/resolv.conf",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        "oomScoreAdj": 0,
        "maxPods": 200,
        // The disk of a development machine may be nearly full, and its images are not the kubelet's.
        "evictionHard": {
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "memory.available": "50Mi",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    })
    .to_string()
}

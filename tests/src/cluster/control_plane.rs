//! The control plane: etcd, API server, controller manager and scheduler, as services of the control machine.

use std::path::Path;

use anyhow::Result;

use crate::cluster::{
    certificates::Certificates,
    machine::Machine,
    plan::{API_PORT, Plan, SERVICE_RANGE},
    tools::Tools,
};

/// Its services, in the order in which they start.
pub(super) const SERVICES: [&str; 4] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// Says how each service is started.
pub(super) fn define(
    plan: &Plan,
    machine: &Machine,
    tools: &Tools,
    certificates: &Certificates,
    files: &Path,
) -> Result<()> {
    for identity in ["kube-controller-manager", "kube-scheduler"] {
        certificates.kubeconfig(plan, identity, &certificates.path(&format!("{identity}.conf")))?;
    }
    machine.define("etcd", Path::new("etcd"), &etcd(files))?;
    machine.define("kube-apiserver", &tools.path("kube-apiserver"), &apiserver(plan, certificates))?;
    machine.define(
        "kube-controller-manager",
        &tools.path("kube-controller-manager"),
        &controller_manager(certificates),
    )?;
    machine.define("kube-scheduler", &tools.path("kube-scheduler"), &scheduler(certificates))
}

fn etcd(files: &Path) -> Vec<String> {
    vec![
        format!("--data-dir={}", files.join("etcd").display()),
        // A test cluster is not worth waiting for a disk.
        "--unsafe-no-fsync".to_owned(),
        "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
        "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--logger=zap".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

fn apiserver(plan: &Plan, certificates: &Certificates) -> Vec<String> {
    let file = |name: &str| certificates.text(name);
    vec![
        format!("--advertise-address={}", plan.control()),
        format!("--secure-port={API_PORT}"),
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--anonymous-auth=false".to_owned(),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--tls-cert-file={}", file("apiserver.crt")),
        format!("--tls-private-key-file={}", file("apiserver.key")),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", file("service-accounts.pub")),
        format!("--service-account-signing-key-file={}", file("service-accounts.key")),
        format!("--kubelet-certificate-authority={}", file("ca.crt")),
        format!("--kubelet-client-certificate={}", file("apiserver-kubelet.crt")),
        format!("--kubelet-client-key={}", file("apiserver-kubelet.key")),
        // Nodes have no names in any DNS.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
    ]
}

fn controller_manager(certificates: &Certificates) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", certificates.text("kube-controller-manager.conf")),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
        "--use-service-account-credentials=true".to_owned(),
        format!("--service-account-private-key-file={}", certificates.text("service-accounts.key")),
        format!("--root-ca-file={}", certificates.text("ca.crt")),
        // The nodes' ranges are fixed, because they are routed.
        "--allocate-node-cidrs=false".to_owned(),
        // It starts some forty controllers, each with credentials to get first.
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
    ]
}

fn scheduler(certificates: &Certificates) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", certificates.text("kube-scheduler.conf")),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
    ]
}

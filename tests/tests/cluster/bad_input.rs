//! What can be wrong with a cluster: the component says what is missing and the remedy, in its readiness and its log, nobody is let out
//! meanwhile, and it goes on by itself when it is mended.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    cluster::{
        installed::{Caller, Installed, NAMESPACE, condition},
        parts::{AGENT, CA, GATEWAY},
        plan::NODES,
    },
    curl::Answer,
    egret::binary,
    external::External,
    wait,
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
const BPFFS: &str = "/sys/fs/bpf";
/// Where a node's bpffs is meanwhile.
const KEPT: &str = "/run/kept-bpffs";

/// Egret, somebody to call, and an enrolled namespace for one test.
struct Scene {
    egret: Installed,
    external: External,
    namespace: &'static str,
    _directory: TempDir,
}

impl Scene {
    fn new(namespace: &'static str) -> Result<Option<Self>> {
        let Some(egret) = super::installed()? else { return Ok(None) };
        let directory = TempDir::new()?;
        let external =
            External::start(&super::external_binary(), egret.cluster().internet(), directory.path())?;
        egret.namespace(namespace, true)?;
        Ok(Some(Self { egret, external, namespace, _directory: directory }))
    }

    fn pod<'a>(&self, name: &'a str, node: &'a str) -> Caller<'a> {
        Caller { namespace: self.namespace, name, node: Some(node), ..Caller::default() }
    }

    fn call(&self, pod: &str) -> Result<Answer> {
        let url = format!("http://{}/status/418", self.external.address());
        self.egret.curl(self.namespace, pod, &[&url])
    }

    /// Waits until calls go through again.
    fn goes_on(&self, pod: &str) -> Result<()> {
        let mut last = String::new();
        let waited = wait::until(&format!("{pod} to be served"), PATIENCE, || {
            let answer = self.call(pod)?;
            last = answer.summary();
            Ok((answer.status == Some(418)).then_some(()))
        });
        waited.context(last)
    }

    fn end(self) -> Result<()> {
        self.egret.remove_namespace(self.namespace)
    }
}

#[test]
fn without_a_gateway_pods_are_told_at_once() -> Result<()> {
    let Some(scene) = Scene::new("no-gateway")? else { return Ok(()) };
    let egret = &scene.egret;
    egret.start_captured(&scene.pod("caller", NODES[0]))?;
    scene.goes_on("caller")?;
    let scale = |replicas: &str| {
        let count = format!("--replicas={replicas}");
        egret.kube().kubectl(&["scale", "deployment/istio-egressgateway", "-n", NAMESPACE, &count])
    };
    scale("0")?;
    wait::until("the gateways to end", PATIENCE, || {
        Ok(egret.pods(GATEWAY.account)?.is_empty().then_some(()))
    })?;
    let refused = wait::until("a refusal", PATIENCE, || {
        let answer = scene.call("caller")?;
        Ok((answer.status == Some(503)).then_some(answer))
    })?;
    ensure!(refused.body.contains("gateway"), "no reason: {}", refused.summary());
    let again = std::time::Instant::now();
    scene.call("caller")?;
    ensure!(again.elapsed() < Duration::from_secs(5), "not at once: {:?}", again.elapsed());
    scale("2")?;
    scene.goes_on("caller")?;
    egret.wait_until_ready()?;
    scene.end()
}

#[test]
fn without_definitions_gateways_say_how_to_install_them() -> Result<()> {
    let Some(egret) = super::installed()? else { return Ok(()) };
    let kube = egret.kube();
    let kind = "serviceentries.networking.istio.io";
    kube.kubectl(&["delete", "crd", kind])?;
    let tried = (|| {
        let pod = egret.renew(GATEWAY, None)?;
        wait::until("the gateway to say so", PATIENCE, || {
            let said = egret.ready(GATEWAY, &pod)?.text;
            Ok((said.contains("ServiceEntry") && said.contains("install the CustomResourceDefinitions"))
                .then_some(()))
        })?;
        let status = Command::new(binary()?)
            .args(["status", "--cluster", "--kubeconfig"])
            .arg(kube.kubeconfig())
            .output()?;
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        ensure!(status.contains("install the CustomResourceDefinitions"), "{status}");
        Ok(pod)
    })();
    // The chart has them.
    egret.upgrade_only(&[])?;
    let pod = tried?;
    wait::until("the gateway to go on", PATIENCE, || {
        let said = egret.ready(GATEWAY, &pod)?;
        Ok((said.ready && !said.text.contains("CustomResourceDefinitions")).then_some(()))
    })?;
    egret.never_restarted(&pod)
}

#[test]
fn a_ca_with_bad_keys_says_so_and_goes_on_with_good_ones() -> Result<()> {
    let Some(egret) = super::installed()? else { return Ok(()) };
    let pod = egret.pods(CA.account)?.pop().context("no CA")?;
    let before = egret.kube().get(&["secret", "egret-ca", "-n", NAMESPACE])?;
    let set = |key: &str| {
        let patch = serde_json::json!({ "data": { "tls.key": key } }).to_string();
        egret.kube().kubectl(&["patch", "secret", "egret-ca", "-n", NAMESPACE, "--type=merge", "-p", &patch])
    };
    // "no key"
    set("bm8ga2V5")?;
    let said = egret.wait_for_said(CA, &pod, false, &["Secret istio-system/egret-ca is unusable", "Mend it"]);
    set(before["data"]["tls.key"].as_str().context("no key")?)?;
    said?;
    egret.wait_for_said(CA, &pod, true, &[])?;

    // The settings name another trust domain than the keys are for.
    egret.upgrade_only(&["meshConfig.trustDomain=other.example"])?;
    let said = egret.wait_for_said(CA, &pod, false, &["is unusable", "other.example"]);
    let agent = egret.agent_on(NODES[0])?;
    let told = egret.wait_for_log(AGENT, &["trust domain", "restart"]);
    egret.upgrade_only(&[])?;
    said?;
    told?;
    egret.wait_for_said(CA, &pod, true, &[])?;
    egret.wait_for_said(AGENT, &agent, true, &[])?;
    egret.never_restarted(&pod)?;
    egret.never_restarted(&agent)?;
    egret.wait_until_ready()
}

#[test]
fn a_node_without_bpffs_is_named_and_captures_nobody() -> Result<()> {
    let Some(scene) = Scene::new("no-bpffs")? else { return Ok(()) };
    let egret = &scene.egret;
    let [_, name] = NODES;
    egret.start_captured(&scene.pod("older", name))?;
    let node = egret.cluster().node(name)?;
    // Kept elsewhere: without any mount of it, what an earlier agent has pinned would be detached.
    node.run("sh", &["-ec", &format!("mkdir -p {KEPT}; mount --bind {BPFFS} {KEPT}; umount {BPFFS}")])?;
    let tried = (|| {
        let agent = egret.renew(AGENT, Some(name))?;
        egret.wait_for_said(AGENT, &agent, false, &["bpffs", "mount -t bpf bpf /sys/fs/bpf"])?;
        egret.wait_for_log(AGENT, &["bpffs", "mount -t bpf bpf /sys/fs/bpf"])?;
        egret.start(&scene.pod("newer", name))?;
        for pod in ["older", "newer"] {
            let answer = scene.call(pod)?;
            ensure!(answer.status.is_none(), "{pod} gets out: {}", answer.summary());
        }
        let newer = egret.kube().get(&["pod", "newer", "-n", scene.namespace])?;
        ensure!(condition(&newer).is_none_or(|said| said["status"] != "True"), "captured? {newer}");
        Ok(agent)
    })();
    node.run("sh", &["-ec", &format!("mount --bind {KEPT} {BPFFS}; umount {KEPT}")])?;
    let agent = tried?;
    egret.wait_for_said(AGENT, &agent, true, &[])?;
    egret.never_restarted(&agent)?;
    for pod in ["older", "newer"] {
        egret.wait_for_condition(scene.namespace, pod, "True")?;
        scene.goes_on(pod)?;
    }
    scene.end()
}

//! The cluster itself, without Egret: what the other tests take for granted.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    cluster::{self, Cluster, plan::NODES},
    external::External,
    json_log::Mark,
};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_mins(1);

/// A web server on every node, and a Service in front of them.
const WEB: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: web
spec:
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: sleep:test
        imagePullPolicy: Never
        env:
        - name: NODE
          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
        command: [sh, -c, "mkdir /www && echo on $NODE > /www/index.html && echo serving && exec httpd -f -p 8080 -h /www"]
---
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  selector: {app: web}
  ports:
  - {port: 80, targetPort: 8080}
"#;

/// A pod of [`WEB`].
struct Pod {
    name: String,
    address: String,
}

#[test]
fn a_cluster_comes_up_does_what_clusters_do_and_leaves_nothing() -> Result<()> {
    const NAME: &str = "itself";
    let Some(cluster) = super::cluster(NAME)? else { return Ok(()) };
    cluster.kube().apply(WEB)?;
    cluster.kube().wait_for_rollout("default", "daemonset/web", PATIENCE)?;
    let pods = NODES.into_iter().map(|node| pod_on(&cluster, node)).collect::<Result<Vec<_>>>()?;
    let first = &pods[0].name;

    pods_reach_each_other(&cluster, &pods)?;
    services_and_names_work(&cluster, first)?;
    ensure!(cluster.kubectl(&["logs", first])?.contains("serving"));
    the_outside_sees_the_pod(&cluster, &pods[0])?;
    a_lost_node_comes_back(&cluster, &pods)?;
    the_api_server_comes_back(&cluster)?;

    cluster.remove()?;
    let left = cluster::left(NAME)?;
    ensure!(left.is_empty(), "{}", left.join("\n"));
    Ok(())
}

fn pod_on(cluster: &Cluster, node: &str) -> Result<Pod> {
    let on_node = format!("spec.nodeName={node}");
    let list = cluster.kube().get(&["pods", "-l", "app=web", "--field-selector", &on_node])?;
    let pod = &list["items"][0];
    let text = |value: &Value| value.as_str().map(str::to_owned).context("a pod without name or address");
    Ok(Pod { name: text(&pod["metadata"]["name"])?, address: text(&pod["status"]["podIP"])? })
}

fn curl(cluster: &Cluster, pod: &str, url: &str) -> Result<String> {
    cluster.kubectl(&["exec", pod, "--", "curl", "-sS", "--max-time", "5", url])
}

fn pods_reach_each_other(cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    for from in pods {
        for (to, node) in pods.iter().zip(NODES) {
            let answer = curl(cluster, &from.name, &format!("http://{}:8080/", to.address))?;
            ensure!(answer == format!("on {node}\n"), "{}: {answer}", to.address);
        }
    }
    Ok(())
}

/// Also to the pod itself and to one on the same node, which the Service picks at times.
fn services_and_names_work(cluster: &Cluster, pod: &str) -> Result<()> {
    for name in ["web", "web.default", "web.default.svc.cluster.local"] {
        for _ in 0..4 {
            let answer = curl(cluster, pod, &format!("http://{name}/"))?;
            ensure!(answer.starts_with("on node-"), "{name}: {answer}");
        }
    }
    let unknown = curl(cluster, pod, "http://no.such.name/").expect_err("a name that nobody has");
    ensure!(format!("{unknown:#}").contains("Could not resolve host"), "{unknown:#}");
    Ok(())
}

fn the_outside_sees_the_pod(cluster: &Cluster, pod: &Pod) -> Result<()> {
    let directory = TempDir::with_prefix("egret-cluster")?;
    let external = External::start(&super::external_binary(), cluster.internet(), directory.path())?;
    let answer = curl(cluster, &pod.name, "http://test.com/anything")?;
    ensure!(answer.contains("test.com"), "{answer}");
    let lines = external.log().since(Mark::default())?;
    let peers: Vec<_> = lines.iter().filter_map(|line| line["peer"].as_str()).collect();
    ensure!(peers.len() == 1 && peers[0].starts_with(&pod.address), "{peers:?} is not {}", pod.address);
    Ok(())
}

fn a_lost_node_comes_back(cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    let node = cluster.node(NODES[1])?;
    node.kill()?;
    let lost = curl(cluster, &pods[0].name, &format!("http://{}:8080/", pods[1].address));
    ensure!(lost.is_err(), "a killed node serves: {lost:?}");
    cluster.restart_node(NODES[1])?;
    cluster.kube().wait_for(
        "the lost node's pod to run again",
        &["pod", &pods[1].name],
        PATIENCE,
        |pod| {
            let container = &pod["status"]["containerStatuses"][0];
            container["restartCount"].as_u64() > Some(0) && container["ready"] == true
        },
    )?;
    let again = pod_on(cluster, NODES[1])?;
    curl(cluster, &pods[0].name, &format!("http://{}:8080/", again.address)).map(drop)
}

fn the_api_server_comes_back(cluster: &Cluster) -> Result<()> {
    let control = cluster.control();
    control.stop("kube-apiserver")?;
    ensure!(cluster.kubectl(&["get", "nodes"]).is_err(), "the API server is still there");
    control.start("kube-apiserver")?;
    cluster.wait_for_api_server()?;
    cluster.wait_for_nodes()
}

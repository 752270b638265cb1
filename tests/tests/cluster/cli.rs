//! The command line on a cluster with Egret in it: who is asked, what is said when somebody is missing, and the kubectl plugin.

use std::{
    env,
    net::Ipv4Addr,
    os::unix::fs::symlink,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    cluster::{
        Cluster,
        installed::{Caller, Installed, NAMESPACE},
        plan::NODES,
    },
    curl, egret,
    process::Process,
    wait,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_mins(2);

#[test]
fn a_cluster_is_asked_from_outside_of_it() -> Result<()> {
    let Some(installed) = super::installed()? else { return Ok(()) };
    let cluster = installed.cluster();

    all_roles_are_shown(cluster)?;
    a_node_without_an_agent_is_said(cluster)?;
    who_may_not_exec_is_told_what_it_takes(cluster)?;
    a_gateway_shows_itself_through_a_port_forward(&installed)?;
    kubectl_finds_the_plugin(cluster)
}

fn all_roles_are_shown(cluster: &Cluster) -> Result<()> {
    let status = read(&egret(cluster, &["status", "--cluster", "-o", "json"])?)?;
    for (row, node) in array(&status, "nodes").iter().zip(NODES) {
        ensure!(row["node"] == node && row["answered"] == true && row["ready"] == true, "{row:#}");
    }
    ensure!(
        array(&status, "nodes").len() == NODES.len() && array(&status, "gateways").len() == 2,
        "{status:#}"
    );
    ensure!(array(&status, "silent").is_empty(), "{status:#}");
    let flows = read(&egret(cluster, &["flows", "--cluster", "-o", "json"])?)?;
    ensure!(flows.is_array(), "{flows:#}");
    let findings = read(&egret(cluster, &["doctor", "--cluster", "-o", "json"])?)?;
    ensure!(findings["examined"] == NODES.len(), "{findings:#}");
    let agents = array(&findings, "checks").iter().find(|check| check["name"] == "agents");
    ensure!(agents.is_some_and(|check| check["status"] == "ok"), "{findings:#}");
    Ok(())
}

/// Its agent is kept away by a label that the DaemonSet asks for.
fn a_node_without_an_agent_is_said(cluster: &Cluster) -> Result<()> {
    let [kept, lost] = NODES;
    cluster.kubectl(&["label", "node", kept, "egret-test=yes"])?;
    let select = r#"{"spec":{"template":{"spec":{"nodeSelector":{"egret-test":"yes"}}}}}"#;
    cluster.kubectl(&["-n", NAMESPACE, "patch", "daemonset", "egret-agent", "-p", select])?;
    wait::until("the node without an agent to be said", PATIENCE, || {
        let status = read(&egret(cluster, &["status", "--cluster", "-o", "json"])?)?;
        let of = |node: &str| array(&status, "nodes").iter().find(|row| row["node"] == node).cloned();
        let (kept, gone) = (of(kept).unwrap_or_default(), of(lost).unwrap_or_default());
        Ok((gone["agent"].is_null() && kept["answered"] == true).then_some(()))
    })?;
    let shown = egret(cluster, &["status", "--cluster"])?;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    ensure!(text.contains("NO AGENT") && text.contains(&format!("node {lost}")), "{text}");
    ensure!(text.lines().all(|line| line.trim_end().chars().count() <= 100), "{text}");
    ensure!(shown.status.success(), "the others answered");
    let all = r#"{"spec":{"template":{"spec":{"nodeSelector":null}}}}"#;
    cluster.kubectl(&["-n", NAMESPACE, "patch", "daemonset", "egret-agent", "-p", all])?;
    cluster.kube().wait_for_rollout(NAMESPACE, "daemonset/egret-agent", PATIENCE)?;
    cluster.kubectl(&["label", "node", kept, "egret-test-"]).map(drop)
}

/// A user that may read everything and run nothing.
fn who_may_not_exec_is_told_what_it_takes(cluster: &Cluster) -> Result<()> {
    let reader = json!([
        { "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "reader", "namespace": "default" } },
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "reader" },
          "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view" },
          "subjects": [{ "kind": "ServiceAccount", "name": "reader", "namespace": "default" }] },
    ]);
    cluster.kube().apply(&json!({ "apiVersion": "v1", "kind": "List", "items": reader }).to_string())?;
    let token = cluster.kubectl(&["create", "token", "reader"])?;
    let directory = TempDir::new()?;
    let kubeconfig = directory.path().join("kubeconfig");
    std::fs::copy(cluster.kube().kubeconfig(), &kubeconfig)?;
    let configure = |arguments: &[&str]| -> Result<()> {
        let mut command = cluster.kube().command("kubectl");
        let configured = command.env("KUBECONFIG", &kubeconfig).arg("config").args(arguments).output()?;
        ensure!(configured.status.success(), "{}", String::from_utf8_lossy(&configured.stderr));
        Ok(())
    };
    configure(&["set-credentials", "reader", "--token", token.trim()])?;
    configure(&["set-context", "--current", "--user", "reader"])?;
    let output = Command::new(egret::binary()?)
        .args(["flows", "--kubeconfig"])
        .arg(&kubeconfig)
        .output()
        .context("egret flows")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("create of pods/exec"), "{said}");
    cluster.kubectl(&["delete", "clusterrolebinding/reader", "serviceaccount/reader"]).map(drop)
}

/// Its page is on its pod's loopback: nobody reaches it from the cluster, and whoever may forward ports wants the token, too.
fn a_gateway_shows_itself_through_a_port_forward(installed: &Installed) -> Result<()> {
    let kube = installed.kube();
    let gateways = kube.get(&["pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=gateway"])?;
    let pod = gateways["items"][0]["metadata"]["name"].as_str().context("no gateway")?;
    let address = gateways["items"][0]["status"]["podIP"].as_str().context("a gateway without an address")?;
    let told = installed.egret(pod, &["ui", "--gateway"])?;
    let (there, token) = told.trim().split_once("/#").with_context(|| format!("{told:?} has no token"))?;
    ensure!(there == "http://127.0.0.1:15000", "{told}");
    let port = egret::free_port(Ipv4Addr::LOCALHOST)?;
    let mut forward = kube.command("kubectl");
    forward.args(["port-forward", "-n", NAMESPACE, pod, &format!("{port}:15000")]).stdout(Stdio::null());
    let _forward = Process::spawn("kubectl port-forward", &mut forward)?;
    let (page, bearer) = (format!("http://localhost:{port}"), format!("authorization: Bearer {token}"));
    let ask = |arguments: &[&str]| curl::run(&mut curl::command(arguments));
    wait::until("the page", PATIENCE, || Ok((ask(&[&page])?.status == Some(200)).then_some(())))?;
    let flows = format!("{page}/api/flows");
    for (arguments, status) in [
        (vec!["--header", bearer.as_str()], 200),
        (vec![], 401),
        (vec!["--header", &bearer, "--header", "host: evil.example"], 403),
        (vec!["--header", &bearer, "-X", "POST"], 405),
    ] {
        let answer = ask(&[arguments.as_slice(), &[flows.as_str()]].concat())?;
        ensure!(answer.status == Some(status), "{arguments:?}: {}", answer.summary());
    }
    // From elsewhere in the cluster there is nobody.
    installed.namespace("page", false)?;
    installed.start(&Caller { namespace: "page", name: "stranger", ..Caller::default() })?;
    let stranger =
        installed.curl("page", "stranger", &["--max-time", "5", &format!("http://{address}:15000/")])?;
    ensure!(stranger.status.is_none(), "{}", stranger.summary());
    installed.remove_namespace("page")
}

fn kubectl_finds_the_plugin(cluster: &Cluster) -> Result<()> {
    let directory = TempDir::new()?;
    symlink(egret::binary()?, directory.path().join("kubectl-egret"))?;
    let path = env::join_paths(
        std::iter::once(directory.path().to_owned())
            .chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    )?;
    let run = |arguments: &[&str]| {
        cluster.kube().command("kubectl").env("PATH", &path).arg("egret").args(arguments).output()
    };
    let status = read(&run(&["status", "-o", "json"])?)?;
    ensure!(array(&status, "nodes").len() == NODES.len(), "{status:#}");
    let refused = run(&["exec", "default/sleep", "--", "true"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("for the machine it runs on"), "{said}");
    Ok(())
}

/// The program, as an operator runs it on a laptop.
fn egret(cluster: &Cluster, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(egret::binary()?);
    command.env("KUBECONFIG", cluster.kube().kubeconfig()).args(arguments);
    command.output().with_context(|| format!("egret {}", arguments.join(" ")))
}

fn read(output: &Output) -> Result<Value> {
    serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn array<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

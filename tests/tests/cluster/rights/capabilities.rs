//! Every capability of the agent is taken away in turn, and something breaks; the other parts have none. Column "without it" of
//! deploy/PRIVILEGES.md is what is seen here.

use std::{collections::BTreeSet, net::SocketAddrV4, process::Child, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    cluster::{
        installed::{Caller, Installed, NAMESPACE},
        parts::{AGENT, CA, GATEWAY},
        plan::{EXTERNAL, NODES},
    },
    external::External,
    wait,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const NODE: &str = NODES[0];
/// Not enrolled as a whole: its pods are, one by one.
const ENROLLED: &str = "rights-capable";
const PATIENCE: Duration = Duration::from_secs(30);
/// Where somebody listens, and waits to be asked.
const OUTSIDE: SocketAddrV4 = SocketAddrV4::new(EXTERNAL, 80);

/// All that the agent has.
const CAPABILITIES: [&str; 4] = ["DAC_READ_SEARCH", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"];

#[test]
fn no_capability_is_superfluous() -> Result<()> {
    let Some(egret) = crate::installed()? else { return Ok(()) };
    let given = capabilities(&egret)?;
    ensure!(given == BTreeSet::from(CAPABILITIES.map(str::to_owned)), "others than are tried: {given:?}");
    egret.upgrade(&["meshConfig.existingConnections.mode=RESET"])?;
    egret.namespace(ENROLLED, false)?;
    let directory = TempDir::new()?;
    let _external = External::start(&crate::external_binary(), egret.cluster().internet(), directory.path())?;
    // Somebody there to be taken over.
    let resident = caller("resident", &[("egret.dev/egress", "enabled")]);
    egret.start_captured(&resident)?;
    let old = egret.agent_on(NODE)?;
    let tried = (|| {
        // These two have the new agent fail, and the old one go on.
        for (missing, node, words) in [
            // The first one fails, on whichever node it is, and the update stops there.
            ("SYS_ADMIN", None, &["CAP_SYS_ADMIN"][..]),
            // Where there is nobody to take over, it does not.
            ("SYS_PTRACE", Some(NODE), &["capture: the running agent goes on", "cannot be taken over"]),
        ] {
            cannot_start(&egret, missing, node, words, &old).with_context(|| format!("without {missing}"))?;
        }
        for missing in ["NET_ADMIN", "DAC_READ_SEARCH"] {
            set(&egret, &without(missing))?;
            egret.wait_until_ready()?;
            let older = older_is_ended(&egret, missing)?;
            let elsewhere = elsewhere_is_ended(&egret, missing)?;
            let expected = (missing != "NET_ADMIN", false);
            ensure!((older, elsewhere) == expected, "without {missing}: {older} {elsewhere}");
        }
        Ok(())
    })();
    set(&egret, &CAPABILITIES)?;
    egret.wait_until_ready()?;
    tried?;
    ensure!(older_is_ended(&egret, "all")? && elsewhere_is_ended(&egret, "all")?, "with all of them");
    egret.remove_namespace(ENROLLED)?;
    egret.upgrade(&[])
}

#[test]
fn the_other_parts_have_no_rights_on_their_nodes() -> Result<()> {
    let Some(egret) = crate::installed()? else { return Ok(()) };
    for part in [GATEWAY, CA] {
        for pod in egret.pods(part.account)? {
            let found = egret.kube().get(&["pod", &pod, "-n", NAMESPACE])?;
            let spec = &found["spec"];
            let container = &spec["containers"][0]["securityContext"];
            ensure!(spec["securityContext"]["runAsNonRoot"] == true, "{spec}");
            ensure!(container["readOnlyRootFilesystem"] == true, "{spec}");
            ensure!(container["capabilities"] == json!({ "drop": ["ALL"] }), "{spec}");
            for host in ["hostPID", "hostNetwork", "hostIPC"] {
                ensure!(spec[host].is_null(), "{spec}");
            }
            // What the kernel says of the process, not only what was asked for.
            let status = status_of(&egret, &found)?;
            for line in [
                "Uid:\t65532\t65532\t65532\t65532",
                "CapEff:\t0000000000000000",
                "NoNewPrivs:\t1",
                "Seccomp:\t2",
            ] {
                ensure!(status.lines().any(|found| found == line), "no {line:?} in\n{status}");
            }
        }
    }
    for node in NODES {
        let found = egret.kube().get(&["pod", &egret.agent_on(node)?, "-n", NAMESPACE])?;
        let container = &found["spec"]["containers"][0]["securityContext"];
        ensure!(
            container["readOnlyRootFilesystem"] == true && container["privileged"].is_null(),
            "{container}"
        );
        let status = status_of(&egret, &found)?;
        // DAC_READ_SEARCH 2, NET_ADMIN 12, SYS_PTRACE 19, SYS_ADMIN 21.
        for line in
            ["CapEff:\t0000000000281004", "CapBnd:\t0000000000281004", "NoNewPrivs:\t1", "Seccomp:\t2"]
        {
            ensure!(status.lines().any(|found| found == line), "no {line:?} in\n{status}");
        }
    }
    Ok(())
}

/// `/proc/PID/status` of a pod's process.
fn status_of(egret: &Installed, pod: &Value) -> Result<String> {
    let node = pod["spec"]["nodeName"].as_str().context("a pod on no node")?;
    let pids = processes(egret, node, pod)?;
    let pid = pids.first().context("no process")?;
    egret.cluster().node(node)?.run("cat", &[&format!("/proc/{pid}/status")])
}

/// The processes of the pod's container, as its node numbers them.
fn processes(egret: &Installed, node: &str, pod: &Value) -> Result<Vec<String>> {
    let path = cgroup(egret, node, pod)?;
    let text = egret.cluster().node(node)?.run("cat", &[&format!("{path}/cgroup.procs")])?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The cgroup of the pod's container.
fn cgroup(egret: &Installed, node: &str, pod: &Value) -> Result<String> {
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().context("no container")?;
    let id = id.rsplit('/').next().unwrap_or(id);
    let found = egret.cluster().node(node)?.run(
        "find",
        &["/sys/fs/cgroup", "-path", "*/kubepods*", "-name", &format!("*{id}*"), "-type", "d"],
    )?;
    // On a hybrid host it is in every hierarchy.
    let of_version_2 = found.lines().find(|path| path.contains("/unified/")).or_else(|| found.lines().next());
    of_version_2.map(str::to_owned).with_context(|| format!("no cgroup of {id}"))
}

fn capabilities(egret: &Installed) -> Result<BTreeSet<String>> {
    let set = egret.kube().get(&["daemonset/egret-agent", "-n", NAMESPACE])?;
    let added = &set["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"]["add"];
    let added = added.as_array().context("no capabilities")?;
    Ok(added.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect())
}

fn without(missing: &str) -> Vec<&'static str> {
    CAPABILITIES.into_iter().filter(|one| *one != missing).collect()
}

fn set(egret: &Installed, capabilities: &[&str]) -> Result<()> {
    let path = "/spec/template/spec/containers/0/securityContext/capabilities/add";
    let patch = json!([{ "op": "replace", "path": path, "value": capabilities }]).to_string();
    let arguments = ["patch", "daemonset", "egret-agent", "-n", NAMESPACE, "--type=json", "-p", &patch];
    egret.kube().kubectl(&arguments).map(drop)
}

/// A new agent says what it cannot do, and does not take the old one's place.
fn cannot_start(
    egret: &Installed,
    missing: &str,
    node: Option<&str>,
    words: &[&str],
    old: &str,
) -> Result<()> {
    let before: BTreeSet<String> = egret.pods(AGENT.account)?.into_iter().collect();
    set(egret, &without(missing))?;
    let new = egret.next(AGENT, node, &before)?;
    egret.wait_for_said(AGENT, &new, false, words)?;
    egret.wait_for_log(AGENT, &[&format!("CAP_{missing}")])?;
    // Updates go on only when the new one is ready: the old ones still serve.
    ensure!(egret.ready(AGENT, old)?.ready, "the old agent has ended with it");
    Ok(())
}

fn caller<'a>(name: &'a str, labels: &'a [(&'a str, &'a str)]) -> Caller<'a> {
    Caller { namespace: ENROLLED, name, node: Some(NODE), labels, ..Caller::default() }
}

/// A connection that is older than the enrolment.
fn older_is_ended(egret: &Installed, with: &str) -> Result<bool> {
    let name = format!("older-{}", with.to_lowercase().replace('_', "-"));
    // It keeps quiet, and the connection open.
    let call = format!(
        "mkfifo /quiet; sleep 600 > /quiet & nc {} {} < /quiet; echo ended; sleep infinity",
        OUTSIDE.ip(),
        OUTSIDE.port()
    );
    let spec = json!({ "containers": [{ "name": "sleep", "image": "sleep:test", "imagePullPolicy": "Never",
        "command": ["sh", "-c", call] }] });
    egret.start(&Caller { spec, ..caller(&name, &[]) })?;
    thread::sleep(Duration::from_secs(1));
    enrol(egret, &name)?;
    let log = || egret.kube().kubectl(&["logs", "-n", ENROLLED, &name]);
    seen(egret, "are ended (1)")?;
    let ended = wait::settled(Duration::from_secs(3), || log().is_ok_and(|log| log.contains("ended")));
    if !ended {
        // Said, too.
        seen(egret, "a connection is not ended, though it may not go on")?;
    }
    Ok(ended)
}

/// A socket that was made elsewhere, and is in the hands of a process that runs as another user.
fn elsewhere_is_ended(egret: &Installed, with: &str) -> Result<bool> {
    let name = format!("elsewhere-{}", with.to_lowercase().replace('_', "-"));
    egret.start(&caller(&name, &[]))?;
    let pod = egret.kube().get(&["pod", &name, "-n", ENROLLED])?;
    let group = cgroup(egret, NODE, &pod)?;
    let pid = processes(egret, NODE, &pod)?.first().cloned().context("no process")?;
    // In the pod's network, but not in the pod; then in it, and no longer root.
    let script = format!(
        "exec 3<>/dev/tcp/{}/{} && echo $$ > {group}/cgroup.procs && \
         exec setpriv --reuid 65534 --regid 65534 --clear-groups sleep 60",
        OUTSIDE.ip(),
        OUTSIDE.port()
    );
    let mut command = egret.cluster().node(NODE)?.command("nsenter");
    let mut process = Ended(command.args(["--target", &pid, "--net", "bash", "-c", &script]).spawn()?);
    let inside = |pids: Vec<String>| (pids.len() > 1).then_some(());
    wait::until("a process to come from elsewhere", PATIENCE, || Ok(inside(processes(egret, NODE, &pod)?)))?;
    enrol(egret, &name)?;
    let agent = egret.agent_on(NODE)?;
    // It is looked at when the pod is enrolled, at once.
    let ended = wait::settled(Duration::from_secs(3), || {
        egret.log(&agent).is_ok_and(|log| {
            log.lines().any(|line| line.contains("made outside of it") && line.contains(", ended"))
        })
    });
    process.end();
    egret.kube().kubectl(&["delete", "pod", &name, "-n", ENROLLED, "--wait=false"])?;
    Ok(ended)
}

fn enrol(egret: &Installed, pod: &str) -> Result<()> {
    egret.kube().kubectl(&["label", "pod", pod, "-n", ENROLLED, "egret.dev/egress=enabled"])?;
    egret.wait_for_condition(ENROLLED, pod, "True")
}

fn seen(egret: &Installed, text: &str) -> Result<()> {
    let agent = egret.agent_on(NODE)?;
    wait::until(text, PATIENCE, || Ok(egret.log(&agent)?.contains(text).then_some(())))
}

/// A process that ends with us.
struct Ended(Child);

impl Ended {
    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.end();
    }
}

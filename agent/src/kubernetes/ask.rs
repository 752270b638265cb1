//! Asks Egret's pods from outside of the cluster: a command in each of them, through the API server (`pods/exec`), all at once.
//!
//! Nothing listens for this anywhere: who may ask is decided by the API server, and the admin sockets stay in their pods. Called by
//! `cli::cluster`; `survey` makes sense of the answers.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{AttachParams, ListParams},
};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::Semaphore,
    task::JoinSet,
    time,
};

use super::{Outside, names};
use crate::survey::{Answer, Role, RolePod};

/// Pods that are asked at the same time: each is a connection to the API server, and one from there to a kubelet.
const AT_ONCE: usize = 32;

/// Who says nothing for this long does not answer. Long answers over slow lines may take longer, as long as they go on.
const PATIENCE: Duration = Duration::from_secs(8);

/// No answer is longer: 100,000 flows take 70 MB.
const LONGEST: usize = 1 << 30;

/// The program in Egret's image.
const PROGRAM: &str = "/egret";

/// Every pod of Egret's, by role and name. Those that ended for good are not in it.
pub async fn pods(outside: &Outside) -> anyhow::Result<Vec<RolePod>> {
    let labelled = ListParams::default().labels(names::OURS);
    let list = Api::<Pod>::namespaced(outside.client.clone(), &outside.namespace).list(&labelled).await;
    let list = list.with_context(|| format!("the pods of Egret in namespace {}", outside.namespace))?;
    let mut pods: Vec<RolePod> = list.items.iter().filter_map(read).collect();
    pods.sort_by(|a, b| (a.role, &a.node, &a.name).cmp(&(b.role, &b.node, &b.name)));
    anyhow::ensure!(
        !pods.is_empty(),
        "there is no pod of Egret in namespace {}: is it installed, and is this its namespace (--egret-namespace)?",
        outside.namespace
    );
    Ok(pods)
}

/// Runs `egret ARGUMENTS` in each of these pods, and reads its JSON.
pub async fn each<T: DeserializeOwned + Send + 'static>(
    outside: &Outside,
    pods: Vec<RolePod>,
    arguments: &[&str],
) -> Vec<Answer<T>> {
    let api = Api::<Pod>::namespaced(outside.client.clone(), &outside.namespace);
    let command: Arc<[String]> =
        std::iter::once(PROGRAM).chain(arguments.iter().copied()).map(ToOwned::to_owned).collect();
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut asked = JoinSet::new();
    for (position, pod) in pods.into_iter().enumerate() {
        let (api, command, permits) = (api.clone(), Arc::clone(&command), Arc::clone(&permits));
        asked.spawn(async move {
            // The semaphore is never closed.
            let _permit = permits.acquire_owned().await;
            let said = if pod.running {
                one(&api, &pod, &command).await
            } else {
                Err(pod.trouble.clone().unwrap_or_else(|| "it does not run".to_owned()))
            };
            (position, Answer { pod, said })
        });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(position, _)| *position);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

async fn one<T: DeserializeOwned>(api: &Api<Pod>, pod: &RolePod, command: &[String]) -> Result<T, String> {
    let silence = || format!("nothing came for {PATIENCE:?}; is its node reachable?");
    let parameters = AttachParams {
        container: Some(pod.role.name().to_owned()),
        stdin: false,
        max_stdout_buf_size: Some(1 << 20),
        ..AttachParams::default()
    };
    let started = time::timeout(PATIENCE, api.exec(&pod.name, command, &parameters)).await;
    let mut process = started.map_err(|_| silence())?.map_err(|error| describe(&error))?;
    let status = process.take_status();
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let (output, complaint) = tokio::join!(read_all(stdout), read_all(stderr));
    let (output, complaint) = (output?, complaint?);
    // Also a program that ends with a failure may have answered: `egret doctor` does when it finds one.
    if let Ok(answer) = serde_json::from_slice(&output) {
        return Ok(answer);
    }
    let complaint = String::from_utf8_lossy(&complaint).trim().trim_start_matches("egret: ").to_owned();
    if !complaint.is_empty() {
        return Err(complaint);
    }
    let ended = match status {
        Some(status) => time::timeout(PATIENCE, status).await.ok().flatten(),
        None => None,
    };
    Err(match ended {
        Some(status) if status.status.as_deref() == Some("Success") => {
            "it answered in a form that this version of egret does not know".to_owned()
        }
        Some(status) => status.message.unwrap_or_else(|| "the command failed".to_owned()),
        None => "the connection broke before the answer was whole".to_owned(),
    })
}

/// Until the end, as long as it goes on.
async fn read_all(stream: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, String> {
    let mut read = Vec::new();
    let Some(mut stream) = stream else { return Ok(read) };
    loop {
        match time::timeout(PATIENCE, stream.read_buf(&mut read)).await {
            Ok(Ok(0)) => return Ok(read),
            Ok(Ok(_)) if read.len() > LONGEST => return Err("the answer is too long".to_owned()),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(format!("the answer cannot be read: {error}")),
            Err(_) => {
                return Err(format!("nothing more came for {PATIENCE:?}; the process hangs or is stopped"));
            }
        }
    }
}

/// Why a command could not be run, with the remedy where there is one.
fn describe(error: &kube::Error) -> String {
    match error {
        // The API server's own words name user and pod at length, for each pod.
        kube::Error::Api(status) if status.code == 403 => "this user may not run commands in Egret's pods: asking \
                                                           them takes the verbs get and create of pods/exec in \
                                                           its namespace"
            .to_owned(),
        kube::Error::Api(status) => status.message.clone(),
        other => format!("{:#}", anyhow::Error::msg(other.to_string())),
    }
}

/// What matters of a pod; nothing of those that ended, and of those that are no role's (the uninstall Job's).
fn read(pod: &Pod) -> Option<RolePod> {
    let component = pod.labels().get("app.kubernetes.io/component")?;
    let role = Role::ALL.into_iter().find(|role| role.name() == component)?;
    let status = pod.status.clone().unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let conditions = status.conditions.unwrap_or_default();
    let condition = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    let container = status.container_statuses.unwrap_or_default().into_iter().find(|c| c.name == role.name());
    let state = container.as_ref().and_then(|container| container.state.clone()).unwrap_or_default();
    let before = container.as_ref().and_then(|container| container.last_state.clone()).unwrap_or_default();
    let ready = condition("Ready").is_some_and(|condition| condition.status == "True");
    let unscheduled = condition("PodScheduled")
        .filter(|condition| condition.status != "True")
        .and_then(|condition| condition.message.clone());
    let unready = condition("Ready").and_then(|condition| condition.message.clone());
    let running = state.running.is_some();
    let trouble = if ready { None } else { unscheduled.or_else(|| stopped(&state, &before)).or(unready) };
    Some(RolePod {
        role,
        name: pod.name_any(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        address: status.pod_ip.and_then(|address| address.parse().ok()),
        running,
        ready,
        terminating: pod.metadata.deletion_timestamp.is_some(),
        trouble,
    })
}

/// Why a container does not run, such as `CrashLoopBackOff: …`, and how it ended before.
fn stopped(state: &ContainerState, before: &ContainerState) -> Option<String> {
    let ended = state.terminated.as_ref().or(before.terminated.as_ref());
    let waiting = state.waiting.as_ref().map(|waiting| {
        let reason = waiting.reason.clone().unwrap_or_else(|| "waiting".to_owned());
        // The kubelet goes on with what is known anyhow: container, pod, uid.
        let message =
            waiting.message.as_deref().map(|text| text.split(" restarting failed").next().unwrap_or(text));
        message.map_or_else(|| reason.clone(), |message| format!("{reason}: {message}"))
    });
    let ended = ended.map(|ended| {
        // The end of its log, of which the last line is the error.
        let last = ended.message.as_deref().and_then(|log| log.trim().lines().next_back());
        let message = last.map(|line| format!(": {}", line.trim_start_matches("egret: ")));
        format!("it ended with status {}{}", ended.exit_code, message.unwrap_or_default())
    });
    match (waiting, ended) {
        (Some(waiting), Some(ended)) => Some(format!("{waiting} ({ended})")),
        (waiting, ended) => waiting.or(ended.filter(|_| state.running.is_none())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::read;

    fn pod(component: &str, status: &serde_json::Value) -> Option<super::RolePod> {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": {"app.kubernetes.io/component": component}},
            "spec": {"nodeName": "node-1", "containers": []},
            "status": status,
        });
        read(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn pods_that_run_wait_and_ended_are_told_apart() {
        let well = json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "agent", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1}}}],
        });
        let agent = pod("agent", &well).unwrap();
        assert!(agent.is_well() && agent.running);
        assert_eq!((agent.node.as_deref(), agent.trouble), (Some("node-1"), None));

        let crashing = json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "False", "message": "containers with unready status: [agent]"}],
            "containerStatuses": [{"name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container=agent"}},
                "lastState": {"terminated": {"exitCode": 1, "message": "starting\negret: no BTF\n"}}}],
        });
        let agent = pod("agent", &crashing).unwrap();
        assert!(!agent.running && !agent.ready);
        let why = "CrashLoopBackOff: back-off 40s (it ended with status 1: no BTF)";
        assert_eq!(agent.trouble.as_deref(), Some(why));

        let nowhere = json!({
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available"}],
        });
        assert_eq!(pod("gateway", &nowhere).unwrap().trouble.as_deref(), Some("0/2 nodes are available"));
        assert_eq!(pod("uninstall", &well), None);
        assert_eq!(pod("agent", &json!({"phase": "Failed"})), None);
    }
}

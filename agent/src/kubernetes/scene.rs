//! What the API server itself knows of a cluster with Egret in it, seen from outside: nodes, pods that are meant to be captured, and
//! what else is installed. For `survey`; where the user may not read something, that is said and the rest is shown.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Node, Pod},
};
use kube::{Api, ResourceExt as _, api::ListParams};

use super::{Outside, names, pods::wish};
use crate::{
    doctor::Check,
    node::pods::Wish,
    survey::overview::{self, Scene, WantedPod},
    tls::certificate,
};

/// So many objects are read at a time.
const PAGE: u32 = 500;

/// API groups of the Istio kinds.
const GROUPS: [&str; 2] = ["networking.istio.io", "security.istio.io"];

/// Looks at everything at once.
pub async fn look(outside: &Outside) -> Scene {
    let (nodes, wanted, root_ends) = tokio::join!(nodes(outside), wanted(outside), root_ends(outside));
    Scene {
        nodes: nodes.map_err(|error| describe(&error)),
        wanted: wanted.map_err(|error| describe(&error)),
        root_ends,
    }
}

fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

async fn nodes(outside: &Outside) -> kube::Result<Vec<overview::Node>> {
    let list = Api::<Node>::all(outside.client.clone()).list(&ListParams::default()).await?;
    let nodes = list.items.into_iter().map(|node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        let ready = conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        overview::Node { name: node.name_any(), ready }
    });
    Ok(nodes.collect())
}

async fn wanted(outside: &Outside) -> kube::Result<Vec<WantedPod>> {
    let namespaces =
        Api::<Namespace>::all(outside.client.clone()).list_metadata(&ListParams::default()).await?;
    let labels: BTreeMap<String, Option<String>> = namespaces
        .items
        .into_iter()
        .map(|namespace| (namespace.name_any(), namespace.labels().get(names::EGRESS).cloned()))
        .collect();
    let mut wanted = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = Api::<Pod>::all(outside.client.clone()).list(&page).await?;
        wanted.extend(list.items.iter().filter_map(|pod| is_wanted(pod, &labels, &outside.namespace)));
        match list.metadata.continue_ {
            Some(next) if !next.is_empty() => page = page.continue_token(&next),
            _ => return Ok(wanted),
        }
    }
}

/// Whether it is meant to be captured, as agents decide it, or nobody can tell because its label means nothing.
fn is_wanted(pod: &Pod, namespaces: &BTreeMap<String, Option<String>>, ours: &str) -> Option<WantedPod> {
    let namespace = pod.namespace()?;
    let of_namespace = namespaces.get(&namespace).and_then(Option::as_deref);
    let of_pod = pod.labels().get(names::EGRESS).map(String::as_str);
    let is_own =
        namespace == ours && pod.labels().get("app.kubernetes.io/name").is_some_and(|n| n == "egret");
    let wish::Asked { what, odd } = wish::decide(of_pod, of_namespace, is_own);
    if !matches!(what, Wish::Enrolled | Wish::Unclear) {
        return None;
    }
    let status = pod.status.as_ref();
    // Before it is anywhere, and after it has ended, there is nothing to capture.
    if matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed")) {
        return None;
    }
    let node = pod.spec.as_ref()?.node_name.clone()?;
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let captured = conditions.into_iter().flatten().find(|condition| condition.type_ == names::CAPTURED);
    let captured = captured.map(|condition| {
        let why = condition.message.clone().or_else(|| condition.reason.clone());
        (condition.status == "True", why.unwrap_or_else(|| "the agent does not say why".to_owned()))
    });
    // What is captured because its namespace asks for it is so with any label.
    let captured =
        captured.or_else(|| (what == Wish::Unclear).then(|| (false, odd.clone().unwrap_or_default())));
    Some(WantedPod { namespace, name: pod.name_any(), node, captured, odd })
}

/// When the root certificate ends that the CA publishes.
async fn root_ends(outside: &Outside) -> Result<Option<Timestamp>, String> {
    let maps = Api::<ConfigMap>::namespaced(outside.client.clone(), &outside.namespace);
    let map = maps.get_opt(names::CA_ROOT).await.map_err(|error| describe(&error))?;
    let pem = map.and_then(|map| map.data?.remove(names::CA_ROOT_KEY));
    pem.map(|pem| {
        certificate::end_of_pem(&pem)
            .map_err(|why| format!("ConfigMap {}/{}: {why}", outside.namespace, names::CA_ROOT))
    })
    .transpose()
}

/// Findings about the cluster: the definitions of the Istio kinds, and whether Istio's own egress gateway is there, too.
pub async fn findings(outside: &Outside) -> Vec<Check> {
    let (groups, gateways) = tokio::join!(outside.client.list_api_groups(), foreign_gateways(outside));
    let definitions = match groups {
        Ok(groups) => {
            let known = |group: &&str| groups.groups.iter().any(|known| known.name == **group);
            definitions(&GROUPS.into_iter().filter(|group| !known(group)).collect::<Vec<_>>())
        }
        Err(error) => Check::error("definitions", describe(&error), "the API server has to be reachable"),
    };
    let gateways = match gateways {
        Ok(found) => foreign(&found),
        Err(error) => Check::warning(
            "other egress gateways",
            format!("not looked for: {}", describe(&error)),
            "allow to list deployments, or ask somebody who may",
        ),
    };
    vec![definitions, gateways]
}

fn definitions(missing: &[&str]) -> Check {
    const NAME: &str = "definitions";
    if missing.is_empty() {
        return Check::ok(NAME, "the API server knows the Istio kinds");
    }
    Check::error(
        NAME,
        format!("the API server does not know the kinds of {}", missing.join(" and ")),
        "install the CustomResourceDefinitions: the Helm chart does, with crds.install",
    )
}

/// Deployments that Gateways with Istio's usual selector apply to, too, and that are not Egret's.
async fn foreign_gateways(outside: &Outside) -> kube::Result<Vec<String>> {
    let selector = ListParams::default().labels("istio=egressgateway,app.kubernetes.io/name!=egret");
    let found = Api::<Deployment>::all(outside.client.clone()).list_metadata(&selector).await?;
    let named = |found: kube::core::PartialObjectMeta<Deployment>| {
        format!("{}/{}", found.namespace().unwrap_or_default(), found.name_any())
    };
    Ok(found.items.into_iter().map(named).collect())
}

fn foreign(found: &[String]) -> Check {
    const NAME: &str = "other egress gateways";
    if found.is_empty() {
        return Check::ok(NAME, "none");
    }
    Check::warning(
        NAME,
        format!("Gateways that select istio: egressgateway apply to these, too: {}", found.join(", ")),
        "enrolled pods use Egret's; remove the other when no pod with a sidecar needs it any more",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::{definitions, is_wanted};
    use crate::doctor::Status;

    #[test]
    fn wanted_are_pods_with_the_label_that_are_somewhere_and_have_not_ended() {
        let namespaces: BTreeMap<_, _> =
            [("on".to_owned(), Some("enabled".to_owned())), ("off".to_owned(), None)].into();
        let pod = |namespace: &str, label: &str, node: Option<&str>, status: serde_json::Value| {
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "namespace": namespace, "labels": {"egret.dev/egress": label}},
                "spec": {"nodeName": node, "containers": []}, "status": status,
            });
            is_wanted(&serde_json::from_value(pod).unwrap(), &namespaces, "istio-system")
        };
        let refused = json!({"phase": "Running", "conditions": [
            {"type": "egret.dev/Captured", "status": "False", "reason": "NoCgroup", "message": "no cgroup v2"}]});
        let found = pod("off", "enabled", Some("a"), refused.clone()).unwrap();
        assert_eq!((found.node.as_str(), found.captured), ("a", Some((false, "no cgroup v2".to_owned()))));
        assert_eq!(pod("on", "disabled", Some("a"), refused.clone()), None);
        assert_eq!(pod("on", "enabled", None, json!({"phase": "Pending"})), None);
        assert_eq!(pod("on", "enabled", Some("a"), json!({"phase": "Succeeded"})), None);
        assert_eq!(pod("on", "enabled", Some("a"), json!({"phase": "Running"})).unwrap().captured, None);
        let unclear = pod("off", "yes", Some("a"), json!({"phase": "Running"})).unwrap();
        assert!(
            unclear.odd.is_some()
                && unclear.captured.is_some_and(|(holds, why)| !holds && why.contains("yes"))
        );
        let odd = pod("on", "yes", Some("a"), json!({"phase": "Running"})).unwrap();
        assert!(odd.odd.is_some() && odd.captured.is_none(), "its namespace asks for it");
    }

    #[test]
    fn missing_definitions_are_an_error() {
        assert_eq!(definitions(&[]).status, Status::Ok);
        let check = definitions(&["security.istio.io"]);
        assert!(check.status == Status::Error && check.finding.contains("security.istio.io"), "{check:?}");
    }
}

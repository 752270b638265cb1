//! Cluster-internal ranges, found in the cluster: where pods, Services and nodes have their addresses. They are bypassed without being
//! listed by hand.
//!
//! Watches nodes (`spec.podCIDRs`, `status.addresses`) and ServiceCIDRs. What may count is `found`'s to say. `app::agent` merges it into
//! the mesh's settings by [`bypassing`]. Until something was read it bypasses nothing: enrolled pods are captured all the same.

mod found;

use std::{net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use k8s_openapi::api::{core::v1::Node, networking::v1::ServiceCIDR};
use kube::{
    Api, Client,
    api::{ApiResource, Object},
    runtime::watcher,
};
use serde::Deserialize;
use tokio::{sync::watch, time};

pub use self::found::{Found, Ranges};
use self::found::{OfNode, ranges};
use super::{
    Cluster,
    watching::{Mirror, describe_cause, mirror},
};
use crate::{mesh::Snapshot, source::directory::Loaded};

/// How long the API server is asked whether it knows ServiceCIDRs before it is asked again, after an error.
const RETRY: Duration = Duration::from_secs(2);

/// The same, after it did not know them: it may have been updated.
const LATER: Duration = Duration::from_mins(5);

const SERVICES: &str = "ServiceCIDRs";
const NODES: &str = "nodes";

/// The parts of a node that matter; the rest of it, its images above all, is large.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    addresses: Vec<NodeAddress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeAddress {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

type Slim = Object<NodeSpec, NodeStatus>;

/// Whether the API server says where Services are, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Services {
    #[default]
    Unread,
    Unknown,
    Known(Mirror<Vec<String>>),
}

/// Follows them. Ends when nobody listens.
pub fn watch(cluster: &Cluster) -> watch::Receiver<Ranges> {
    let (sender, receiver) = watch::channel(Ranges::default());
    let (nodes, services) = (watch::Sender::new(None), watch::Sender::new(Services::default()));
    let (mut of_nodes, mut of_services) = (nodes.subscribe(), services.subscribe());
    // Expected from now on, not from when the watch begins.
    cluster.standing.expect(NODES);
    cluster.standing.expect(SERVICES);
    let cluster = cluster.clone();
    tokio::spawn(async move {
        let resource = ApiResource::erase::<Node>(&());
        let watching = mirror(
            Api::<Slim>::all_with(cluster.client.clone(), &resource),
            watcher::Config::default(),
            NODES,
            &cluster.standing,
            |node| of_node(&node),
            &nodes,
        );
        let merging = async {
            let mut said = Vec::new();
            loop {
                let now = match (&*of_nodes.borrow_and_update(), &*of_services.borrow_and_update()) {
                    (nodes, Services::Unread | Services::Known(None)) => {
                        ranges(nodes.as_deref(), Some(&[]), false)
                    }
                    (nodes, Services::Unknown) => ranges(nodes.as_deref(), None, true),
                    (nodes, Services::Known(Some(services))) => {
                        let all: Vec<String> = services.values().flatten().cloned().collect();
                        ranges(nodes.as_deref(), Some(&all), true)
                    }
                };
                if now.complete && now.problems != said {
                    now.problems.iter().for_each(|problem| tracing::warn!("{problem}"));
                    said.clone_from(&now.problems);
                }
                sender.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
                tokio::select! {
                    Ok(()) = of_nodes.changed() => {}
                    Ok(()) = of_services.changed() => {}
                    else => return,
                }
            }
        };
        tokio::select! {
            () = watching => {}
            () = watch_services(&cluster, &services) => {}
            () = merging => {}
            () = sender.closed() => {}
        }
    });
    receiver
}

/// An API server before Kubernetes 1.33 does not know the kind: that is no error, only less to know.
async fn watch_services(cluster: &Cluster, services: &watch::Sender<Services>) {
    loop {
        match knows_services(&cluster.client).await {
            Ok(true) => break,
            Ok(false) => {
                services.send_if_modified(|before| {
                    std::mem::replace(before, Services::Unknown) != Services::Unknown
                });
                cluster.standing.is_read(SERVICES);
                time::sleep(LATER).await;
            }
            Err(error) => {
                cluster.standing.fails(SERVICES, describe_cause(&error));
                time::sleep(RETRY).await;
            }
        }
    }
    let mirrored = watch::Sender::new(None);
    let mut changed = mirrored.subscribe();
    let passing = async {
        while changed.changed().await.is_ok() {
            services.send_replace(Services::Known(changed.borrow_and_update().clone()));
        }
    };
    let watching = mirror(
        Api::<ServiceCIDR>::all(cluster.client.clone()),
        watcher::Config::default(),
        SERVICES,
        &cluster.standing,
        |service: ServiceCIDR| service.spec.and_then(|spec| spec.cidrs).unwrap_or_default(),
        &mirrored,
    );
    tokio::join!(watching, passing);
}

async fn knows_services(client: &Client) -> kube::Result<bool> {
    let known = client.list_api_group_resources("networking.k8s.io/v1").await?;
    Ok(known.resources.iter().any(|resource| resource.name == "servicecidrs"))
}

fn of_node(node: &Slim) -> OfNode {
    let NodeSpec { pod_cidr, pod_cidrs } = &node.spec;
    let pods = if pod_cidrs.is_empty() { pod_cidr.iter().cloned().collect() } else { pod_cidrs.clone() };
    let addresses = node.status.iter().flat_map(|status| &status.addresses);
    let mut internal: Vec<IpAddr> = Vec::new();
    for address in addresses.filter(|address| address.kind == "InternalIP") {
        let Ok(ip) = address.address.parse::<IpAddr>() else { continue };
        // One of each family is the node's; a kubelet that says more says it for others.
        if internal.iter().all(|other| other.is_ipv4() != ip.is_ipv4()) {
            internal.push(ip);
        }
    }
    OfNode { pods, addresses: internal }
}

/// The configuration, with what was found among the bypassed ranges: also whenever either of them changes.
pub fn bypassing(
    mut configuration: watch::Receiver<Loaded>,
    mut found: watch::Receiver<Ranges>,
) -> watch::Receiver<Loaded> {
    let first = with(&configuration.borrow_and_update(), &found.borrow_and_update());
    let (sender, receiver) = watch::channel(first);
    tokio::spawn(async move {
        let mut following = true;
        loop {
            tokio::select! {
                () = sender.closed() => return,
                changed = configuration.changed() => if changed.is_err() { return },
                changed = found.changed(), if following => following = changed.is_ok(),
            }
            let now = with(&configuration.borrow_and_update(), &found.borrow_and_update());
            sender.send_replace(now);
        }
    });
    receiver
}

fn with(loaded: &Loaded, found: &Ranges) -> Loaded {
    if found.found.is_empty() {
        return loaded.clone();
    }
    let mut snapshot = Snapshot::clone(&loaded.snapshot);
    let listed = snapshot.settings.bypass.iter();
    let all: Vec<IpNet> = listed.chain(found.found.iter().map(|found| &found.range)).copied().collect();
    snapshot.settings.bypass = IpNet::aggregate(&all);
    Loaded { snapshot: Arc::new(snapshot), ..loaded.clone() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::watch;

    use super::{Found, Ranges, Slim, bypassing, of_node};
    use crate::{
        mesh::{MeshSettings, Snapshot},
        source::directory::Loaded,
    };

    #[test]
    fn a_node_s_ranges_and_its_own_addresses() {
        let node = serde_json::json!({
            "metadata": {"name": "a"},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "a"},
                {"type": "ExternalIP", "address": "203.0.113.1"},
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "InternalIP", "address": "198.51.100.1"},
                {"type": "InternalIP", "address": "2001:db8::1"},
            ], "images": [{"names": ["x"]}]},
        });
        let read = of_node(&serde_json::from_value::<Slim>(node).unwrap());
        assert_eq!(read.pods, ["10.244.1.0/24", "fd00:1::/64"]);
        let addresses: Vec<_> = read.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["192.0.2.1", "2001:db8::1"], "neither the external one nor a second one");
        let older = serde_json::json!({"metadata": {"name": "b"}, "spec": {"podCIDR": "10.1.0.0/24"}});
        assert_eq!(of_node(&serde_json::from_value::<Slim>(older).unwrap()).pods, ["10.1.0.0/24"]);
    }

    #[tokio::test]
    async fn what_is_found_and_what_is_configured_are_bypassed_together() {
        let configured = |ranges: &[&str]| Loaded {
            snapshot: Arc::new(Snapshot {
                version: 7,
                settings: MeshSettings {
                    bypass: ranges.iter().map(|range| range.parse().unwrap()).collect(),
                    ..MeshSettings::default()
                },
                ..Snapshot::default()
            }),
            ..Loaded::default()
        };
        let (configuration, read) = watch::channel(configured(&["192.168.0.0/16"]));
        let (ranges, found) = watch::channel(Ranges::default());
        let mut merged = bypassing(read, found);
        let bypass = |merged: &mut watch::Receiver<Loaded>| {
            let loaded = merged.borrow_and_update();
            assert_eq!(loaded.snapshot.version, 7);
            loaded.snapshot.settings.bypass.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(bypass(&mut merged), ["192.168.0.0/16"]);
        let one = Found { range: "10.96.0.0/16".parse().unwrap(), from: "Services".to_owned() };
        ranges.send_replace(Ranges { found: vec![one], ..Ranges::default() });
        merged.changed().await.unwrap();
        assert_eq!(bypass(&mut merged), ["10.96.0.0/16", "192.168.0.0/16"]);
        configuration.send_replace(configured(&[]));
        merged.changed().await.unwrap();
        assert_eq!(bypass(&mut merged), ["10.96.0.0/16"]);
        drop(ranges);
        configuration.send_replace(configured(&["172.16.0.0/12"]));
        merged.changed().await.unwrap();
        assert_eq!(bypass(&mut merged), ["10.96.0.0/16", "172.16.0.0/12"], "what was found stays");
    }
}

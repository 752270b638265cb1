//! The endpoints of one Service of Egret's own, by its EndpointSlices: who can be asked, and who is about to go.
//!
//! `app` watches the gateway's and the CA's.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use tokio::sync::watch;

use super::{
    Cluster,
    watching::{Key, mirror},
};
pub use crate::net::endpoints::{Condition, Endpoints};

/// Follows the endpoints of `service` in Egret's own namespace at the port of this name; `None` until they were read. Ends when
/// nobody listens.
pub fn watch(cluster: &Cluster, service: &str, port: &str) -> watch::Receiver<Option<Endpoints>> {
    let slices = watch::Sender::new(None);
    let (sender, receiver) = watch::channel(None);
    let mut changed = slices.subscribe();
    let selection = watcher::Config::default().labels(&format!("kubernetes.io/service-name={service}"));
    let name = format!("EndpointSlices of Service {service}");
    let (cluster, port) = (cluster.clone(), port.to_owned());
    tokio::spawn(async move {
        let watching = mirror(
            cluster.in_own_namespace::<EndpointSlice>(),
            selection,
            &name,
            &cluster.standing,
            |slice| of_slice(&slice, &port),
            &slices,
        );
        let merging = async {
            while changed.changed().await.is_ok() {
                let now = merged(changed.borrow_and_update().as_deref());
                sender.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
            }
        };
        tokio::select! {
            () = watching => {}
            () = merging => {}
            () = sender.closed() => {}
        }
    });
    receiver
}

fn merged(slices: Option<&BTreeMap<Key, Endpoints>>) -> Option<Endpoints> {
    let all = slices?.values().flatten();
    Some(all.map(|(address, condition)| (*address, *condition)).collect())
}

fn of_slice(slice: &EndpointSlice, port: &str) -> Endpoints {
    let ports = slice.ports.iter().flatten();
    let number = ports
        .filter(|candidate| candidate.name.as_deref() == Some(port))
        .find_map(|found| found.port.and_then(|number| u16::try_from(number).ok()));
    let Some(number) = number else { return Endpoints::new() };
    let mut found = Endpoints::new();
    for endpoint in &slice.endpoints {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // What is unknown counts as the API says: ready, and not terminating.
        let ready = conditions.ready.unwrap_or(true);
        let draining = conditions.terminating.unwrap_or(false);
        let serving = conditions.serving.unwrap_or(ready);
        let condition = match (draining, ready, serving) {
            (false, true, _) => Condition::Ready,
            (true, _, true) => Condition::Draining,
            _ => continue,
        };
        let addresses = endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        found.extend(addresses.map(|address| (SocketAddr::new(address, number), condition)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Condition, of_slice};

    #[test]
    fn ready_draining_and_neither_are_told_apart() {
        let slice = serde_json::json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "a"},
            "ports": [{"name": "other", "port": 80}, {"name": "hbone", "port": 15008}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": false, "terminating": true}},
                {"addresses": ["10.0.0.4"], "conditions": {"ready": false, "serving": false, "terminating": false}},
                {"addresses": ["10.0.0.5"]},
            ],
        });
        let slice = serde_json::from_value(slice).unwrap();
        let found: Vec<_> = of_slice(&slice, "hbone").into_iter().map(|(a, c)| (a.to_string(), c)).collect();
        assert_eq!(
            found,
            [
                ("10.0.0.1:15008".to_owned(), Condition::Ready),
                ("10.0.0.2:15008".to_owned(), Condition::Draining),
                ("10.0.0.5:15008".to_owned(), Condition::Ready),
            ]
        );
        assert!(of_slice(&slice, "grpc-ca").is_empty());
    }
}

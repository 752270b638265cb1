//! Which ranges that a cluster names are cluster-internal: pure. Asked by `ranges`.
//!
//! A range that is bypassed is a way around the gateway, so not everything that is written in an object counts.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::kubernetes::watching::Key;

/// Wider ranges are no cluster's: they would bypass the internet, or most of it.
const SHORTEST_V4: u8 = 8;
const SHORTEST_V6: u8 = 16;

/// Where a node of a cloud asks who it is. Pods are to ask that through the gateway, which refuses it.
const METADATA: [u8; 4] = [169, 254, 169, 254];

/// So many names are listed.
const NAMED: usize = 3;

/// A range that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Found {
    /// The range.
    pub range: IpNet,
    /// What it is, and where it was found.
    pub from: String,
}

/// What a cluster says of itself. Part of the agent's status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges {
    /// Everything that is looked at has been read. Until then more may be missing, and is captured.
    pub complete: bool,
    /// What is bypassed.
    pub found: Vec<Found>,
    /// What could not be found or is refused, one sentence each.
    pub problems: Vec<String>,
}

/// What a node says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OfNode {
    /// Ranges of its pods, as written.
    pub(super) pods: Vec<String>,
    /// Its own addresses.
    pub(super) addresses: Vec<IpAddr>,
}

/// From all nodes, and the ranges of Services as written; `services` is `None` where the API server does not say.
pub(super) fn ranges(
    nodes: Option<&BTreeMap<Key, OfNode>>,
    services: Option<&[String]>,
    services_read: bool,
) -> Ranges {
    let complete = nodes.is_some() && services_read;
    let mut collected = Collected::default();
    for text in services.unwrap_or_default() {
        collected.add("Services (ServiceCIDR)", None, text);
    }
    let nodes = nodes.into_iter().flatten();
    let mut pods = 0;
    let mut count = 0;
    for ((_, name), node) in nodes {
        count += 1;
        pods += node.pods.len();
        for text in &node.pods {
            collected.add("pods (podCIDR)", Some(name), text);
        }
        for address in &node.addresses {
            collected.add("nodes (InternalIP)", Some(name), &IpNet::from(*address).to_string());
        }
    }
    let mut problems = collected.problems;
    if services_read && services.is_none() {
        problems.push(
            "the API server does not say which addresses Services have (Kubernetes 1.33 and later do): list the range under \
             clusterRanges, else pods reach Services through the gateway only"
                .to_owned(),
        );
    }
    if count > 0 && pods == 0 {
        problems.push(
            "no node has a podCIDR, so the network plugin gives pods their addresses: list its ranges under clusterRanges, \
             else pods reach pods through the gateway only"
                .to_owned(),
        );
    }
    Ranges {
        complete,
        found: collected.kinds.into_iter().flat_map(|(what, kind)| kind.merged(what)).collect(),
        problems,
    }
}

#[derive(Default)]
struct Collected {
    kinds: BTreeMap<&'static str, OfKind>,
    problems: Vec<String>,
}

#[derive(Default)]
struct OfKind {
    ranges: Vec<(IpNet, Option<String>)>,
}

impl Collected {
    fn add(&mut self, what: &'static str, node: Option<&String>, text: &str) {
        let whose = node.map_or_else(String::new, |name| format!(" of node {name}"));
        match judge(text) {
            Ok(range) => self.kinds.entry(what).or_default().ranges.push((range, node.cloned())),
            Err(why) => self.problems.push(format!("{what}{whose}: {text} is not bypassed: {why}")),
        }
    }
}

impl OfKind {
    /// As few ranges as say the same, each with the nodes that it is from.
    fn merged(self, what: &'static str) -> Vec<Found> {
        let all: Vec<IpNet> = self.ranges.iter().map(|(range, _)| *range).collect();
        let from = |range: &IpNet| {
            let names = self
                .ranges
                .iter()
                .filter(|(inner, _)| range.contains(inner))
                .filter_map(|(_, node)| node.as_deref());
            let mut names: Vec<&str> = names.collect();
            names.sort_unstable();
            names.dedup();
            let more = names.len().saturating_sub(NAMED);
            names.truncate(NAMED);
            match (names.is_empty(), more) {
                (true, _) => what.to_owned(),
                (false, 0) => format!("{what}: {}", names.join(", ")),
                (false, more) => format!("{what}: {} and {more} more", names.join(", ")),
            }
        };
        IpNet::aggregate(&all).into_iter().map(|range| Found { range, from: from(&range) }).collect()
    }
}

/// Whether a range may be bypassed because an object of the cluster says so.
fn judge(text: &str) -> Result<IpNet, &'static str> {
    let range = text.parse::<IpNet>().map_err(|_| "it is no range of addresses")?.trunc();
    let shortest = if range.addr().is_ipv4() { SHORTEST_V4 } else { SHORTEST_V6 };
    if range.prefix_len() < shortest {
        return Err(
            "it is so wide that it would bypass the internet; where that is meant, list it under clusterRanges",
        );
    }
    let address = range.addr();
    if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
        return Err("no pod, Service or node has such addresses");
    }
    if range.contains(&IpAddr::from(METADATA)) {
        return Err("the metadata service of clouds is in it");
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{OfNode, Ranges, judge, ranges};

    fn nodes(all: &[(&str, &[&str], &[&str])]) -> BTreeMap<(String, String), OfNode> {
        let node = |(name, pods, addresses): &(&str, &[&str], &[&str])| {
            let node = OfNode {
                pods: pods.iter().map(|text| (*text).to_owned()).collect(),
                addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            };
            ((String::new(), (*name).to_owned()), node)
        };
        all.iter().map(node).collect()
    }

    fn lines(ranges: &Ranges) -> Vec<String> {
        ranges.found.iter().map(|found| format!("{} {}", found.range, found.from)).collect()
    }

    #[test]
    fn neighbours_become_one_range_and_say_where_they_are_from() {
        let nodes = nodes(&[
            ("a", &["10.244.0.0/24"], &["192.0.2.1"]),
            ("b", &["10.244.1.0/24"], &["192.0.2.9"]),
            ("c", &["10.250.0.0/24"], &[]),
        ]);
        let found = ranges(Some(&nodes), Some(&["10.96.0.0/16".to_owned()]), true);
        assert!(found.complete && found.problems.is_empty(), "{found:?}");
        assert_eq!(
            lines(&found),
            [
                "10.96.0.0/16 Services (ServiceCIDR)",
                "192.0.2.1/32 nodes (InternalIP): a",
                "192.0.2.9/32 nodes (InternalIP): b",
                "10.244.0.0/23 pods (podCIDR): a, b",
                "10.250.0.0/24 pods (podCIDR): c",
            ]
        );
    }

    #[test]
    fn a_range_of_many_nodes_names_a_few() {
        let names = ["a", "b", "c", "d"];
        let cidrs = ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"];
        let cidrs: Vec<[&str; 1]> = cidrs.iter().map(|cidr| [*cidr]).collect();
        let all: Vec<_> = names.iter().zip(&cidrs).map(|(name, cidr)| (*name, &cidr[..], &[][..])).collect();
        let found = ranges(Some(&nodes(&all)), Some(&[]), true);
        assert_eq!(lines(&found), ["10.0.0.0/22 pods (podCIDR): a, b, c and 1 more"]);
    }

    #[test]
    fn what_cannot_be_found_is_said_and_what_was_not_read_is_not() {
        assert_eq!(ranges(None, Some(&[]), false), Ranges::default(), "nothing was read");
        let without = ranges(Some(&nodes(&[("a", &[], &["192.0.2.1"])])), None, true);
        assert_eq!(without.problems.len(), 2, "{without:?}");
        assert!(without.problems.iter().all(|problem| problem.contains("clusterRanges")));
        assert!(!ranges(Some(&nodes(&[])), Some(&[]), false).complete);
    }

    #[test]
    fn what_would_bypass_the_internet_is_refused() {
        for (text, accepted) in [
            ("10.0.0.0/8", true),
            ("100.64.0.0/10", true),
            ("fd00::/16", true),
            ("2001:db8:1::/64", true),
            ("0.0.0.0/0", false),
            ("::/0", false),
            ("0.0.0.0/1", false),
            ("128.0.0.0/2", false),
            ("2000::/3", false),
            ("127.0.0.0/8", false),
            ("169.254.0.0/16", false),
            ("169.254.169.254/32", false),
            ("224.0.0.0/8", false),
            ("ten", false),
        ] {
            assert_eq!(judge(text).is_ok(), accepted, "{text}");
        }
        let found = ranges(Some(&nodes(&[("a", &["0.0.0.0/0"], &[])])), Some(&[]), true);
        assert!(found.found.is_empty());
        assert!(found.problems[0].contains("of node a: 0.0.0.0/0 is not bypassed"), "{found:?}");
    }
}

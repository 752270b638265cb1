//! Which devices of a network namespace lead out of it, and where to. Pure: `node::lock` asks the kernel.

use super::netlink::Link;

/// Devices that stand on others or hold them, or lead nowhere. Where what they stand on is in the same namespace, their packets
/// leave by a device that is judged itself.
const INNER: [&str; 26] = [
    "bareudp",
    "batadv",
    "bond",
    "bridge",
    "dummy",
    "erspan",
    "geneve",
    "gre",
    "gretap",
    "hsr",
    "ifb",
    "ip6erspan",
    "ip6gre",
    "ip6gretap",
    "ip6tnl",
    "ipip",
    "ipvlan",
    "ipvtap",
    "macsec",
    "macvlan",
    "macvtap",
    "sit",
    "vlan",
    "vrf",
    "vxlan",
    "wireguard",
];

/// Where a device leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Not out of the namespace by itself.
    Nowhere,
    /// To this device in the agent's namespace.
    Host(u32),
    /// Out, by a way that the agent cannot lock; why.
    Open(String),
}

/// Where `link` leads. `agent`: number of the agent's namespace in the link's.
pub(super) fn way(link: &Link, agent: Option<i32>) -> Way {
    let Link { name, kind, other, other_namespace, loopback, .. } = link;
    let kind = kind.as_deref();
    match (kind, other_namespace, other) {
        _ if *loopback => Way::Nowhere,
        (Some("veth"), Some(namespace), Some(other)) if Some(*namespace) == agent => Way::Host(*other),
        (Some("veth"), None, Some(_)) => Way::Nowhere,
        (Some("veth"), ..) => {
            Way::Open(format!("the other end of {name} is in a network namespace that is not the agent's"))
        }
        (Some(kind), None, _) if INNER.contains(&kind) => Way::Nowhere,
        (Some(kind), ..) => Way::Open(format!("{name} is of kind {kind}, which has no host's side")),
        (None, ..) => Way::Open(format!("{name} is a device of the machine, without a host's side")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: Option<&str>, other: Option<u32>, other_namespace: Option<i32>) -> Link {
        Link {
            index: 2,
            name: "eth0".to_owned(),
            kind: kind.map(ToOwned::to_owned),
            other,
            other_namespace,
            ..Link::default()
        }
    }

    #[test]
    fn only_a_veth_to_the_agents_namespace_can_be_locked() {
        let of = |kind, other, namespace| way(&link(kind, other, namespace), Some(3));
        assert_eq!(of(Some("veth"), Some(7), Some(3)), Way::Host(7));
        assert_eq!(of(Some("veth"), Some(7), None), Way::Nowhere, "both ends inside");
        assert_eq!(of(Some("vxlan"), None, None), Way::Nowhere, "its packets leave by another device");
        assert_eq!(of(Some("ipvlan"), Some(7), None), Way::Nowhere, "on a device inside");
        for (kind, other, namespace, why) in [
            (Some("veth"), Some(7), Some(0), "not the agent's"),
            (Some("veth"), None, None, "not the agent's"),
            (Some("ipvlan"), Some(7), Some(3), "ipvlan"),
            (Some("macvlan"), Some(7), Some(3), "macvlan"),
            (Some("vxlan"), None, Some(3), "vxlan"),
            (Some("netkit"), Some(7), Some(3), "netkit"),
            (Some("tun"), None, None, "tun"),
            (Some("later"), None, None, "later"),
            (None, None, None, "a device of the machine"),
        ] {
            let Way::Open(found) = of(kind, other, namespace) else { panic!("{kind:?} counts as locked") };
            assert!(found.contains(why) && found.contains("eth0"), "{found}");
        }
        assert!(matches!(way(&link(Some("veth"), Some(7), Some(3)), None), Way::Open(_)));
        let loopback = Link { loopback: true, ..link(None, None, None) };
        assert_eq!(way(&loopback, Some(3)), Way::Nowhere);
    }
}

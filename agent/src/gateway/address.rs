//! Addresses that a workload must not reach through the gateway: what they mean there is not what they mean in the pod.
//!
//! `upstream` asks before it dials an original destination or an address out of DNS. Endpoints that a ServiceEntry lists
//! are the operator's word and are not judged.

use std::net::{IpAddr, Ipv4Addr};

/// Why `address` must not be dialled on a workload's or a name server's word; absent: it may.
pub(super) fn forbidden(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(v4) if v4.is_loopback() => Some("a loopback address"),
        // 0.0.0.0/8 is "this host": Linux connects it to the local machine.
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("the unspecified address"),
        IpAddr::V4(v4) if v4 == Ipv4Addr::new(169, 254, 169, 254) => {
            Some("the cloud metadata service of the gateway's node")
        }
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V4(v4) if v4.is_multicast() || v4.is_broadcast() => Some("a multicast or broadcast address"),
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) if v6.is_loopback() => Some("a loopback address"),
        IpAddr::V6(v6) if v6.is_unspecified() => Some("the unspecified address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.is_multicast() => Some("a multicast address"),
        // fd00:ec2::254 and friends.
        IpAddr::V6(v6) if v6.segments()[..2] == [0xfd00, 0x0ec2] => {
            Some("the cloud metadata service of the gateway's node")
        }
        // NAT64 and IPv4-compatible spellings of the IPv4 addresses above.
        IpAddr::V6(v6) => embedded(v6.segments()).and_then(|v4| forbidden(IpAddr::V4(v4))),
    }
}

/// The IPv4 address inside `64:ff9b::/96` (RFC 6052) or `::/96` (RFC 4291 §2.5.5.1).
fn embedded(segments: [u16; 8]) -> Option<Ipv4Addr> {
    let prefix = &segments[..6];
    if prefix != [0; 6] && prefix != [0x64, 0xff9b, 0, 0, 0, 0] {
        return None;
    }
    let [a, b] = segments[6].to_be_bytes();
    let [c, d] = segments[7].to_be_bytes();
    Some(Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    use super::forbidden;

    #[test]
    fn refuses_every_spelling_of_the_gateways_own_surroundings() {
        for address in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "fd00:ec2::254",
        ] {
            assert!(forbidden(address.parse().unwrap()).is_some(), "{address}");
        }
    }

    #[test]
    fn leaves_ordinary_addresses_alone() {
        for address in ["203.0.113.7", "10.0.0.1", "2001:db8::1", "fd12::1", "64:ff9b::cb00:7107"] {
            assert_eq!(forbidden(address.parse().unwrap()), None, "{address}");
        }
    }
}

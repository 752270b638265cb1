//! What of a packet is an arrival: tokens in anything but TCP, and the first packets of connections by their source port.
//! Called by `witness` for every packet that comes in. Pure.
//!
//! The data of TCP is left out on purpose: the gateway's own connections carry tokens, too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::vector::{TOKEN, TOKEN_LENGTH};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// Something that reached the witness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Arrival {
    /// `tcp`, `udp`, …, or `ip protocol 253`.
    pub(super) protocol: String,
    /// Source address.
    pub(super) source: IpAddr,
    /// Source port of a connection.
    pub(super) port: Option<u16>,
    /// Token found.
    pub(super) token: Option<String>,
}

/// Looks at a packet without its link header. `ether_type` says what it is.
pub(super) fn observe(ether_type: u16, packet: &[u8]) -> Option<Arrival> {
    let (protocol, source, payload) = match ether_type {
        IPV4 => {
            let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            let header = usize::from(packet.first()? & 0x0f) * 4;
            (*packet.get(9)?, IpAddr::from(Ipv4Addr::from(source)), packet.get(header..)?)
        }
        IPV6 => {
            let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            (*packet.get(6)?, IpAddr::from(Ipv6Addr::from(source)), packet.get(40..)?)
        }
        _ => return None,
    };
    let port = || Some(u16::from_be_bytes([*payload.first()?, *payload.get(1)?]));
    match protocol {
        // SYN without ACK.
        6 if payload.get(13)? & 0x12 == 0x02 => {
            Some(Arrival { protocol: "tcp".to_owned(), source, port: port(), token: None })
        }
        6 => None,
        132 => Some(Arrival { protocol: "sctp".to_owned(), source, port: port(), token: None }),
        _ => Some(Arrival { protocol: name(protocol), source, port: None, token: Some(token(payload)?) }),
    }
}

fn token(payload: &[u8]) -> Option<String> {
    let at = payload.windows(TOKEN.len()).position(|window| window == TOKEN.as_bytes())?;
    String::from_utf8(payload.get(at..at + TOKEN_LENGTH)?.to_vec()).ok()
}

fn name(protocol: u8) -> String {
    match protocol {
        1 => "icmp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        136 => "udp-lite".to_owned(),
        other => format!("ip protocol {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{IPV4, IPV6, observe};
    use crate::verify_bypass::vector::token;

    fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet[9] = protocol;
        packet[12..16].copy_from_slice(&[192, 0, 2, 7]);
        packet.extend(payload);
        packet
    }

    #[test]
    fn tokens_are_found_in_datagrams() {
        let wanted = token(7, 3);
        let payload = format!("12345678{wanted}rest");
        let arrival = observe(IPV4, &ipv4(17, payload.as_bytes())).unwrap();
        assert_eq!(arrival.token.as_deref(), Some(wanted.as_str()));
        assert_eq!((arrival.protocol.as_str(), arrival.source), ("udp", "192.0.2.7".parse().unwrap()));
        assert_eq!(observe(IPV4, &ipv4(253, payload.as_bytes())).unwrap().protocol, "ip protocol 253");
        assert_eq!(observe(IPV4, &ipv4(17, b"12345678nothing")), None);

        let mut v6 = vec![0; 40];
        v6[6] = 17;
        v6.extend(payload.as_bytes());
        assert!(observe(IPV6, &v6).unwrap().source.is_ipv6());
    }

    #[test]
    fn of_tcp_only_the_first_packet_counts() {
        let mut segment = [0_u8; 20];
        segment[..2].copy_from_slice(&20_001_u16.to_be_bytes());
        segment[13] = 0x02;
        assert_eq!(observe(IPV4, &ipv4(6, &segment)).unwrap().port, Some(20_001));
        segment[13] = 0x12;
        assert_eq!(observe(IPV4, &ipv4(6, &segment)), None);
        let mut data = segment.to_vec();
        data[13] = 0x18;
        data.extend(token(1, 1).as_bytes());
        assert_eq!(observe(IPV4, &ipv4(6, &data)), None, "the gateway carries tokens, too");
    }

    #[test]
    fn garbage_is_no_arrival() {
        for length in 0..60 {
            for ether_type in [IPV4, IPV6, 0x0806] {
                assert_eq!(observe(ether_type, &vec![0xff; length]).and_then(|one| one.token), None);
            }
        }
        // A token that is cut off.
        let cut = format!("12345678{}", &token(1, 1)[..20]);
        assert_eq!(observe(IPV4, &ipv4(17, cut.as_bytes())), None);
    }
}

//! Packets and messages as bytes: IPv4 with UDP, ICMP, ARP. Called by `raw`, `frames` and `devices`. Pure.

use std::net::{Ipv4Addr, SocketAddrV4};

/// IPv4 and UDP headers around a payload.
pub(super) fn datagram(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let udp_length = (8 + payload.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    packet[2..4].copy_from_slice(&(20 + udp_length).to_be_bytes());
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    // No checksum, which IPv4 allows.
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// An echo request (RFC 792).
pub(super) fn echo_request(payload: &[u8]) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0, 0x15, 0x08, 0, 1];
    message.extend(payload);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Who has `target`? (RFC 826)
pub(super) fn who_has(target: Ipv4Addr, own: ([u8; 6], Ipv4Addr)) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4, 0, 1];
    message.extend(own.0);
    message.extend(own.1.octets());
    message.extend([0; 6]);
    message.extend(target.octets());
    message
}

/// The link address in an answer about `target`.
pub(super) fn is_at(answer: &[u8], target: Ipv4Addr) -> Option<[u8; 6]> {
    let about = answer.get(..8)? == [0, 1, 8, 0, 6, 4, 0, 2] && answer.get(14..18)? == target.octets();
    about.then(|| answer.get(8..14)?.try_into().ok())?
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or_default()))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::{checksum, datagram, is_at, who_has};

    #[test]
    fn packets_are_well_formed() {
        let packet = datagram("192.0.2.1:9".parse().unwrap(), "192.0.2.7:80".parse().unwrap(), b"abc");
        assert_eq!(packet.len(), 31);
        assert_eq!(checksum(&packet[..20]), 0, "a header with its checksum sums up to nothing");
        assert_eq!(u16::from_be_bytes([packet[2], packet[3]]), 31);
        assert_eq!(packet[20..24], [0, 9, 0, 80]);
        assert_eq!(
            checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2,
            "RFC 1071's example"
        );
    }

    #[test]
    fn neighbours_are_asked_and_understood() {
        let (asked, other) = ("192.0.2.7".parse().unwrap(), "192.0.2.8".parse().unwrap());
        let question = who_has(asked, ([2; 6], "192.0.2.1".parse().unwrap()));
        assert_eq!(question.len(), 28);
        assert_eq!(is_at(&question, asked), None, "a question is no answer");
        let mut answer = who_has("192.0.2.1".parse().unwrap(), ([3; 6], asked));
        answer[7] = 2;
        assert_eq!(is_at(&answer, asked), Some([3; 6]));
        assert_eq!(is_at(&answer, other), None);
        assert_eq!(is_at(&answer[..12], asked), None);
    }
}

//! Reads what the backstop needs from the first bytes of a packet. Called by `packet`; pure, so it is tested on the host.
//!
//! Only what is plain is read: a header with IPv4 options or IPv6 extension headers may be routed by its source, so that its
//! destination is not where it goes.

/// Length of an IPv4 header without options.
pub const V4_LENGTH: usize = 20;
/// Length of the IPv6 header.
pub const V6_LENGTH: usize = 40;
/// Bit of TCP's flags: nothing follows.
pub const FIN: u8 = 0x01;
/// Bit of TCP's flags: opens a connection, or answers that.
pub const SYN: u8 = 0x02;
/// Bit of TCP's flags: ends a connection at once, without data.
pub const RST: u8 = 0x04;
/// Bit of TCP's flags: answers.
pub const ACK: u8 = 0x10;
/// Bytes of a TCP header up to its flags.
pub const TCP_LENGTH: usize = 14;
/// Bytes of a hop-by-hop header with one option of 4 bytes, and the type of the ICMPv6 message after it.
pub const HOP_BY_HOP_LENGTH: usize = 9;

/// Bits of the second word of an IPv4 header.
const FRAGMENT_OFFSET: u16 = 0x1fff;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// An IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// IPv4 v4-mapped.
    pub source: [u8; 16],
    /// IPv4 v4-mapped.
    pub destination: [u8; 16],
    /// Protocol, or the first next-header.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub hops: u8,
    /// Where the next header begins; 0: this is none.
    pub length: u32,
    /// Nothing between this header and the protocol's.
    pub plain: bool,
}

impl Header {
    /// What is not a header. Not an `Option`: the compiler would leave fields unset where there is none, and merge the branches
    /// so that the verifier sees them read.
    pub const NONE: Self =
        Self { source: [0; 16], destination: [0; 16], protocol: 0, hops: 0, length: 0, plain: false };

    /// Of IPv4, else [`Header::NONE`].
    #[inline(always)]
    pub fn v4(bytes: &[u8; V4_LENGTH]) -> Self {
        let words = bytes[0] & 0x0f;
        if bytes[0] >> 4 != 4 || words < 5 {
            return Self::NONE;
        }
        Self {
            source: mapped([bytes[12], bytes[13], bytes[14], bytes[15]]),
            destination: mapped([bytes[16], bytes[17], bytes[18], bytes[19]]),
            protocol: bytes[9],
            hops: bytes[8],
            length: u32::from(words) * 4,
            // A fragment other than the first has no protocol's header. Packets are cut after the backstop, so it is forged.
            plain: words == 5 && u16::from_be_bytes([bytes[6], bytes[7]]) & FRAGMENT_OFFSET == 0,
        }
    }

    /// Of IPv6, else [`Header::NONE`].
    #[inline(always)]
    pub fn v6(bytes: &[u8; V6_LENGTH]) -> Self {
        if bytes[0] >> 4 != 6 {
            return Self::NONE;
        }
        let (mut source, mut destination) = ([0; 16], [0; 16]);
        source.copy_from_slice(&bytes[8..24]);
        destination.copy_from_slice(&bytes[24..40]);
        let protocol = bytes[6];
        let plain = !matches!(
            protocol,
            HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS | MOBILITY | HOST_IDENTITY | SHIM6
        );
        Self { source, destination, protocol, hops: bytes[7], length: V6_LENGTH as u32, plain }
    }

    /// Whether it may be a message of multicast-listener discovery (RFC 3810 §5): link-local, with a router alert before it.
    #[inline(always)]
    pub const fn may_be_listener_discovery(&self) -> bool {
        self.protocol == HOP_BY_HOP
            && self.length == V6_LENGTH as u32
            && self.hops == 1
            && self.destination[0] == 0xff
            && self.destination[1] == 0x02
    }
}

/// Whether what follows a header that [`Header::may_be_listener_discovery`] is one: reports and queries, versions 1 and 2.
#[inline(always)]
pub const fn is_listener_discovery(bytes: &[u8; HOP_BY_HOP_LENGTH]) -> bool {
    bytes[0] == ICMPV6 && bytes[1] == 0 && matches!(bytes[8], 130..=132 | 143)
}

#[inline(always)]
const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = v4;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(words: u8, fragment: u8) -> [u8; V4_LENGTH] {
        [0x40 | words, 0, 0, 60, 0, 0, 0x40, fragment, 64, 6, 0, 0, 192, 0, 2, 1, 203, 0, 113, 7]
    }

    fn v6(protocol: u8, hops: u8) -> [u8; V6_LENGTH] {
        let mut bytes = [0; V6_LENGTH];
        bytes[0] = 0x60;
        bytes[6] = protocol;
        bytes[7] = hops;
        bytes[24] = 0xff;
        bytes[25] = 0x02;
        bytes[39] = 0x16;
        bytes
    }

    #[test]
    fn ipv4() {
        let header = Header::v4(&v4(5, 0));
        assert_eq!(header.destination[10..], [0xff, 0xff, 203, 0, 113, 7]);
        assert_eq!(header.source[12..], [192, 0, 2, 1]);
        assert_eq!((header.protocol, header.hops, header.length, header.plain), (6, 64, 20, true));
        let with_options = Header::v4(&v4(6, 0));
        assert_eq!((with_options.length, with_options.plain), (24, false));
        assert!(!Header::v4(&v4(5, 8)).plain, "a later fragment");
        assert_eq!(Header::v4(&v4(4, 0)), Header::NONE);
        assert_eq!(Header::v4(&[0x65; V4_LENGTH]), Header::NONE);
    }

    #[test]
    fn ipv6() {
        let header = Header::v6(&v6(17, 64));
        assert_eq!((header.protocol, header.length, header.plain), (17, 40, true));
        for extension in [0, 43, 44, 60, 135] {
            assert!(!Header::v6(&v6(extension, 64)).plain, "{extension}");
        }
        assert_eq!(Header::v6(&[0x45; V6_LENGTH]), Header::NONE);
    }

    #[test]
    fn listener_discovery() {
        let report = [58, 0, 5, 2, 0, 0, 1, 0, 143];
        assert!(Header::v6(&v6(0, 1)).may_be_listener_discovery());
        assert!(is_listener_discovery(&report));
        assert!(!Header::v6(&v6(0, 2)).may_be_listener_discovery(), "would be forwarded");
        assert!(!is_listener_discovery(&[17, 0, 5, 2, 0, 0, 1, 0, 143]));
        assert!(!is_listener_discovery(&[58, 0, 5, 2, 0, 0, 1, 0, 128]));
    }
}

//! Reads the server name out of a TLS ClientHello without consuming or terminating it.
//!
//! `gateway` calls it with what it peeked at. The parsing is rustls'.

use rustls::server::Acceptor;

/// The most that is looked at: the largest ClientHello that rustls itself takes.
pub const MAX_CLIENT_HELLO: usize = 64 << 10;

/// Content type `handshake` and major version 3: how every TLS connection since SSL 3 begins (RFC 8446 §5.1).
const PREFIX: [u8; 2] = [0x16, 0x03];

/// What the first bytes of a connection are, as far as TLS is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientHello {
    /// More bytes are needed to tell.
    Incomplete,
    /// Not TLS, or TLS that a lenient server might read in another way than we do: a malformed ClientHello or server name.
    /// Such a connection is opaque bytes, so it matches no rule that is about a host and goes nowhere that asks for TLS.
    NotTls,
    /// A ClientHello; the server name in lower case, where it has one.
    Tls {
        /// Server name indication.
        sni: Option<String>,
    },
}

/// Parses the start of a connection; the ClientHello may span several records. Tells plain text by its first byte.
pub fn parse(bytes: &[u8]) -> ClientHello {
    if bytes.iter().zip(PREFIX).any(|(&byte, expected)| byte != expected) {
        return ClientHello::NotTls;
    }
    let mut acceptor = Acceptor::default();
    let mut rest = &bytes[..bytes.len().min(MAX_CLIENT_HELLO)];
    while !rest.is_empty() {
        // An error here is a message that does not fit the acceptor's buffer.
        if acceptor.read_tls(&mut rest).is_err() {
            return ClientHello::NotTls;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let sni = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                return ClientHello::Tls { sni };
            }
            Err(_) => return ClientHello::NotTls,
        }
    }
    if bytes.len() >= MAX_CLIENT_HELLO { ClientHello::NotTls } else { ClientHello::Incomplete }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};

    use super::*;
    use crate::tls::provider::{INTERNET_VERSIONS, provider};

    fn hello(name: &str, alpn: usize) -> Vec<u8> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(INTERNET_VERSIONS)
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = vec![vec![b'x'; 200]; alpn];
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    fn tls(sni: Option<&str>) -> ClientHello {
        ClientHello::Tls { sni: sni.map(str::to_owned) }
    }

    /// The same handshake message in records of `size` bytes.
    fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
        hello[5..]
            .chunks(size)
            .flat_map(|chunk| {
                let length = u16::try_from(chunk.len()).unwrap().to_be_bytes();
                [&[0x16, 3, 1], &length[..], chunk].concat()
            })
            .collect()
    }

    #[test]
    fn finds_the_name_in_lower_case() {
        assert_eq!(parse(&hello("Test.COM", 0)), tls(Some("test.com")));
        assert_eq!(parse(&hello("192.0.2.1", 0)), tls(None));
    }

    #[test]
    fn data_behind_the_hello_does_not_matter() {
        let bytes =
            [hello("test.com", 0), b"\x14\x03\x03\x00\x01\x01\x17\x03\x03\x00\x02xx".to_vec()].concat();
        assert_eq!(parse(&bytes), tls(Some("test.com")));
    }

    #[test]
    fn every_prefix_is_incomplete() {
        let bytes = hello("test.com", 0);
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), ClientHello::Incomplete, "{end} bytes");
        }
    }

    #[test]
    fn the_hello_may_come_in_tiny_records() {
        for size in [1, 2, 100] {
            assert_eq!(parse(&in_records(&hello("test.com", 0), size)), tls(Some("test.com")), "{size}");
        }
    }

    #[test]
    fn a_large_hello_is_read_and_an_endless_one_is_not() {
        assert_eq!(parse(&hello("test.com", 100)), tls(Some("test.com")));
        // A handshake message that claims 16 MiB.
        let endless = [&[0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[0; 0x3ffc]].concat();
        assert_eq!(parse(&endless.repeat(5)), ClientHello::NotTls);
    }

    #[test]
    fn plain_text_is_told_by_its_first_byte() {
        for text in ["G", "GET / HTTP/1.1\r\n", "SSH-2.0-x", "\u{16}\u{2}"] {
            assert_eq!(parse(text.as_bytes()), ClientHello::NotTls, "{text:?}");
        }
        assert_eq!(parse(b""), ClientHello::Incomplete);
    }

    #[test]
    fn a_malformed_name_is_not_taken_for_none() {
        let mut bytes = hello("test.com", 0);
        let at = bytes.windows(8).position(|w| w == b"test.com").unwrap();
        bytes[at..at + 8].copy_from_slice(b"te\0t.com");
        assert_eq!(parse(&bytes), ClientHello::NotTls);
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            parse(&bytes);
            for (at, byte) in [0x16, 3, 1, 2, 0, 1, 0, 1].into_iter().enumerate() {
                if let Some(b) = bytes.get_mut(at) {
                    *b = byte;
                }
            }
            parse(&bytes);
        }

        #[test]
        fn never_panics_on_a_damaged_hello(at in 0_usize..600, byte: u8, cut in 0_usize..600) {
            let mut bytes = hello("test.com", 1);
            if let Some(b) = bytes.get_mut(at) {
                *b = byte;
            }
            parse(&bytes);
            bytes.truncate(cut);
            parse(&bytes);
        }
    }
}

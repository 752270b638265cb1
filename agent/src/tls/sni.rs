//! Reads the server name out of a TLS ClientHello without consuming or terminating it.

/// What the first bytes of a connection are, as far as TLS is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientHello {
    /// More bytes are needed to tell.
    Incomplete,
    /// Not TLS.
    NotTls,
    /// A ClientHello; the server name in lower case, where it has one.
    Tls {
        /// Server name indication.
        sni: Option<String>,
    },
}

/// Parses the start of a connection.
pub fn parse(bytes: &[u8]) -> ClientHello {
    let _ = bytes;
    unimplemented!()
}

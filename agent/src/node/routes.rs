//! Whether a network namespace could reach anything by itself, per address family.
//!
//! Capture makes every connect() succeed at once; a family that the namespace does not have must go on failing with
//! ENETUNREACH, or clients that prefer it would hang (spike: "no route").

use std::{io, path::Path};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

use super::netns;

/// The address families a namespace has beyond loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Families {
    /// An IPv4 address on an interface that is up.
    pub(super) v4: bool,
    /// A global IPv6 address on an interface that is up.
    pub(super) v6: bool,
}

impl Families {
    /// Reads them from the interfaces of `namespace`.
    pub(super) fn of(namespace: Option<&Path>) -> io::Result<Self> {
        netns::inside(namespace, || {
            let mut families = Self { v4: false, v6: false };
            for interface in getifaddrs()? {
                let flags = interface.flags;
                if flags.contains(InterfaceFlags::IFF_LOOPBACK) || !flags.contains(InterfaceFlags::IFF_UP) {
                    continue;
                }
                let Some(address) = interface.address else { continue };
                families.v4 |= address.as_sockaddr_in().is_some();
                families.v6 |= address.as_sockaddr_in6().is_some_and(|v6| !v6.ip().is_unicast_link_local());
            }
            Ok(families)
        })
    }
}

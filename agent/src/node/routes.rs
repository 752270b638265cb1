//! Whether a network namespace could reach anything by itself, per address family.
//!
//! Capture makes every connect() succeed at once; a family that the namespace does not have must go on failing with
//! ENETUNREACH, or clients that prefer it would hang (spike: "no route").

use std::io;

use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    net::if_::InterfaceFlags,
};

use super::netns::{self, Namespace};

/// The address families a namespace has beyond loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Families {
    /// An IPv4 address on an interface that is up.
    pub(super) v4: bool,
    /// A global IPv6 address on an interface that is up.
    pub(super) v6: bool,
}

impl Families {
    /// Those of a namespace that has nothing but loopback. The listener is there, and is the only way out it was given: nothing is
    /// "no route".
    const ALL: Self = Self { v4: true, v6: true };

    /// Reads them from the interfaces of `namespace`, or of the agent's own.
    pub(super) fn of(namespace: Option<&Namespace>) -> io::Result<Self> {
        netns::inside(namespace, || {
            let mut families = Self::default();
            let mut link = false;
            for interface in getifaddrs()? {
                if !leads_out(&interface) {
                    continue;
                }
                link = true;
                let Some(address) = interface.address else { continue };
                families.v4 |= address.as_sockaddr_in().is_some();
                families.v6 |= address.as_sockaddr_in6().is_some_and(|v6| !v6.ip().is_unicast_link_local());
            }
            Ok(if namespace.is_some() && !link { Self::ALL } else { families })
        })
    }

    /// What either has.
    pub(super) fn or(self, other: Self) -> Self {
        Self { v4: self.v4 || other.v4, v6: self.v6 || other.v6 }
    }
}

/// Whether a link that is up leads out of the network namespace of the calling thread.
pub(super) fn has_link() -> io::Result<bool> {
    Ok(getifaddrs()?.any(|interface| leads_out(&interface)))
}

fn leads_out(interface: &InterfaceAddress) -> bool {
    interface.flags.contains(InterfaceFlags::IFF_UP)
        && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)
}

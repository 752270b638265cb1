//! What the deciders' tests share: one bypassed range, one resolver, and a peer that has spoken.

extern crate std;

use core::net::SocketAddr;

use agent_common::Endpoint;

use crate::destinations::{Destinations, Heard};

/// Bypassed: 10.0.0.0/8 and fd00::/8. Resolvers: 192.0.2.53:53, then 127.0.0.53:53, and [2001:db8::53]:53.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) spoken: Option<(&'static str, Heard)>,
}

pub(crate) fn endpoint(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().unwrap().into()
}

impl Destinations for Table {
    fn bypassed(&self, destination: &Endpoint) -> bool {
        match destination.address_v4() {
            Some([10, ..]) => true,
            Some(_) => false,
            None => destination.address()[0] == 0xfd,
        }
    }

    fn resolver(&self, destination: &Endpoint) -> Option<u8> {
        let known = ["192.0.2.53:53", "[2001:db8::53]:53", "127.0.0.53:53"];
        let at = known.iter().position(|text| endpoint(text) == *destination)?;
        Some([0, 0, 1][at])
    }

    fn called(&self, peer: &Endpoint) -> bool {
        self.heard(peer) == Heard::Outside
    }

    fn heard(&self, peer: &Endpoint) -> Heard {
        self.spoken.filter(|(text, _)| *peer == endpoint(text)).map(|(_, heard)| heard).unwrap_or_default()
    }
}

//! Addresses with ports in the kernel's maps: the DNS resolvers that workloads may ask, and the gateways. Called at the
//! start and when the configuration changes.

use std::{collections, net::SocketAddr};

use agent_common::{Endpoint, names};
use aya::maps::{Array, HashMap, MapData, MapError};

use super::{Error, pins::Pins};

/// The resolvers of each family without repetition: the place in its list is a resolver's number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbered {
    /// IPv4.
    pub v4: Vec<SocketAddr>,
    /// IPv6.
    pub v6: Vec<SocketAddr>,
}

impl Numbered {
    /// Numbers `resolvers` in their order. A v4-mapped address is IPv4.
    pub fn new(resolvers: &[SocketAddr]) -> Self {
        let mut numbered = Self::default();
        for resolver in resolvers {
            let resolver = SocketAddr::new(resolver.ip().to_canonical(), resolver.port());
            let family = if resolver.is_ipv4() { &mut numbered.v4 } else { &mut numbered.v6 };
            if !family.contains(&resolver) {
                family.push(resolver);
            }
        }
        numbered
    }
}

/// Makes the maps of resolvers equal to `resolvers`, each with its number.
pub(super) fn set(pins: &Pins, resolvers: &[SocketAddr]) -> Result<(), Error> {
    let Numbered { v4, v6 } = Numbered::new(resolvers);
    number(pins, &v4, 0)?;
    number(pins, &v6, names::DNS_LISTENERS.into())?;
    // Beyond the capacity a byte holds every number: 255 is more than there are listeners.
    let numbers = || (0..=u8::MAX).chain(std::iter::repeat(u8::MAX));
    let numbered: Vec<_> = v4.into_iter().zip(numbers()).chain(v6.into_iter().zip(numbers())).collect();
    fill(pins, names::RESOLVERS, names::RESOLVERS_CAPACITY, &numbered)
}

/// The addresses in one of the maps.
pub(super) fn read(pins: &Pins, name: &'static str) -> Result<Vec<SocketAddr>, Error> {
    let fail = |error: MapError| pins.map_error(name, error);
    let map: HashMap<MapData, Endpoint, u8> = pins.typed_map(name)?.try_into().map_err(fail)?;
    map.keys().map(|key| key.map(SocketAddr::from).map_err(fail)).collect()
}

/// Makes the map of gateways equal to `gateways`. The values mean nothing.
pub(super) fn set_gateways(pins: &Pins, gateways: &[SocketAddr]) -> Result<(), Error> {
    let gateways: Vec<_> = gateways.iter().map(|gateway| (*gateway, 1)).collect();
    fill(pins, names::GATEWAYS, names::GATEWAYS_CAPACITY, &gateways)
}

/// Makes a map equal to `entries`, at most `capacity`. New ones are added before old ones go, so that one in both is never
/// missing.
fn fill(pins: &Pins, name: &'static str, capacity: usize, entries: &[(SocketAddr, u8)]) -> Result<(), Error> {
    let fail = |error: MapError| pins.map_error(name, error);
    let mut map: HashMap<MapData, Endpoint, u8> = pins.typed_map(name)?.try_into().map_err(fail)?;
    let wanted: collections::HashMap<Endpoint, u8> =
        entries.iter().map(|(address, value)| (Endpoint::from(*address), *value)).collect();
    if wanted.len() > capacity {
        return Err(pins.map_error(name, format!("{} addresses, {capacity} at most", wanted.len())));
    }
    let present: Vec<Endpoint> = map.keys().collect::<Result<_, _>>().map_err(fail)?;
    for (endpoint, value) in &wanted {
        map.insert(endpoint, value, 0).map_err(fail)?;
    }
    for old in present.iter().filter(|old| !wanted.contains_key(old)) {
        map.remove(old).map_err(fail)?;
    }
    Ok(())
}

/// Writes the way back from numbers to the resolvers of one family.
fn number(pins: &Pins, resolvers: &[SocketAddr], first: u32) -> Result<(), Error> {
    let fail = |error: MapError| pins.map_error(names::NUMBERED, error);
    let mut map: Array<MapData, Endpoint> = pins.typed_map(names::NUMBERED)?.try_into().map_err(fail)?;
    let nobody = Endpoint::v6([0; 16], 0);
    let listed = resolvers.iter().map(|resolver| Endpoint::from(*resolver)).chain(std::iter::repeat(nobody));
    for (index, resolver) in (first..first + u32::from(names::DNS_LISTENERS)).zip(listed) {
        map.set(index, resolver, 0).map_err(fail)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Numbered;

    #[test]
    fn numbers_go_by_family_and_repeat_nobody() {
        let listed = ["192.0.2.53:53", "[2001:db8::53]:53", "[::ffff:192.0.2.53]:53", "192.0.2.54:53"];
        let numbered = Numbered::new(&listed.map(|text| text.parse().unwrap()));
        let text = |list: &[std::net::SocketAddr]| {
            list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(&numbered.v4), "192.0.2.53:53 192.0.2.54:53");
        assert_eq!(text(&numbered.v6), "[2001:db8::53]:53");
    }
}

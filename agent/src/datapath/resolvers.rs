//! Addresses with ports in the kernel's maps: the DNS resolvers that workloads may ask, and the gateways. Called at the
//! start and when the configuration changes.

use std::{collections::HashSet, net::SocketAddr};

use agent_common::{Endpoint, names};
use aya::maps::{HashMap, MapData, MapError};

use super::{Error, pins::Pins};

/// The resolvers in the map.
pub(super) fn read(pins: &Pins) -> Result<Vec<SocketAddr>, Error> {
    let fail = |error: MapError| pins.map_error(names::RESOLVERS, error);
    let map: HashMap<MapData, Endpoint, u8> = pins.typed_map(names::RESOLVERS)?.try_into().map_err(fail)?;
    map.keys().map(|key| key.map(SocketAddr::from).map_err(fail)).collect()
}

/// Makes the map equal to `endpoints`, at most `capacity`. New ones are added before old ones go, so that one in both is
/// never missing.
pub(super) fn set(
    pins: &Pins,
    name: &'static str,
    capacity: usize,
    endpoints: &[SocketAddr],
) -> Result<(), Error> {
    let fail = |error: MapError| pins.map_error(name, error);
    let mut map: HashMap<MapData, Endpoint, u8> = pins.typed_map(name)?.try_into().map_err(fail)?;
    let wanted: HashSet<Endpoint> = endpoints.iter().map(|endpoint| Endpoint::from(*endpoint)).collect();
    if wanted.len() > capacity {
        return Err(pins.map_error(name, format!("{} addresses, {capacity} at most", wanted.len())));
    }
    let present: Vec<Endpoint> = map.keys().collect::<Result<_, _>>().map_err(fail)?;
    for endpoint in &wanted {
        map.insert(endpoint, 1, 0).map_err(fail)?;
    }
    for old in present.iter().filter(|old| !wanted.contains(old)) {
        map.remove(old).map_err(fail)?;
    }
    Ok(())
}

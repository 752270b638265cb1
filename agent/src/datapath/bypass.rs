//! The bypassed ranges in the kernel's prefix trie. Called when the configuration changes. One trie for both families:
//! IPv4 is kept v4-mapped, as the programs see it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use agent_common::names;
use aya::maps::{
    MapData, MapError,
    lpm_trie::{Key, LpmTrie},
};
use ipnet::IpNet;

use super::{Error, pins::Pins};

/// Bits of the prefix of v4-mapped addresses.
const MAPPED_BITS: u8 = 96;

/// Makes the trie equal to `ranges`. New ranges are added before old ones go, so that a range in both is never missing.
pub(super) fn set(pins: &Pins, ranges: &[IpNet]) -> Result<(), Error> {
    let fail = |error: MapError| pins.map_error(names::BYPASS, error);
    let mut trie: LpmTrie<MapData, [u8; 16], u8> = pins.typed_map(names::BYPASS)?.try_into().map_err(fail)?;
    let wanted: BTreeMap<(u32, [u8; 16]), u8> = ranges.iter().map(|range| entry(*range)).collect();
    if wanted.len() > names::BYPASS_CAPACITY {
        let why = format!("{} ranges, {} at most: merge some", wanted.len(), names::BYPASS_CAPACITY);
        return Err(pins.map_error(names::BYPASS, why));
    }
    let present: Vec<Key<[u8; 16]>> = trie.keys().collect::<Result<_, _>>().map_err(fail)?;
    for ((length, address), family) in &wanted {
        trie.insert(&Key::new(*length, *address), family, 0).map_err(fail)?;
    }
    for key in present {
        if !wanted.contains_key(&(key.prefix_len(), key.data())) {
            trie.remove(&key).map_err(fail)?;
        }
    }
    Ok(())
}

/// Whether an address is in a range of its own family, as the programs see it.
pub(super) fn contains(pins: &Pins, address: IpAddr) -> Result<bool, Error> {
    let fail = |error: MapError| pins.map_error(names::BYPASS, error);
    let trie: LpmTrie<MapData, [u8; 16], u8> = pins.typed_map(names::BYPASS)?.try_into().map_err(fail)?;
    let ((_, octets), family) = entry(address.into());
    match trie.get(&Key::new(128, octets), 0) {
        Ok(range) => Ok(range == family),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(error) => Err(fail(error)),
    }
}

/// The ranges in the trie.
pub(super) fn read(pins: &Pins) -> Result<Vec<IpNet>, Error> {
    let fail = |error: MapError| pins.map_error(names::BYPASS, error);
    let trie: LpmTrie<MapData, [u8; 16], u8> = pins.typed_map(names::BYPASS)?.try_into().map_err(fail)?;
    trie.iter()
        .map(|found| {
            let (key, family) = found.map_err(fail)?;
            range(key.prefix_len(), key.data(), family)
                .ok_or_else(|| pins.map_error(names::BYPASS, "a range that is none"))
        })
        .collect()
}

/// The range of an entry.
fn range(length: u32, address: [u8; 16], family: u8) -> Option<IpNet> {
    let address = Ipv6Addr::from(address);
    let length = u8::try_from(length).ok()?;
    if family == names::BYPASS_V4 {
        return IpNet::new(address.to_ipv4_mapped()?.into(), length.checked_sub(MAPPED_BITS)?).ok();
    }
    IpNet::new(address.into(), length).ok()
}

/// Prefix length and address as the trie has them, and the family that the range is for.
fn entry(range: IpNet) -> ((u32, [u8; 16]), u8) {
    match range.trunc() {
        IpNet::V4(net) => {
            let address = net.addr().to_ipv6_mapped().octets();
            ((u32::from(MAPPED_BITS + net.prefix_len()), address), names::BYPASS_V4)
        }
        IpNet::V6(net) => {
            // A range written v4-mapped is an IPv4 range.
            let mapped = net.prefix_len() >= MAPPED_BITS && net.addr().to_ipv4_mapped().is_some();
            let family = if mapped { names::BYPASS_V4 } else { names::BYPASS_V6 };
            ((u32::from(net.prefix_len()), net.addr().octets()), family)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_both_families_become_prefixes_of_one_trie() {
        let prefix = |text: &str| {
            let ((length, address), family) = entry(text.parse().unwrap());
            (length, Ipv6Addr::from(address).to_string(), family)
        };
        assert_eq!(prefix("10.1.2.3/8"), (104, "::ffff:10.0.0.0".to_owned(), names::BYPASS_V4));
        assert_eq!(prefix("0.0.0.0/0"), (96, "::ffff:0.0.0.0".to_owned(), names::BYPASS_V4));
        assert_eq!(prefix("fd00::1/8"), (8, "fd00::".to_owned(), names::BYPASS_V6));
        assert_eq!(prefix("::/0"), (0, "::".to_owned(), names::BYPASS_V6));
        assert_eq!(prefix("::ffff:10.0.0.0/104"), (104, "::ffff:10.0.0.0".to_owned(), names::BYPASS_V4));
    }

    #[test]
    fn prefixes_are_read_back() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "fd00::/8", "::/0"] {
            let ((length, address), family) = entry(text.parse().unwrap());
            assert_eq!(range(length, address, family), Some(text.parse().unwrap()));
        }
        assert_eq!(range(95, Ipv6Addr::LOCALHOST.octets(), names::BYPASS_V4), None);
    }
}

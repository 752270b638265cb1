//! Values by network, found by address: as many look-ups as there are lengths of prefixes, however many networks there are.
//!
//! `registry` has one of services.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;

use super::Few;

/// Values by network.
#[derive(Clone, Debug)]
pub(super) struct Networks<T> {
    found: HashMap<IpNet, Vec<(usize, T)>>,
    /// Lengths of prefixes, of IPv4 and of IPv6.
    lengths: [BTreeSet<u8>; 2],
    count: usize,
}

impl<T> Default for Networks<T> {
    fn default() -> Self {
        Self { found: HashMap::new(), lengths: Default::default(), count: 0 }
    }
}

impl<T> Networks<T> {
    /// Adds a value, which comes after all others.
    pub(super) fn push(&mut self, network: IpNet, value: T) {
        self.lengths[usize::from(network.addr().is_ipv6())].insert(network.prefix_len());
        self.found.entry(network.trunc()).or_default().push((self.count, value));
        self.count += 1;
    }

    /// The values of networks with `address` in them, in the order in which they were added.
    pub(super) fn containing(&self, address: IpAddr) -> Few<&T> {
        let mut found: Few<&(usize, T)> = self.lengths[usize::from(address.is_ipv6())]
            .iter()
            .filter_map(|length| IpNet::new(address, *length).ok())
            .filter_map(|network| self.found.get(&network.trunc()))
            .flatten()
            .collect();
        found.sort_unstable_by_key(|(order, _)| *order);
        found.into_iter().map(|(_, value)| value).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::Networks;

    fn address() -> impl Strategy<Value = IpAddr> {
        // Few, and in both families, so that networks overlap.
        (any::<bool>(), 0_u8..4, 0_u8..4).prop_map(|(six, one, other)| {
            if six {
                IpAddr::from([0xfd00, one.into(), 0, 0, 0, 0, 0, other.into()])
            } else {
                IpAddr::from([10, one, 0, other])
            }
        })
    }

    proptest! {
        #[test]
        fn finds_what_asking_each_would_find(
            networks in prop::collection::vec((address(), 0_u8..=128), 0..12),
            asked in address(),
        ) {
            let networks: Vec<IpNet> = networks
                .into_iter()
                .map(|(address, length)| {
                    let most = if address.is_ipv6() { 128 } else { 32 };
                    IpNet::new(address, length.min(most)).unwrap()
                })
                .collect();
            let mut all = Networks::default();
            for (number, network) in networks.iter().enumerate() {
                all.push(*network, number);
            }
            let found: Vec<_> = all.containing(asked).into_iter().copied().collect();
            let contains = |(number, network): (usize, &IpNet)| network.contains(&asked).then_some(number);
            let expected: Vec<_> = networks.iter().enumerate().filter_map(contains).collect();
            prop_assert_eq!(found, expected);
        }
    }
}

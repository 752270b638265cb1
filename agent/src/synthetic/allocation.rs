//! Which host has which synthetic address. One number per host gives both: `240.240.0.0/16` and `2001:2::/48`, the ranges
//! that Istio takes.
//!
//! The number follows from a hash of the name, so that it mostly survives the loss of all state; a number in use is passed
//! over. A host that goes keeps its number until no other is free: an address in somebody's cache must not come to mean
//! another host. Two hosts never have the same.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The numbers that are given: neither the network's address nor the broadcast one.
const NUMBERS: std::ops::RangeInclusive<u16> = 1..=u16::MAX - 1;
const V4: [u8; 2] = [240, 240];
/// But for the last 16 bits, which are the number.
const V6: u128 = 0x2001_0002 << 96;

/// All synthetic addresses. Serialized as a list of [`Assigned`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Assigned>", into = "Vec<Assigned>")]
pub struct Allocation {
    by_number: BTreeMap<u16, Slot>,
    by_host: HashMap<Arc<str>, u16>,
    /// What ServiceEntries list themselves: not ours to give.
    listed: Vec<IpNet>,
    departures: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    host: Arc<str>,
    /// When its host went, by count; absent: it is there.
    departed: Option<u64>,
}

/// A host and its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// The host.
    pub host: Arc<str>,
    /// Its number.
    pub number: u16,
    /// Counts up with the hosts that went; absent: it is registered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub departed: Option<u64>,
}

/// What an address stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Itself.
    Address,
    /// This host.
    Host(Arc<str>),
    /// A host that is registered no more.
    Departed(Arc<str>),
    /// A synthetic address that nobody has.
    Nobody,
}

impl Allocation {
    /// Gives every one of `hosts` an address, and keeps those that they have. `listed` are addresses that must not be given.
    /// Returns the hosts for which there is none left.
    pub fn update(&mut self, hosts: &BTreeSet<Arc<str>>, listed: Vec<IpNet>) -> Vec<Arc<str>> {
        self.listed = listed;
        let lost: Vec<u16> =
            self.by_number.keys().copied().filter(|number| self.is_listed(*number)).collect();
        for number in lost {
            self.free(number);
        }
        for slot in self.by_number.values_mut() {
            if hosts.contains(&slot.host) {
                slot.departed = None;
            } else if slot.departed.is_none() {
                self.departures = self.departures.saturating_add(1);
                slot.departed = Some(self.departures);
            }
        }
        let mut left_out = Vec::new();
        for host in hosts.iter().filter(|host| !self.by_host.contains_key(*host)).collect::<Vec<_>>() {
            match self.unused(host).or_else(|| self.longest_departed()) {
                Some(number) => {
                    self.free(number);
                    self.by_number.insert(number, Slot { host: Arc::clone(host), departed: None });
                    self.by_host.insert(Arc::clone(host), number);
                }
                None => left_out.push(Arc::clone(host)),
            }
        }
        left_out
    }

    /// The addresses of a registered host.
    pub fn addresses(&self, host: &str) -> Option<(Ipv4Addr, Ipv6Addr)> {
        let number = *self.by_host.get(host)?;
        self.by_number.get(&number).filter(|slot| slot.departed.is_none())?;
        Some((v4(number), v6(number)))
    }

    /// What a workload means that dials `address`.
    pub fn meaning(&self, address: IpAddr) -> Meaning {
        let Some(number) = number(address) else { return Meaning::Address };
        if self.listed.iter().any(|net| net.contains(&address.to_canonical())) {
            return Meaning::Address;
        }
        match self.by_number.get(&number) {
            Some(Slot { host, departed: None }) => Meaning::Host(Arc::clone(host)),
            Some(Slot { host, departed: Some(_) }) => Meaning::Departed(Arc::clone(host)),
            None => Meaning::Nobody,
        }
    }

    /// The first number from the host's own on that nobody has.
    fn unused(&self, host: &str) -> Option<u16> {
        let count = u32::from(u16::MAX) - 1;
        if self.by_number.len() >= count as usize {
            return None;
        }
        let first = hash(host) % count;
        let numbers = (0..count).filter_map(|step| u16::try_from((first + step) % count + 1).ok());
        numbers.into_iter().find(|number| !self.by_number.contains_key(number) && !self.is_listed(*number))
    }

    fn longest_departed(&self) -> Option<u16> {
        let departed = self.by_number.iter().filter_map(|(number, slot)| Some((slot.departed?, *number)));
        departed.min().map(|(_, number)| number)
    }

    fn free(&mut self, number: u16) {
        if let Some(slot) = self.by_number.remove(&number) {
            self.by_host.remove(&slot.host);
        }
    }

    fn is_listed(&self, number: u16) -> bool {
        self.listed
            .iter()
            .any(|net| net.contains(&IpAddr::V4(v4(number))) || net.contains(&IpAddr::V6(v6(number))))
    }
}

impl From<Vec<Assigned>> for Allocation {
    /// What contradicts what came before it is left out.
    fn from(list: Vec<Assigned>) -> Self {
        let mut allocation = Self::default();
        for Assigned { host, number, departed } in list {
            if !NUMBERS.contains(&number)
                || allocation.by_number.contains_key(&number)
                || allocation.by_host.contains_key(&host)
            {
                continue;
            }
            allocation.departures = allocation.departures.max(departed.unwrap_or_default());
            allocation.by_host.insert(Arc::clone(&host), number);
            allocation.by_number.insert(number, Slot { host, departed });
        }
        allocation
    }
}

impl From<Allocation> for Vec<Assigned> {
    fn from(allocation: Allocation) -> Self {
        let slots = allocation.by_number.into_iter();
        slots.map(|(number, Slot { host, departed })| Assigned { host, number, departed }).collect()
    }
}

fn v4(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(V4[0], V4[1], high, low)
}

fn v6(number: u16) -> Ipv6Addr {
    Ipv6Addr::from(V6 | u128::from(number))
}

/// The number of a synthetic address. None: it is not from our ranges, or no number is given for it.
fn number(address: IpAddr) -> Option<u16> {
    let number = match address.to_canonical() {
        IpAddr::V4(ip) => match ip.octets() {
            [a, b, high, low] if [a, b] == V4 => u16::from_be_bytes([high, low]),
            _ => return None,
        },
        IpAddr::V6(ip) => u16::try_from(u128::from(ip).checked_sub(V6)?).ok()?,
    };
    NUMBERS.contains(&number).then_some(number)
}

/// FNV-1a: short, and the same in every version of everything.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests;

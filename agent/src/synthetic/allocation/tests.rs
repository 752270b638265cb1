//! No two hosts with one address, no address that comes to mean another host, and the same ones after a restart.

use proptest::prelude::*;

use super::*;

fn set(hosts: &[String]) -> BTreeSet<Arc<str>> {
    hosts.iter().map(|host| host.as_str().into()).collect()
}

fn named(range: std::ops::Range<u32>) -> BTreeSet<Arc<str>> {
    range.map(|number| format!("h{number}.test").into()).collect()
}

/// Every host an address of its own, which means it and is in the ranges.
fn check(allocation: &Allocation, hosts: &BTreeSet<Arc<str>>) {
    let (v4_range, v6_range): (IpNet, IpNet) =
        ("240.240.0.0/16".parse().unwrap(), "2001:2::/48".parse().unwrap());
    let mut seen = BTreeSet::new();
    for host in hosts {
        let (v4, v6) = allocation.addresses(host).unwrap();
        for (address, range) in [(IpAddr::V4(v4), v4_range), (IpAddr::V6(v6), v6_range)] {
            assert!(range.contains(&address) && seen.insert(address), "{host} has {address}");
            assert_eq!(allocation.meaning(address), Meaning::Host(Arc::clone(host)));
        }
    }
    assert!(!seen.contains(&"240.240.0.0".parse::<IpAddr>().unwrap()));
    assert!(!seen.contains(&"240.240.255.255".parse::<IpAddr>().unwrap()));
}

proptest! {
    #[test]
    fn two_hosts_never_have_one_address_and_assignments_stay(
        steps in prop::collection::vec(prop::collection::vec("[a-c]{1,3}\\.test", 0..30), 1..8)
    ) {
        let mut allocation = Allocation::default();
        let mut ever: HashMap<Arc<str>, _> = HashMap::new();
        for step in &steps {
            let hosts = set(step);
            prop_assert!(allocation.update(&hosts, Vec::new()).is_empty());
            check(&allocation, &hosts);
            for host in &hosts {
                let now = allocation.addresses(host);
                prop_assert_eq!(*ever.entry(Arc::clone(host)).or_insert(now), now, "while running");
            }
            let restarted: Allocation =
                serde_json::from_str(&serde_json::to_string(&allocation).unwrap()).unwrap();
            prop_assert_eq!(Vec::from(restarted), Vec::from(allocation.clone()), "over a restart");
        }
    }

    #[test]
    fn without_any_state_a_lone_host_has_the_same_address(host in "[a-z]{1,20}\\.test", other in "[A-Z]{1,9}") {
        let (mut a, mut b) = (Allocation::default(), Allocation::default());
        a.update(&set(std::slice::from_ref(&host)), Vec::new());
        b.update(&set(&[other]), Vec::new());
        b.update(&set(std::slice::from_ref(&host)), Vec::new());
        // Only a clash with the one that was there before can move it.
        let (a, b) = (a.addresses(&host).unwrap(), b.addresses(&host).unwrap());
        prop_assert!(a == b || u32::from(b.0) == u32::from(a.0) + 1 || u32::from(b.0) & 0xffff == 1);
    }

    #[test]
    fn any_state_file_gives_a_sound_allocation(
        list in prop::collection::vec(("[a-c]\\.test", any::<u16>(), any::<Option<u64>>()), 0..20)
    ) {
        let list: Vec<_> = list
            .into_iter()
            .map(|(host, number, departed)| Assigned { host: host.into(), number: number % 5, departed })
            .collect();
        let mut allocation = Allocation::from(list);
        let hosts = named(0..9);
        prop_assert!(allocation.update(&hosts, Vec::new()).is_empty());
        check(&allocation, &hosts);
    }
}

#[test]
fn addresses_do_not_change_with_the_version() {
    let mut allocation = Allocation::default();
    allocation.update(&set(&["test.com".to_owned()]), Vec::new());
    let (v4, v6) = allocation.addresses("test.com").unwrap();
    assert_eq!((v4.to_string().as_str(), v6.to_string().as_str()), ("240.240.115.5", "2001:2::7305"));
}

#[test]
fn an_address_of_a_host_that_went_means_nobody_else_until_all_are_taken() {
    let all = named(0..u32::from(u16::MAX) - 1);
    let assigned = all.iter().zip(NUMBERS).map(|(host, number)| Assigned {
        host: Arc::clone(host),
        number,
        departed: None,
    });
    let mut allocation = Allocation::from(assigned.collect::<Vec<_>>());
    assert!(allocation.update(&all, Vec::new()).is_empty());
    check(&allocation, &all);

    // One too many: it is named, and nobody is moved for it.
    let more = named(0..u32::from(u16::MAX));
    let left_out = allocation.update(&more, Vec::new());
    assert_eq!(left_out.len(), 1);
    assert_eq!(allocation.addresses(&left_out[0]), None);
    check(&allocation, &all);

    // When two have gone, the one that went first makes room.
    let (first, second): (Arc<str>, Arc<str>) = ("h7.test".into(), "h9.test".into());
    let (old_first, old_second) =
        (allocation.addresses(&first).unwrap().0, allocation.addresses(&second).unwrap().0);
    let mut fewer = all.clone();
    fewer.remove(&first);
    allocation.update(&fewer, Vec::new());
    assert_eq!(allocation.meaning(old_first.into()), Meaning::Departed(Arc::clone(&first)));
    assert_eq!(allocation.addresses(&first), None);
    fewer.remove(&second);
    allocation.update(&fewer, Vec::new());
    fewer.insert("new.test".into());
    assert!(allocation.update(&fewer, Vec::new()).is_empty());
    assert_eq!(allocation.addresses("new.test").unwrap().0, old_first);
    assert_eq!(allocation.meaning(old_second.into()), Meaning::Departed(second));
}

#[test]
fn what_a_service_entry_lists_is_not_given_and_means_itself() {
    let mut allocation = Allocation::default();
    let hosts = named(0..3);
    allocation.update(&hosts, Vec::new());
    let (taken, _) = allocation.addresses("h1.test").unwrap();
    let listed = vec![IpNet::from(IpAddr::V4(taken)), "2001:2::/48".parse().unwrap()];
    assert_eq!(allocation.update(&hosts, listed).len(), 3, "every IPv6 address is listed");
    assert!(allocation.update(&hosts, vec![IpNet::from(IpAddr::V4(taken))]).is_empty());
    check(&allocation, &hosts);
    assert_ne!(allocation.addresses("h1.test").unwrap().0, taken);
    assert_eq!(allocation.meaning(taken.into()), Meaning::Address);
}

#[test]
fn other_addresses_mean_themselves() {
    let mut allocation = Allocation::default();
    allocation.update(&named(0..3), Vec::new());
    for address in
        ["203.0.113.7", "240.241.0.1", "240.240.0.0", "240.240.255.255", "2001:2::1:1", "2001:3::1"]
    {
        assert_eq!(allocation.meaning(address.parse().unwrap()), Meaning::Address, "{address}");
    }
    let host = allocation.addresses("h0.test").unwrap().0;
    assert_eq!(allocation.meaning(host.to_ipv6_mapped().into()), Meaning::Host("h0.test".into()));
    let unused = (1..=9)
        .map(|low| Ipv4Addr::new(240, 240, 0, low))
        .find(|ip| named(0..3).iter().all(|host| allocation.addresses(host).unwrap().0 != *ip));
    assert_eq!(allocation.meaning(unused.unwrap().into()), Meaning::Nobody);
}

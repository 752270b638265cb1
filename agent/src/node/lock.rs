//! Keeps the lock on the links of a workload: finds the host's side of each, locks it, and says what holds.
//!
//! `node::agent` calls it when a workload is enrolled and when it has gone, `node::life` every two seconds and when something changes
//! in one of its network namespaces.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    path::Path,
    time::Duration,
};

use nix::ifaddrs::getifaddrs;
use tokio::{io::unix::AsyncFd, time};

use super::{
    agent::{Agent, Enrolled},
    links::{Way, way},
    locks::Lock,
    netlink::{self, Link},
    netns::Namespace,
    presence::Presences,
    residents::{self, Resident},
    sockets,
    workload::Workload,
};
use crate::datapath::{self, Capture, Device};

/// The pause between two looks: a workload that may change its network does not keep the agent busy with it.
const PAUSE: Duration = Duration::from_millis(100);
/// Addresses of one workload at one link. It may give itself as many as it likes; the table is everybody's.
const MAX_ADDRESSES: usize = 64;

/// The calling thread's network namespace.
const HERE: &str = "/proc/thread-self/ns/net";

/// Why nobody knows whether the lock holds.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The kernel was asked about devices.
    #[error("its network namespace cannot be examined: {0}")]
    Network(#[from] io::Error),
    /// The programs.
    #[error(transparent)]
    Programs(#[from] datapath::Error),
}

/// What was found and done.
struct Outcome {
    lock: Lock,
    /// Programs of the lock that somebody had taken away, or put another before; they are back.
    missing: usize,
}

/// Which workloads are behind a device: several may share a network namespace, and the lock goes with the last of them.
pub(super) type Users = HashMap<u32, HashSet<u32>>;

/// The devices that a workload is behind.
fn of(users: &Users, workload: u32) -> Vec<u32> {
    users.iter().filter(|(_, of)| of.contains(&workload)).map(|(device, _)| *device).collect()
}

/// Locks every link of the workload that can be locked, in all the namespaces it is in. `first`: this process has not looked before; an
/// earlier one may have locked links, and connections go on by those that had no lock. Not by links that appear later: nothing has gone
/// by them, whatever its table of sockets says.
///
/// Not in a namespace that is somebody else's: a process of the workload may be there, but the lock would be for all of them.
fn check(
    capture: &Capture,
    users: &mut Users,
    workload: u32,
    presences: &Presences,
    is_enrolled: impl Fn(&Path) -> bool,
    first: bool,
) -> Result<Outcome, Error> {
    let (mut open, mut missing, mut found) = (Vec::new(), 0, Vec::new());
    if presences.in_agents() {
        open.push("host network".to_owned());
    }
    if first {
        // Before anything can fail: later looks do not ask again.
        for device in capture.locked(workload)? {
            users.entry(device).or_default().insert(workload);
        }
    }
    let locked = of(users, workload);
    for namespace in presences.own_namespaces() {
        let inside = Inside::of(namespace)?;
        let mut devices = Vec::new();
        for link in &inside.links {
            match way(link, inside.agent) {
                Way::Nowhere => {}
                Way::Open(why) => open.push(why),
                Way::Host(index) => devices.push((index, link)),
            }
        }
        // What is locked stays so, whoever has been there for longest by now.
        if devices.iter().any(|(index, _)| !locked.contains(index))
            && let Some(Resident { process, .. }) =
                residents::oldest(namespace.id())?.filter(|oldest| !is_enrolled(&oldest.cgroup))
        {
            open.push(format!(
                "{} is the network of process {process}, which is no workload",
                namespace.id()
            ));
            devices.retain(|(index, _)| locked.contains(index));
        }
        for (index, link) in devices {
            // None: it is just going, and its other end with it.
            let Some(host) = netlink::link(index)? else { continue };
            let older = || if first { namespace.inside(sockets::connections) } else { Ok(Vec::new()) };
            match capture.lock(&Device { index, name: host.name.clone() }, workload, older) {
                Ok(were_missing) => missing += were_missing,
                Err(e) => {
                    open.push(e.to_string());
                    continue;
                }
            }
            users.entry(index).or_default().insert(workload);
            let addresses = inside.addresses.iter().filter(|(name, _)| *name == link.name);
            own(capture, &host, addresses.map(|(_, address)| *address))?;
            found.push(index);
        }
    }
    for device in locked {
        if found.contains(&device) {
            continue;
        }
        if netlink::link(device)?.is_none() {
            users.remove(&device);
            capture.unlock(device)?;
        } else {
            // The workload may have moved its end into another namespace: while the device is there, it stays locked.
            found.push(device);
        }
    }
    let lock = if !open.is_empty() {
        Lock::Open(open.join("; "))
    } else if found.is_empty() {
        Lock::Closed
    } else {
        Lock::Holds
    };
    Ok(Outcome { lock, missing })
}

/// Lets packets out that come from the workload's addresses. What it has when it is first seen is its own. What it adds later is
/// so only where this machine's own routes lead to it by this link: with CAP_NET_ADMIN it can give itself anybody's.
fn own(capture: &Capture, host: &Link, addresses: impl Iterator<Item = IpAddr>) -> Result<(), Error> {
    let mut new = Vec::new();
    for address in addresses {
        if !capture.is_source(host.index, address)? {
            new.push(address);
        }
    }
    if new.is_empty() {
        return Ok(());
    }
    let known = capture.sources(host.index)?;
    let mut count = known.len();
    for address in new {
        if count < MAX_ADDRESSES && (known.is_empty() || belongs(netlink::route(address)?, host)) {
            capture.add_source(host.index, address)?;
            count += 1;
        }
    }
    Ok(())
}

/// Whether what is reached by a device is behind the link: by it, or by the bridge that it is a port of.
fn belongs(reached_by: Option<u32>, host: &Link) -> bool {
    reached_by.is_some_and(|device| device == host.index || Some(device) == host.master)
}

/// What is in a workload's network namespace.
struct Inside {
    links: Vec<Link>,
    /// The number of the agent's namespace there.
    agent: Option<i32>,
    /// Device and address.
    addresses: Vec<(String, IpAddr)>,
}

impl Inside {
    fn of(namespace: &Namespace) -> io::Result<Self> {
        let here = File::open(HERE)?;
        namespace.inside(|| {
            // In this order: listing the devices gives the namespaces at their other ends a number.
            let links = netlink::links()?;
            Ok(Self { links, agent: netlink::number_of(&here)?, addresses: addresses()? })
        })
    }
}

/// Addresses that can be answered beyond a link.
fn addresses() -> io::Result<Vec<(String, IpAddr)>> {
    let found = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let address = v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
        let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        (!address.is_loopback() && !link_local).then_some((interface.interface_name, address))
    });
    Ok(found.collect())
}

/// Has a workload looked at again when something changes about the devices of a namespace it is in. Returns when that cannot be
/// watched: the periodic check is left.
pub(super) async fn watch(enrolled: &Enrolled, namespace: &Namespace) {
    let registered = namespace.inside(netlink::changes).and_then(|changes| {
        // SAFETY: the descriptor is owned, and the AsyncFd owns it.
        Ok(unsafe { AsyncFd::register(changes) }?)
    });
    match registered {
        Ok(changes) => loop {
            // At first, too: something may have changed before changes were told.
            enrolled.changed.notify_one();
            time::sleep(PAUSE).await;
            if let Err(e) = changed(&changes).await {
                tracing::warn!(workload = %enrolled.workload.identity, "changes of its links are seen late: {e}");
                return;
            }
        },
        Err(e) => {
            tracing::warn!(workload = %enrolled.workload.identity, "changes of its links are seen late: {e}");
        }
    }
}

/// Waits for a change, and forgets it: what has changed is looked up.
async fn changed(changes: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut ready = changes.readable().await?;
    let mut bytes = [0; 8192];
    // An overrun (ENOBUFS) is a change as well; anything else has nothing more.
    while matches!(nix::unistd::read(changes, &mut bytes), Ok(_) | Err(nix::Error::ENOBUFS)) {}
    ready.clear_ready();
    Ok(())
}

impl Agent {
    /// Takes the locks of a workload away, where no other is behind them: the last thing that goes, and no check brings them back.
    pub(super) fn release_links(&self, workload: u32) -> Result<(), datapath::Error> {
        let mut users = self.links.lock();
        let mut devices: HashSet<u32> = self.capture.locked(workload)?.into_iter().collect();
        devices.extend(of(&users, workload));
        devices.into_iter().try_for_each(|device| {
            let others = users.get_mut(&device).is_some_and(|of| {
                of.remove(&workload);
                !of.is_empty()
            });
            if others {
                return Ok(());
            }
            users.remove(&device);
            self.capture.unlock(device)
        })
    }

    /// Checks the lock of a workload once, and notes what holds. `first`: see [`check`].
    pub(super) fn check_link(&self, enrolled: &Enrolled, presences: &Presences, first: bool) {
        let Workload { id, identity, .. } = &enrolled.workload;
        let mut users = self.links.lock();
        if enrolled.stop.is_cancelled() {
            return;
        }
        let root = self.hierarchy.root();
        let is_enrolled = |cgroup: &Path| {
            let cgroup = root.join(cgroup);
            let is_in = |workload: &Workload| cgroup.starts_with(&workload.cgroup);
            is_in(&enrolled.workload) || self.all_enrolled().iter().any(|other| is_in(&other.workload))
        };
        let lock = match check(&self.capture, &mut users, *id, presences, is_enrolled, first) {
            Ok(Outcome { lock, missing }) => {
                if missing > 0 {
                    self.counters.programs_reattached.add(missing as u64);
                    tracing::error!(
                        workload = %identity,
                        "{missing} programs of the lock on its link had been taken away by somebody, or another was put \
                         before them; they are back, and what it sent meanwhile may have gone out"
                    );
                }
                lock
            }
            Err(e) => {
                self.counters.checks_failed.increment();
                Lock::Open(e.to_string())
            }
        };
        let before = std::mem::replace(&mut enrolled.locks.lock().link, lock.clone());
        if before != lock {
            match &lock {
                Lock::Open(why) => tracing::warn!(workload = %identity, "no lock on its link: {why}"),
                Lock::Holds => tracing::info!(workload = %identity, "its link is locked"),
                Lock::Closed => {
                    tracing::info!(workload = %identity, "no link leads out of its network namespace");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_behind_the_link_when_the_way_to_it_is() {
        let host = Link { index: 7, master: Some(3), ..Link::default() };
        assert!(belongs(Some(7), &host));
        assert!(belongs(Some(3), &host));
        assert!(!belongs(Some(2), &host), "by the uplink");
        assert!(!belongs(None, &host));
        assert!(!belongs(None, &Link { master: None, ..host }));
    }
}

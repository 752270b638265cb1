//! Namespaces, ports, resolvers.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    thread,
};

use nix::sched::{CloneFlags, unshare};

use super::{Check, Subject};
use crate::{
    admin::{AgentStatus, WorkloadStatus},
    datapath::probe,
    node::netns::{self, Namespace},
};

/// Everything about the network.
pub(super) fn checks(subject: &Subject, agent: Option<&AgentStatus>) -> Vec<Check> {
    let mut checks = vec![namespaces(), link_lock(), reuse("this namespace", None)];
    for WorkloadStatus { workload, .. } in agent.iter().flat_map(|agent| &agent.workloads) {
        if let Some(at) = &workload.namespace {
            checks.push(reuse(&workload.identity.to_string(), Some(at)));
        }
    }
    checks.push(port(
        subject.hbone_address,
        TcpListener::bind(subject.hbone_address).map(drop),
        agent.is_some_and(|agent| {
            agent.gateways.iter().any(|gateway| gateway.address == subject.hbone_address)
        }),
    ));
    checks.push(resolvers(&fs::read_to_string("/etc/resolv.conf")));
    checks
}

/// Makes a namespace, leaves it again: on a thread of its own, whose end is the namespace's.
fn namespaces() -> Check {
    const NAME: &str = "network namespaces";
    let attempt = || -> io::Result<()> {
        let home = fs::canonicalize("/proc/self").map(|own| own.join("ns/net"))?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        netns::enter(&home)
    };
    match thread::scope(|scope| scope.spawn(attempt).join()) {
        Ok(Ok(())) => Check::ok(NAME, "can be made and entered"),
        Ok(Err(error)) => Check::error(NAME, error.to_string(), "run as root (CAP_SYS_ADMIN)"),
        Err(_) => Check::error(NAME, "the probe ended unexpectedly", "report it"),
    }
}

/// Locks a loopback device of its own making, in a namespace that ends with the thread.
fn link_lock() -> Check {
    const NAME: &str = "lock on links";
    let attempt = || match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => probe::lock("lo").map_err(|error| error.why),
        Err(error) => Err(error.to_string()),
    };
    match thread::scope(|scope| scope.spawn(attempt).join()) {
        Ok(Ok(())) => Check::ok(NAME, "can be attached (tcx)"),
        Ok(Err(error)) => Check::warning(
            NAME,
            error,
            "Linux 6.6 or later; without it root in a workload can send frames (AF_PACKET) that nobody sees",
        ),
        Err(_) => Check::error(NAME, "the probe ended unexpectedly", "report it"),
    }
}

/// `tcp_tw_reuse` of the namespace at `at`: connections of one workload go to one loopback port, so source ports that wait
/// out TIME_WAIT are what limits it. Below /proc/sys the reading thread sees its own namespace.
fn reuse(whose: &str, at: Option<&Path>) -> Check {
    let value = at.map(Namespace::open).transpose().and_then(|namespace| {
        netns::inside(namespace.as_ref(), || fs::read_to_string("/proc/sys/net/ipv4/tcp_tw_reuse"))
    });
    judge_reuse(whose, value.as_deref().map(str::trim))
}

fn judge_reuse(whose: &str, value: Result<&str, &io::Error>) -> Check {
    let name = format!("tcp_tw_reuse of {whose}");
    match value {
        Ok(value @ ("1" | "2")) => Check::ok(name, value),
        Ok(value) => Check::warning(
            name,
            format!("{value}: a workload may run out of ports above some 470 new connections per second"),
            "sysctl net.ipv4.tcp_tw_reuse=2 in that namespace",
        ),
        Err(error) => Check::warning(name, error.to_string(), "run egret doctor as root, with /proc mounted"),
    }
}

fn port(address: SocketAddr, bound: io::Result<()>, ours: bool) -> Check {
    let name = format!("tunnel port {address}");
    match bound {
        Ok(()) => Check::ok(name, "free"),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && ours => {
            Check::ok(name, "in use by this instance's gateway")
        }
        Err(error) => Check::error(
            name,
            error.to_string(),
            "end what listens there (`ss -ltnp` names it), or choose another with --hbone-address",
        ),
    }
}

fn resolvers(file: &io::Result<String>) -> Check {
    const NAME: &str = "resolvers";
    const REMEDY: &str =
        "write a `nameserver` line into /etc/resolv.conf: gateway and workloads resolve names by it";
    let text = match file {
        Ok(text) => text,
        Err(error) => return Check::warning(NAME, format!("/etc/resolv.conf: {error}"), REMEDY),
    };
    let words = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    // A zone may follow an IPv6 address.
    let found: Vec<IpAddr> = words.filter_map(|word| word.trim().split('%').next()?.parse().ok()).collect();
    if found.is_empty() {
        return Check::warning(NAME, "none in /etc/resolv.conf", REMEDY);
    }
    let list: Vec<String> = found.iter().map(ToString::to_string).collect();
    if found.iter().all(IpAddr::is_loopback) {
        return Check::ok(
            NAME,
            format!(
                "{}: a stub, which workloads with a namespace of their own do not reach",
                list.join(", ")
            ),
        );
    }
    Check::ok(NAME, list.join(", "))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{judge_reuse, port, resolvers};
    use crate::doctor::Status;

    #[test]
    fn a_port_in_use_is_fine_only_when_it_is_ours() {
        let address = "127.0.0.1:15008".parse().unwrap();
        let taken = || Err(io::ErrorKind::AddrInUse.into());
        assert_eq!(port(address, Ok(()), false).status, Status::Ok);
        assert_eq!(port(address, taken(), true).status, Status::Ok);
        assert_eq!(port(address, taken(), false).status, Status::Error);
        assert_eq!(port(address, Err(io::ErrorKind::AddrNotAvailable.into()), true).status, Status::Error);
    }

    #[test]
    fn resolvers_are_found() {
        let check = |text: &str| resolvers(&Ok(text.to_owned()));
        assert_eq!(check("# none\nsearch x\n").status, Status::Warning);
        assert_eq!(check("nameserver 192.0.2.53\nnameserver fe80::1%eth0\n").finding, "192.0.2.53, fe80::1");
        assert!(check("nameserver 127.0.0.53\n").finding.contains("stub"));
    }

    #[test]
    fn reuse_of_ports_is_judged() {
        assert_eq!(judge_reuse("x", Ok("2")).status, Status::Ok);
        assert_eq!(judge_reuse("x", Ok("0")).status, Status::Warning);
    }
}

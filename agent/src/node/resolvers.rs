//! The DNS resolvers that workloads may ask directly: MeshConfig's, else this machine's, or this node's. Called by `app::agent`.
//!
//! Resolves nothing; `/etc/resolv.conf` is resolv.conf(5).

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
};

use crate::mesh::MeshSettings;

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The port of DNS.
pub const PORT: u16 = 53;

/// The name servers of this machine, as they are now. A machine without the file has none.
pub fn of_machine() -> io::Result<Vec<SocketAddr>> {
    match fs::read_to_string(RESOLV_CONF) {
        Ok(text) => Ok(parse(&text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(io::Error::new(e.kind(), format!("{RESOLV_CONF}: {e}"))),
    }
}

/// Where the kubelet finds the name servers that it gives to pods with `dnsPolicy: Default`, as the first process of the node sees it:
/// by default the first, and the second where systemd-resolved runs, whose stub no other network namespace can ask.
const OF_THE_NODE: [&str; 2] =
    ["/proc/1/root/etc/resolv.conf", "/proc/1/root/run/systemd/resolve/resolv.conf"];

/// The name servers that pods of this node may have been given: the cluster's, which an agent in the node's network has as well
/// (`dnsPolicy: ClusterFirstWithHostNet`), and the node's own.
pub fn of_node() -> io::Result<Vec<SocketAddr>> {
    let own = of_machine()?;
    let of_the_node = OF_THE_NODE.into_iter().filter_map(|path| match fs::read_to_string(path) {
        Ok(text) => Some(parse(&text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => {
            tracing::warn!(
                "pods with the node's own name servers (dnsPolicy: Default) cannot resolve names unless MeshConfig names \
                 dns.resolvers: {path}: {e}"
            );
            None
        }
    });
    Ok(merged(own, of_the_node))
}

/// All of them once, in this order.
fn merged(own: Vec<SocketAddr>, others: impl Iterator<Item = Vec<SocketAddr>>) -> Vec<SocketAddr> {
    let mut all = own;
    for resolver in others.flatten() {
        if !all.contains(&resolver) {
            all.push(resolver);
        }
    }
    all
}

/// What the mesh says, also that there is none; else those of the machine.
pub fn choose<'a>(mesh: &'a MeshSettings, machine: &'a [SocketAddr]) -> &'a [SocketAddr] {
    mesh.resolvers.as_deref().unwrap_or(machine)
}

/// `nameserver` lines. A zone (`fe80::1%eth0`) is left out: programs see addresses only.
fn parse(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
            let address = address.split('%').next()?.parse().ok()?;
            Some(match address {
                IpAddr::V4(ip) => (ip, PORT).into(),
                IpAddr::V6(ip) => SocketAddrV6::new(ip, PORT, 0, 0).into(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameserver_lines_and_nothing_else() {
        let text = "# nameserver 192.0.2.1\nsearch nameserver\nnameserver 192.0.2.53\n\tnameserver\tfe80::1%eth0 # x\n\
                    nameserver\nnameserver nobody\noptions ndots:5\n;nameserver 192.0.2.2";
        let expected: Vec<SocketAddr> =
            ["192.0.2.53:53", "[fe80::1]:53"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn the_cluster_s_resolvers_come_first_and_none_twice() {
        let parsed = |text: &str| parse(text);
        let own = parsed("nameserver 10.96.0.10");
        let others = ["nameserver 127.0.0.53", "nameserver 192.0.2.53\nnameserver 10.96.0.10"].map(parsed);
        let all: Vec<String> = merged(own, others.into_iter()).iter().map(ToString::to_string).collect();
        assert_eq!(all, ["10.96.0.10:53", "127.0.0.53:53", "192.0.2.53:53"]);
    }

    #[test]
    fn the_mesh_decides_where_it_says_something() {
        let machine = ["192.0.2.53:53".parse().unwrap()];
        let mut mesh = MeshSettings::default();
        assert_eq!(choose(&mesh, &machine), machine);
        mesh.resolvers = Some(Vec::new());
        assert_eq!(choose(&mesh, &machine), []);
    }
}

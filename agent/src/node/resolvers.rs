//! The DNS resolvers that workloads may ask directly: MeshConfig's, else this machine's. Called by `app::agent`.
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
    fn the_mesh_decides_where_it_says_something() {
        let machine = ["192.0.2.53:53".parse().unwrap()];
        let mut mesh = MeshSettings::default();
        assert_eq!(choose(&mesh, &machine), machine);
        mesh.resolvers = Some(Vec::new());
        assert_eq!(choose(&mesh, &machine), []);
    }
}

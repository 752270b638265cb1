//! DNS capture: registered hosts by name alone, and everything else as if nobody were between a workload and its resolver.

use std::{
    fs,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use egret_tests::{cgroup::Cgroup, egret::Part, hex::encode, scenario::World, wait};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::{Rig, foreign, namespace};

const CONNECTOR: &str = env!("CARGO_BIN_EXE_connector");
/// A port of the resolver's host at which nobody listens.
const NOBODY: u16 = 5399;
const NXDOMAIN: u8 = 3;
const TRUNCATED: u8 = 0x02;
/// Patience with logs.
const SOON: Duration = Duration::from_secs(10);

/// What the resolver says: nothing is known of `.test` and `.local`, and about the rest it talks too much.
fn reply(query: &[u8], tcp: bool) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2] |= 0x80;
    let has = |label: &[u8]| query.windows(label.len()).any(|window| window == label);
    if has(b"\x04test\x00") || has(b"\x05local\x00") {
        answer[3] = 0x80 | NXDOMAIN;
    } else if tcp {
        answer.resize(20_000, 0xa5);
    } else if has(b"truncated") {
        answer[2] |= TRUNCATED;
    } else {
        answer.resize(3_000, 0x5a);
    }
    answer
}

/// A query for an address of `name`.
fn query(id: u16, name: &str) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).expect("a short label"));
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// Runs `f` in the external service's namespace.
fn outside<T: Send + 'static>(world: &World, f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let namespace = File::open(Path::new("/run/netns").join(world.external.namespace().name()))?;
    let run = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        f()
    };
    thread::spawn(run).join().expect("no panic")
}

/// The resolver outside, by both protocols. Ends with the test.
fn resolver(world: &World) -> Result<SocketAddr> {
    let at = SocketAddr::from((world.external.address(), 53));
    let (udp, tcp) = outside(world, move || Ok((UdpSocket::bind(at)?, TcpListener::bind(at)?)))?;
    thread::spawn(move || {
        let mut query = [0; 2048];
        while let Ok((length, peer)) = udp.recv_from(&mut query) {
            let _ = udp.send_to(&reply(&query[..length], false), peer);
        }
    });
    thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            thread::spawn(move || while let Ok(()) = one_message(&mut stream) {});
        }
    });
    Ok(at)
}

fn one_message(stream: &mut TcpStream) -> Result<()> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut query = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut query)?;
    let answer = reply(&query, true);
    let length = u16::try_from(answer.len())?.to_be_bytes();
    Ok(stream.write_all(&[&length[..], &answer].concat())?)
}

/// A server outside that says its name to whoever connects.
fn server(world: &World, name: &'static str) -> Result<u16> {
    let at = SocketAddr::from((world.external.address(), 0));
    let listener = outside(world, move || Ok(TcpListener::bind(at)?))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = writeln!(stream, "{name}");
        }
    });
    Ok(port)
}

fn mesh(dns: &str) -> String {
    format!(
        "apiVersion: egret.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default, namespace: istio-system}}\n\
         spec: {{outboundTrafficPolicy: {{mode: REGISTRY_ONLY}}, dns: {{{dns}}}}}\n"
    )
}

fn entry(host: &str, port: &str, endpoint: &str) -> String {
    let name = host.replace('.', "-");
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{hosts: [{host}], resolution: STATIC, ports: [{port}], endpoints: [{endpoint}]}}\n"
    )
}

/// The world with a resolver, DNS captured, and three hosts that no resolver knows: two databases on one port, and a web server.
struct Names {
    rig: Rig,
    resolver: SocketAddr,
}

impl Names {
    fn start() -> Result<Option<Self>> {
        let Some(rig) = Rig::start()? else { return Ok(None) };
        let world = &rig.world;
        let resolver = resolver(world)?;
        let address = world.external.address();
        let database = "{number: 5432, name: db, protocol: TCP}";
        for name in ["one", "two"] {
            let at = format!("{{address: {address}, ports: {{db: {}}}}}", server(world, name)?);
            let text = entry(&format!("{name}.test"), database, &at);
            world.egret.reconfigure(|| world.config.write(&format!("{name}.yaml"), &text))?;
        }
        let web =
            entry("web.test", "{number: 80, name: http, protocol: HTTP}", &format!("{{address: {address}}}"));
        world.egret.reconfigure(|| world.config.write("web.yaml", &web))?;
        let names = Self { rig, resolver };
        names.capture(true)?;
        fs::write(
            names.resolv_conf(),
            format!(
                "search default.svc.cluster.local\nnameserver {}\noptions ndots:5 timeout:2\n",
                resolver.ip()
            ),
        )?;
        Ok(Some(names))
    }

    fn resolv_conf(&self) -> std::path::PathBuf {
        self.rig.directory.path().join("resolv.conf")
    }

    fn capture(&self, capture: bool) -> Result<()> {
        let ip = self.resolver.ip();
        let text = mesh(&format!("capture: {capture}, resolvers: [{ip}, '{ip}:{NOBODY}']"));
        let world = &self.rig.world;
        world.egret.reconfigure(|| world.config.write("mesh.yaml", &text))?;
        self.applied(capture)
    }

    /// The agent reads the configuration by itself: waits until a workload's queries go where they should.
    fn applied(&self, capture: bool) -> Result<()> {
        let mut asker = Asker::start(&self.rig.world, false)?;
        wait::until("the agent's configuration", SOON, || {
            let ours = asker.resolves("web.test", self.resolver)?.is_some();
            Ok((ours == capture).then_some(()))
        })
    }

    /// A shell command of a workload that asks our resolver.
    fn run(&self, own_namespace: bool, command: &str) -> Result<Output> {
        let script = format!("mount --bind {} /etc/resolv.conf && {command}", self.resolv_conf().display());
        let mut exec = self.rig.world.egret.exec("default/sleep", own_namespace);
        Ok(exec.args(["unshare", "--mount", "bash", "-c", &script]).output()?)
    }
}

/// A workload that speaks DNS with whomever it is told to.
struct Asker {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Asker {
    fn start(world: &World, own_namespace: bool) -> Result<Self> {
        let mut command = world.egret.exec("default/sleep", own_namespace);
        command.arg(CONNECTOR);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Result<Self> {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let commands = process.stdin.take().context("piped")?;
        let answers = BufReader::new(process.stdout.take().context("piped")?);
        Ok(Self { process, commands, answers })
    }

    fn run(&mut self, command: &str) -> Result<String> {
        writeln!(self.commands, "{command}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        Ok(answer.trim_end().to_owned())
    }

    fn exchange(&mut self, protocol: &str, query: &[u8], resolver: SocketAddr) -> Result<String> {
        self.run(&format!("exchange {protocol} {} {resolver}", encode(query)))
    }

    /// The address at the end of the answer, if it is not that there is no such name.
    fn resolves(&mut self, name: &str, resolver: SocketAddr) -> Result<Option<String>> {
        let answer = self.exchange("udp", &query(7, name), resolver)?;
        let Some(answer) = answer.strip_prefix("ok ") else { bail!("{name}: {answer}") };
        let code = answer.as_bytes()[7];
        Ok((code == b'0').then(|| answer[answer.len() - 8..].to_owned()))
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn two_opaque_hosts_on_one_port_are_told_apart_by_name() -> Result<()> {
    let Some(names) = Names::start()? else { return Ok(()) };
    let log = names.rig.world.egret.access_log();
    for own_namespace in [false, true] {
        for name in ["one", "two"] {
            let mark = log.mark();
            let said =
                names.run(own_namespace, &format!("exec 3<>/dev/tcp/{name}.test/5432 && head -n 1 <&3"))?;
            assert_eq!(text(&said), format!("{name}\n"), "{said:?}");
            let host = format!("{name}.test");
            let lines = log.wait_since(mark, SOON, |line| line["dialled_host"] == host.as_str())?;
            let line = lines.iter().find(|line| line["dialled_host"] == host.as_str()).context("a line")?;
            let is =
                |field: &str, start: &str| line[field].as_str().is_some_and(|text| text.starts_with(start));
            ensure!(is("upstream_cluster", &format!("outbound|5432||{host}")), "{line}");
            ensure!(
                is("downstream_local_address", "240.240.") || is("downstream_local_address", "[2001:2::"),
                "{line}"
            );
            ensure!(is("upstream_host", &names.rig.world.external.address().to_string()), "{line}");
        }
    }
    let flows = names.rig.world.egret.flows()?;
    let list = flows.as_array().context("a list")?;
    for host in ["one.test", "two.test"] {
        let said = |flow: &Value, side: &str| {
            flow[side]["host"] == host
                && flow[side]["original_destination"].as_str().is_some_and(|to| to.ends_with(":5432"))
        };
        ensure!(list.iter().any(|flow| said(flow, "agent") && said(flow, "gateway")), "{host}: {flows}");
    }
    Ok(())
}

#[test]
fn a_host_without_public_dns_is_reached_by_its_name() -> Result<()> {
    let Some(names) = Names::start()? else { return Ok(()) };
    for own_namespace in [false, true] {
        let got = names.run(
            own_namespace,
            "curl --silent --max-time 20 --output /dev/null --write-out '%{http_code}' http://web.test/status/200",
        )?;
        assert_eq!(text(&got), "200", "{got:?}");
        // What the C library makes of the search list is not answered by accident, and what is not registered not at all.
        for (name, found) in [("web.test", true), ("WEB.test.", true), ("other.test", false)] {
            let got = names.run(own_namespace, &format!("getent ahosts {name}"))?;
            assert_eq!(text(&got).contains("240.240."), found, "{name}: {got:?}");
        }
    }
    let mut asker = Asker::start(&names.rig.world, false)?;
    assert_eq!(asker.resolves("web.test.default.svc.cluster.local", names.resolver)?, None);
    Ok(())
}

#[test]
fn foreign_names_are_forwarded_as_they_are() -> Result<()> {
    let Some(names) = Names::start()? else { return Ok(()) };
    for own_namespace in [false, true] {
        let mut asker = Asker::start(&names.rig.world, own_namespace)?;
        for (id, name) in [(1, "foreign.example"), (0xffff, "truncated.example")] {
            let query = query(id, name);
            for (protocol, tcp) in [("udp", false), ("tcp", true)] {
                let answer = asker.exchange(protocol, &query, names.resolver)?;
                assert_eq!(answer, format!("ok {}", encode(&reply(&query, tcp))), "{name} by {protocol}");
            }
        }
        // By TCP, registered names are answered like by UDP.
        let answer = asker.exchange("tcp", &query(9, "one.test"), names.resolver)?;
        assert_eq!(&answer[..7], "ok 0009");
        assert_eq!(
            answer[answer.len() - 8..],
            asker.resolves("one.test", names.resolver)?.context("an address")?
        );
        // Who has not been configured is not asked, at another port of the resolver neither.
        let elsewhere = SocketAddr::from((names.rig.world.external.namespace().host_address(), 53));
        for address in [elsewhere, SocketAddr::new(names.resolver.ip(), 5353)] {
            let refused = asker.run(&format!("send x {address}"))?;
            assert_eq!(refused, format!("errno {}", nix::libc::ECONNREFUSED), "{address}");
        }
    }
    Ok(())
}

#[test]
fn a_resolver_that_is_away_is_said_to_fail() -> Result<()> {
    let Some(names) = Names::start()? else { return Ok(()) };
    let mut asker = Asker::start(&names.rig.world, false)?;
    let away = SocketAddr::new(names.resolver.ip(), NOBODY);
    for protocol in ["udp", "tcp"] {
        let answer = asker.exchange(protocol, &query(0x1234, "foreign.example"), away)?;
        // SERVFAIL, with recursion, to the query of this id.
        assert_eq!(answer.get(..11), Some("ok 12348182"), "{protocol}: {answer}");
        assert!(asker.resolves("one.test", away)?.is_some(), "what is ours needs no resolver");
    }
    let counters = names.rig.world.egret.status()?["agent"]["counters"].clone();
    assert_eq!(counters["dns_failed"], 2, "{counters}");
    Ok(())
}

#[test]
fn capture_is_switched_while_workloads_run() -> Result<()> {
    let Some(names) = Names::start()? else { return Ok(()) };
    let mut asker = Asker::start(&names.rig.world, false)?;
    let address = asker.resolves("one.test", names.resolver)?.context("captured")?;
    names.capture(false)?;
    assert_eq!(asker.resolves("one.test", names.resolver)?, None, "nobody is between them");
    names.capture(true)?;
    assert_eq!(asker.resolves("one.test", names.resolver)?, Some(address), "the same address");
    Ok(())
}

#[test]
fn in_each_network_namespace_of_a_workload_resolvers_are_asked_from_there() -> Result<()> {
    let Some(rig) = Rig::start()? else { return Ok(()) };
    let (world, network) = (&rig.world, namespace()?);
    let resolver = SocketAddr::from((network.host_address(), 53));
    let socket = UdpSocket::bind(resolver)?;
    let (said, sources) = mpsc::channel();
    thread::spawn(move || {
        let mut query = [0; 2048];
        while let Ok((length, peer)) = socket.recv_from(&mut query) {
            let _ = said.send(peer.ip());
            let _ = socket.send_to(&reply(&query[..length], false), peer);
        }
    });
    let one = entry("one.test", "{number: 80, name: http, protocol: HTTP}", "{address: 192.0.2.1}");
    world.egret.reconfigure(|| world.config.write("one.yaml", &one))?;
    let capture = |capture: bool| {
        let text = mesh(&format!("capture: {capture}, resolvers: [{}]", resolver.ip()));
        world.egret.reconfigure(|| world.config.write("mesh.yaml", &text))
    };
    capture(true)?;
    let cgroup = Cgroup::new()?;
    foreign::enroll(world, ["--cgroup", &cgroup.path().to_string_lossy()])?;

    let within = format!("ip netns exec {} {CONNECTOR}", network.name());
    let mut places = [
        (Asker::spawn(foreign::inside(cgroup.path(), CONNECTOR))?, resolver.ip()),
        (Asker::spawn(foreign::inside(cgroup.path(), &within))?, network.address().into()),
    ];
    for (switched, captured) in [(false, true), (true, false), (true, true)] {
        if switched {
            capture(captured)?;
        }
        for (asker, from) in &mut places {
            let seen = wait::until("the agent's configuration", SOON, || {
                // Refused until the agent has found the namespace, or listens again.
                let Ok(address) = asker.resolves("one.test", resolver) else { return Ok(None) };
                Ok((address.is_some() == captured).then_some(address))
            })?;
            assert_eq!(seen.is_some(), captured);
            while sources.try_recv().is_ok() {}
            let answer = asker.exchange("udp", &query(0x1234, "foreign.example"), resolver)?;
            assert_eq!(answer.get(..7), Some("ok 1234"), "{answer}");
            assert_eq!(sources.recv_timeout(SOON)?, *from, "captured: {captured}");
        }
    }
    let counters = world.egret.status()?["agent"]["counters"].clone();
    assert_eq!((&counters["dns_forwarded"], &counters["dns_failed"]), (&4.into(), &0.into()), "{counters}");
    Ok(())
}

#[test]
fn addresses_survive_the_agent() -> Result<()> {
    let Some(names) = Names::start()? else { return Ok(()) };
    let world = &names.rig.world;
    let mut asker = Asker::start(world, false)?;
    let before = asker.resolves("one.test", names.resolver)?.context("captured")?;
    world.egret.kill(Part::Agent)?;
    // Refused, or lost with the socket of the agent that was just being killed. Never: that there is no such name.
    let without = [nix::libc::ECONNREFUSED, nix::libc::EAGAIN].map(|errno| format!("errno {errno}"));
    let question = query(7, "one.test");
    wait::until("the next agent", Duration::from_secs(30), || {
        let answer = asker.exchange("udp", &question, names.resolver)?;
        let refused = without.contains(&answer);
        ensure!(refused || answer.starts_with("ok 00078580"), "{answer}");
        Ok((!refused).then_some(()))
    })?;
    assert_eq!(asker.resolves("one.test", names.resolver)?, Some(before));
    let state = fs::read_to_string(world.egret.run_dir().join("synthetic.json"))?;
    assert!(state.contains("one.test") && state.contains("web.test"), "{state}");
    Ok(())
}

#[test]
fn an_address_of_a_host_that_went_is_refused() -> Result<()> {
    let Some(names) = Names::start()? else { return Ok(()) };
    let world = &names.rig.world;
    let mut asker = Asker::start(world, false)?;
    let hex = asker.resolves("web.test", names.resolver)?.context("captured")?;
    let bytes = u32::from_str_radix(&hex, 16)?.to_be_bytes();
    let url = format!("http://{}/status/200", std::net::Ipv4Addr::from(bytes));
    let arguments = ["--header", "host: web.test", &url];
    assert_eq!(world.egret.curl("default/sleep", false, &arguments)?.status, Some(200));
    world.egret.reconfigure(|| world.config.remove("web.yaml"))?;
    wait::until("the agent's configuration", SOON, || {
        Ok(asker.resolves("web.test", names.resolver)?.is_none().then_some(()))
    })?;
    let refused = world.egret.curl("default/sleep", false, &arguments)?;
    assert_eq!(refused.status, Some(502), "{}", refused.summary());
    assert!(refused.summary().contains("stale_address"), "{}", refused.summary());
    Ok(())
}

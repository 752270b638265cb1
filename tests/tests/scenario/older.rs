//! Connections that running services have when they are enrolled: they go on, end at their time, or end at once, as the mesh or
//! the WorkloadBinding says; those from outside go on; and an agent that starts again judges none of them twice.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};
use egret::node::netns;
use egret_tests::{
    application::{Application, assert_ended, echo},
    cgroup::Cgroup,
    egret::Part,
    netns::Namespace,
    scenario::World,
    wait,
};
use serde_json::Value;

use crate::{Rig, foreign::enrolled, namespace};

const PATIENCE: Duration = Duration::from_secs(15);
/// How long connections are kept that are kept for a time: the next agent has to start meanwhile.
const KEPT: Duration = Duration::from_secs(20);

/// A service with a connection to the outside, and one from there.
struct Service {
    cgroup: Cgroup,
    caller: Application,
    far_end: JoinHandle<io::Result<()>>,
    server: Application,
    client: TcpStream,
}

impl Service {
    /// In the host's network; the other namespace is outside.
    fn start(outside: &Namespace) -> Result<Self> {
        let far = netns::Namespace::open(&Path::new("/run/netns").join(outside.name()))?;
        Self::connected(Cgroup::new()?, None, Some(&far), [outside.host_address(), outside.address()])
    }

    /// In a network of its own; the host is outside.
    fn start_in(own: &Namespace) -> Result<Self> {
        Self::connected(Cgroup::new()?, Some(own), None, [own.address(), own.host_address()])
    }

    fn connected(
        cgroup: Cgroup,
        own: Option<&Namespace>,
        far: Option<&netns::Namespace>,
        [inside, outside]: [Ipv4Addr; 2],
    ) -> Result<Self> {
        let application = || {
            own.map_or_else(
                || Application::start(Some(&cgroup)),
                |own| Application::start_in(own, Some(&cgroup)),
            )
        };
        let (mut caller, mut server) = (application(), application());
        let listener = netns::inside(far, || TcpListener::bind((outside, 0)))?;
        let address = listener.local_addr()?;
        assert_eq!(caller.run(&format!("keep connect {address}")), format!("ok {address}"));
        let far_end = echo(listener.accept()?.0);
        let at = server.run(&format!("keep listener {inside}:0"));
        let at = at.strip_prefix("ok ").context("a listener")?.to_owned();
        let client = netns::inside(far, || TcpStream::connect(at))?;
        client.set_read_timeout(Some(PATIENCE))?;
        let mut service = Self { cgroup, caller, far_end, server, client };
        service.goes_on();
        Ok(service)
    }

    #[track_caller]
    fn goes_on(&mut self) {
        assert_eq!(self.caller.run("talk hello"), "ok hello");
    }

    /// What came from outside is answered, whatever becomes of the rest.
    #[track_caller]
    fn serves(&mut self) {
        assert_eq!(self.server.run("serve 100000"), "ok done");
        let mut bytes = Vec::new();
        assert_eq!(self.client.read_to_end(&mut bytes).expect("answered"), 100_000);
    }

    fn path(&self) -> &str {
        self.cgroup.path().to_str().expect("a name of ours")
    }

    /// What the agent knows of its sockets, once that is so.
    fn wait(&self, world: &World, what: &str, so: impl Fn(&Value) -> bool) -> Result<Value> {
        wait::until(what, PATIENCE, || {
            // An agent that has just started may not answer yet.
            let Ok(status) = world.egret.status() else { return Ok(None) };
            let workloads = status["workloads"].as_array().context("no workloads")?;
            let ours = workloads.iter().find(|workload| workload["cgroup"] == self.path());
            Ok(ours.filter(|workload| so(workload)).map(|workload| workload["sockets"].clone()))
        })
    }

    /// Waits until its sockets have been looked at under `mode`.
    fn looked(&self, world: &World, mode: &str) -> Result<Value> {
        self.wait(world, "its sockets to be looked at", |workload| {
            workload["sockets"]["existingConnections"]["mode"] == mode
        })
    }

    /// By hand, under the policy of the mesh.
    fn enroll(&self, world: &World, mode: &str) -> Result<Value> {
        wait::until("the agent to know the policy", PATIENCE, || {
            let workload = enrolled(world, ["--cgroup", self.path()])?;
            if workload["existing"]["mode"] == mode {
                return Ok(Some(()));
            }
            // Under the last one, which ends nothing earlier.
            world.egret.verb("release").arg(workload["id"].to_string()).output()?;
            Ok(None)
        })?;
        self.looked(world, mode)
    }
}

fn mesh(world: &World, existing: &str) -> Result<()> {
    let document = format!(
        "apiVersion: egret.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default, namespace: istio-system}}\n\
         spec: {{outboundTrafficPolicy: {{mode: ALLOW_ANY}}, existingConnections: {existing}}}\n"
    );
    world.egret.reconfigure(|| world.config.write("mesh.yaml", &document))
}

fn counter(world: &World, name: &str) -> Result<Value> {
    Ok(world.egret.status()?["agent"]["counters"][name].clone())
}

#[test]
fn existing_connections_are_treated_as_the_mesh_says() -> Result<()> {
    let Some(rig) = Rig::start()? else { return Ok(()) };
    let world = &rig.world;
    let outside = world.external.namespace();
    let mut reported = Service::start(outside)?;
    let mut kept = Service::start(outside)?;
    let mut reset = Service::start(outside)?;
    let own = namespace()?;
    let mut reset_in_its_own = Service::start_in(&own)?;

    mesh(world, "{mode: REPORT}")?;
    assert_eq!(reported.enroll(world, "REPORT")?["older"], 1);
    mesh(world, &format!("{{mode: KEEP_UNTIL, keepFor: {}s}}", KEPT.as_secs()))?;
    let found = kept.enroll(world, "KEEP_UNTIL")?;
    let until: jiff::Timestamp =
        found["existingConnections"]["until"].as_str().context("no time")?.parse()?;
    assert_eq!(found["older"], 1);
    mesh(world, "{mode: RESET}")?;
    for service in [&reset, &reset_in_its_own] {
        assert_eq!(service.enroll(world, "RESET")?["older"], 0);
    }
    assert_eq!(counter(world, "older_ended")?, 2);
    for service in [&mut reset, &mut reset_in_its_own] {
        let far_end = std::mem::replace(&mut service.far_end, std::thread::spawn(|| Ok(())));
        assert_ended(&mut service.caller, far_end);
        service.serves();
    }
    reported.goes_on();
    kept.goes_on();

    // The next agent finds what the last one wrote down.
    let killed = world.egret.kill(Part::Agent)?;
    wait::until("the next agent", PATIENCE, || {
        Ok(world.egret.pid(Part::Agent).is_ok_and(|pid| pid != killed).then_some(()))
    })?;
    assert_eq!(reported.looked(world, "REPORT")?["older"], 1);
    assert_eq!(kept.looked(world, "KEEP_UNTIL")?["older"], 1);
    reported.goes_on();
    kept.goes_on();
    assert!(jiff::Timestamp::now() < until, "too slow");

    let over = wait::until("its time to be over", KEPT + PATIENCE, || {
        Ok((counter(world, "older_ended")? == 1).then(jiff::Timestamp::now))
    })?;
    assert!(over >= until, "{over} is before {until}");
    assert_ended(&mut kept.caller, kept.far_end);
    assert_eq!(kept.server.run("serve 1"), "ok done");
    reported.goes_on();
    reported.serves();
    for name in ["escaped", "socket_checks_failed", "dropped_older_connection"] {
        assert_eq!(counter(world, name)?, 0, "{name}");
    }
    Ok(())
}

#[test]
fn a_binding_says_what_happens_to_the_connections_of_its_workloads() -> Result<()> {
    let Some(rig) = Rig::start()? else { return Ok(()) };
    let world = &rig.world;
    let mut service = Service::start(world.external.namespace())?;
    mesh(world, "{mode: RESET}")?;
    let name = service.cgroup.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bind = |account: &str, existing: &str| {
        let document = format!(
            "apiVersion: egret.dev/v1alpha1\nkind: WorkloadBinding\nmetadata: {{name: old, namespace: default}}\n\
             spec: {{serviceAccount: {account}, cgroups: [{{path: {name}}}], existingConnections: {existing}}}\n"
        );
        world.egret.reconfigure(|| world.config.write("bindings.yaml", &document))
    };
    bind("first", "{mode: REPORT}")?;
    assert_eq!(service.looked(world, "REPORT")?["older"], 1);
    service.goes_on();

    // What it is now has the same connections, which are known.
    bind("second", "{mode: REPORT}")?;
    let found = service.wait(world, "another identity", |workload| {
        workload["identity"].as_str().is_some_and(|identity| identity.ends_with("/second"))
            && workload["sockets"]["existingConnections"].is_object()
    })?;
    assert_eq!((&found["older"], &found["escaped"]), (&1.into(), &0.into()));
    service.goes_on();

    bind("second", "{mode: RESET}")?;
    assert_eq!(service.looked(world, "RESET")?["older"], 0);
    assert_ended(&mut service.caller, service.far_end);
    assert_eq!(service.server.run("serve 1"), "ok done");
    for (name, count) in [("older_ended", 1), ("escaped", 0), ("socket_checks_failed", 0)] {
        assert_eq!(counter(world, name)?, count, "{name}");
    }
    Ok(())
}

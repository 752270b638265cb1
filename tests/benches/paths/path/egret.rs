//! Egret: a workload in its own cgroup and network namespace, like a pod; `egret up` on this machine; the demo's configuration
//! up to its sixth step.

use std::{fmt::Write as _, net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use egret_tests::{
    cgroup::Cgroup,
    config::{Config, GOOD},
    egret::{Egret, Part, workspace},
    process::Process,
};

use super::{Ground, Running, client_side, namespace_of};
use crate::{place, policies};

/// What is in force after the demo's sixth step.
const FILES: [&str; 6] = [
    "2-registry-only/mesh.yaml",
    "3-service-entry/service-entry.yaml",
    "4-egress-gateway/gateway.yaml",
    "5-mutual-tls/virtual-service.yaml",
    "5-mutual-tls/destination-rule.yaml",
    "6-authorization/authorization-policy.yaml",
];
const WORKLOAD: &str = "default/sleep";

/// Puts it in place, with so many more policies and service entries.
pub(super) fn up(running: &mut Running, ground: &Ground, policies: usize, entries: usize) -> Result<()> {
    let config = configuration(running, ground, policies, entries)?;
    running.namespace = Some(client_side()?);
    let gateway = namespace_of(running)?.host_address();
    let run_dir = ground.run_dir();
    let egret = running.egret.insert(Egret::up(&ground.peers.egret, config.path(), &run_dir, gateway)?);
    let problems = egret.config_problems()?;
    let refused = problems.iter().find(|problem| problem["severity"] == "error");
    ensure!(refused.is_none(), "an object is refused: {refused:?}");
    running.logs.push(egret.access_log().path().to_owned());
    let proxies = running.proxies.insert(place::cgroup()?);
    // The processor time of a cgroup is also that of those below it; its processes are its own only.
    let beside = running.beside.insert(proxies.child("beside")?);
    let move_to = |cgroup: &Cgroup, part| {
        let process = egret.pid(part)?.as_raw().unsigned_abs();
        cgroup.add(process).with_context(|| format!("{part:?}"))
    };
    [Part::Gateway, Part::Agent].into_iter().try_for_each(|part| move_to(proxies, part))?;
    [Part::Supervisor, Part::Ca].into_iter().try_for_each(|part| move_to(beside, part))?;

    // The process by which the workload's namespace is found.
    let mut command = place::command(running.namespace.as_ref(), &running.client, Path::new("sleep"));
    let resident = Process::spawn("the workload", command.arg("infinity"))?;
    let cgroup = running.client.path().join("cgroup.procs");
    egret_tests::wait::until("the workload in its cgroup", super::PATIENCE, || {
        Ok(std::fs::read_to_string(&cgroup)?.contains(&resident.id().to_string()).then_some(()))
    })?;
    running.add(resident);
    let Some(egret) = &running.egret else { bail!("egret is gone") };
    let mut enroll = egret.verb("enroll");
    let output = enroll.arg("--cgroup").arg(running.client.path()).arg(WORKLOAD).output()?;
    ensure!(output.status.success(), "not enrolled: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn configuration(running: &Running, ground: &Ground, policies: usize, entries: usize) -> Result<Config> {
    let config = Config::for_address(
        &running.directory.join("config"),
        &workspace().join("deploy/demo"),
        ground.server.address(),
    )?;
    FILES.iter().try_for_each(|file| config.apply(file))?;
    config.write_secret_of(ground.server.certificates(), GOOD)?;
    let mut text = String::new();
    for policy in policies::allowed(policies) {
        writeln!(
            text,
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: {name}, namespace: istio-system}}\n\
             spec:\n  action: ALLOW\n  selector: {{matchLabels: {{istio: egressgateway}}}}\n  rules:\n  \
             - from: [{{source: {{principals: [{principal}]}}}}]\n    \
             to: [{{operation: {{hosts: [{host}], methods: [{methods}]}}}}]",
            name = policy.name,
            principal = policy.principal,
            host = policy.host,
            methods = policies::METHODS.join(", "),
        )?;
    }
    config.write("policies.yaml", &text)?;
    if entries > 0 {
        config.write("entries.yaml", &service_entries(entries)?)?;
    }
    Ok(config)
}

fn service_entries(count: usize) -> Result<String> {
    let mut text = String::new();
    for number in 0..count {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + u32::try_from(number)?);
        writeln!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
             metadata: {{name: service-{number}, namespace: default}}\n\
             spec:\n  hosts: [service-{number}.example.com]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  \
             endpoints: [{{address: {address}}}]\n  \
             ports: [{{name: http, number: 80, protocol: HTTP}}, {{name: http-alt, number: 8080, protocol: HTTP}}]"
        )?;
    }
    Ok(text)
}

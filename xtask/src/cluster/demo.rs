//! `cargo xtask cluster demo`: the scenario on a cluster, from the build to the flow table, and nothing left of it afterwards.
//!
//! The steps and what proves them are `egret_tests::scenario`, the same as of `cargo xtask demo` and the cluster test. Here is where
//! the cluster comes from, and what a person sees.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use egret_tests::{
    cluster::{Cluster, release::Release},
    egret::workspace,
    external::External,
    netns::Namespace,
    scenario::{
        self, OUTSIDE, OnCluster, STEPS, Stage as _,
        on_cluster::{self, Client, LAST_LINE},
    },
    wait,
};

use super::{
    build, gone,
    install::{self, Source},
    machine_allows,
};
use crate::{demo, packages, terminal::Terminal};

/// Certificates and the external service's log.
const WORK_DIR: &str = "/run/egret-cluster-demo-files";
/// The cluster that the demo starts for itself.
const NAME: &str = "demo";

/// Options of the demo.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// Leave everything running at the end, to play with, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Use the cluster of this name that `cluster up` started, and leave it running
    #[arg(long, value_name = "NAME")]
    on: Option<String>,
    /// With KUBECONFIG: this machine's address as the cluster's pods reach it; the external service listens there on ports 80 and 443
    #[arg(long, value_name = "ADDRESS")]
    outside: Option<Ipv4Addr>,
    /// With KUBECONFIG: the image of the pods that call out, with curl, sleep and ip
    #[arg(long, value_name = "IMAGE", default_value = "curlimages/curl:latest")]
    client: String,
}

/// Runs the demo. It succeeds when every step passed and nothing was left behind.
pub(super) fn run(options: &Options, terminal: &mut Terminal) -> Result<()> {
    let started = Instant::now();
    terminal.title("Egret on Kubernetes: a DaemonSet, a label, a shared gateway")?;
    machine_allows()?;
    let _lock = demo::lock("cluster-demo")?;
    packages::ensure(terminal)?;
    remove_work()?;
    let ran = match (install::foreign(), &options.on) {
        (Some(kubeconfig), None) => there(options, terminal, &kubeconfig),
        (Some(_), Some(_)) => bail!("KUBECONFIG and --on name two clusters: give one of them"),
        (None, Some(name)) => on(options, terminal, name),
        (None, None) => from_nothing(options, terminal),
    };
    let removed = remove_work();
    ran.and(removed)?;
    terminal.good(&format!("All passed, in {:.1} s.", started.elapsed().as_secs_f32()))
}

/// In a cluster of its own.
fn from_nothing(options: &Options, terminal: &mut Terminal) -> Result<()> {
    let tools = build::tools(terminal)?;
    let image = options.source.build(terminal)?;
    let external = options.source.external()?;
    let cluster = super::start(terminal, NAME, tools)?;
    let walked = cluster.import_image(&image.path).and_then(|()| {
        let release = Source::here(&cluster);
        terminal.section("Installing Egret")?;
        install::install(terminal, &release, &["gateway.replicas=1"])?;
        let client = Client::of_tests();
        let external = External::start(&external, cluster.internet(), Path::new(WORK_DIR))?;
        walk(options, terminal, &release, external, &client)
    });
    terminal.section("Cleaning up")?;
    let removed = cluster.remove().and_then(|()| terminal.good(&gone(NAME)?));
    walked.and(removed)
}

/// In one that `cluster up` started.
fn on(options: &Options, terminal: &mut Terminal, name: &str) -> Result<()> {
    let cluster = Cluster::attach(name, &build::tools(terminal)?)?;
    let image = options.source.build(terminal)?;
    let external = options.source.external()?;
    let release = Source::here(&cluster);
    if release.revision()?.is_none() {
        cluster.import_image(&image.path)?;
    }
    let external = External::start(&external, cluster.internet(), Path::new(WORK_DIR))?;
    visit(options, terminal, &release, external, &Client::of_tests())
}

/// Where `KUBECONFIG` points to.
fn there(options: &Options, terminal: &mut Terminal, kubeconfig: &Path) -> Result<()> {
    let Some(address) = options.outside else {
        bail!(
            "the external service runs on this machine: name the address at which the cluster's pods reach it with --outside"
        );
    };
    let release = options.source.there(&build::tools(terminal)?, kubeconfig);
    let pods = release.kube().get(&["pods", "-n", "default"])?;
    let ours = |pod: &serde_json::Value| {
        pod["metadata"]["labels"]["app"]
            .as_str()
            .is_some_and(|app| ["sleep", "other", "sleep-isolated"].contains(&app))
    };
    let others = pods["items"].as_array().into_iter().flatten().find(|pod| !ours(pod));
    if let Some(pod) = others {
        let name = &pod["metadata"]["name"];
        bail!(
            "the demo enrols the namespace default of that cluster, where pod {name} is already: it wants one without pods of others"
        );
    }
    terminal.busy("building the command line")?;
    options.source.compile()?;
    let external = External::start(
        &options.source.external()?,
        Namespace::of_this_machine(address),
        Path::new(WORK_DIR),
    )?;
    let client = Client { image: options.client.clone(), pull_policy: "IfNotPresent".to_owned() };
    visit(options, terminal, &release, external, &client)
}

/// Walks, and leaves Egret as it was in the cluster: of the same values, or not there.
fn visit(
    options: &Options,
    terminal: &mut Terminal,
    release: &Release,
    external: External,
    client: &Client,
) -> Result<()> {
    let before = release.revision()?;
    let installed = before.map_or_else(
        || {
            terminal.section("Installing Egret")?;
            install::install(terminal, release, &["gateway.replicas=1"])
        },
        |_| Ok(()),
    );
    let walked = installed.and_then(|()| walk(options, terminal, release, external, client));
    terminal.section("Cleaning up")?;
    let removed = on_cluster::remove(release.kube());
    let restored = match before {
        Some(revision) => release.roll_back(revision),
        None => release.uninstall(),
    };
    let said = removed.and(restored).and_then(|()| {
        terminal.good(match before {
            Some(_) => "The demo's pods and objects are gone, Egret is as it was",
            None => "The demo's pods and objects are gone, Egret is uninstalled",
        })
    });
    walked.and(said)
}

/// Walks the steps.
fn walk(
    options: &Options,
    terminal: &mut Terminal,
    release: &Release,
    external: External,
    client: &Client,
) -> Result<()> {
    terminal.section("Enrolling the namespace default, starting sleep")?;
    let started = Instant::now();
    let work = PathBuf::from(WORK_DIR).join("credential");
    let world = OnCluster::start(release, external, client, &workspace().join("deploy/demo"), &work)?;
    terminal.command("kubectl label namespace default egret.dev/egress=enabled")?;
    let (callers, gateway) = world.nodes();
    terminal.done(
        "captured",
        &format!(
            "sleep on {callers}, the gateway on {gateway}, after {:.1} s",
            started.elapsed().as_secs_f32()
        ),
    )?;
    terminal.done(
        "external service",
        &format!("{}: port 80 plain, port 443 wants a client certificate", world.address()),
    )?;

    let mut lines = 0;
    for (index, step) in STEPS.iter().chain([&OUTSIDE]).enumerate() {
        if wait::interrupted() {
            bail!("interrupted");
        }
        terminal.section(&format!("{}  {}", index + 1, step.title))?;
        let outcome = scenario::run(&world, step)?;
        demo::show::outcome(terminal, step, &outcome)?;
        if !outcome.failures.is_empty() {
            bail!("step {} ({}) failed", index + 1, step.title);
        }
        lines += outcome.gateway.len();
        if let [line] = outcome.gateway.as_slice() {
            ensure!(world.last_line()? == *line, "`{LAST_LINE}` does not show the line of the request");
        }
    }
    ensure!(world.gateway_lines()? == lines, "the gateway's access log has lines that no step accounts for");
    terminal.section("The tutorial's look at the gateway's log shows the same lines")?;
    LAST_LINE.lines().try_for_each(|line| terminal.command(line))?;
    terminal.block(&world.last_line()?.to_string())?;
    from_outside(options, terminal, release)?;
    if options.keep { keep(options, terminal, release, &world) } else { Ok(()) }
}

/// The command line, from outside of the cluster.
fn from_outside(options: &Options, terminal: &mut Terminal, release: &Release) -> Result<()> {
    for (title, arguments) in [
        (
            "Why was /headers denied? egret explain asks the same code as the gateway",
            &["explain", "--from", "default/sleep", "GET", "http://test.com/headers"][..],
        ),
        ("Every flow, from the socket to the external server", &["flows", "-n", "default"]),
        ("The whole cluster on one screen", &["status"]),
    ] {
        terminal.section(title)?;
        let kubeconfig = release.kube().kubeconfig();
        terminal.command(&format!("egret {} --kubeconfig {}", arguments.join(" "), kubeconfig.display()))?;
        let mut command = Command::new(options.source.binary());
        let output = command
            .args(arguments)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .output()
            .context("cannot run egret")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            !text.is_empty(),
            "egret {} said only: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        terminal.block(&text)?;
    }
    Ok(())
}

/// Waits for Ctrl-C with everything running.
fn keep(options: &Options, terminal: &mut Terminal, release: &Release, world: &OnCluster) -> Result<()> {
    terminal.section("Everything stays up; press Ctrl-C here to end it and clean up")?;
    super::usage(terminal, release.kube(), &options.source.binary())?;
    terminal.block(&format!(
        "call out      kubectl exec deploy/sleep -- curl -i -H host:test.com {}/anything\n\
         far side      tail -f {}\n",
        world.address(),
        world.external.log().path().display(),
    ))?;
    while !wait::interrupted() {
        wait::settled(Duration::from_hours(1), wait::interrupted);
    }
    Ok(())
}

fn remove_work() -> Result<()> {
    match fs::remove_dir_all(WORK_DIR) {
        Err(error) if Path::new(WORK_DIR).exists() => {
            Err(error).with_context(|| format!("cannot remove {WORK_DIR}"))
        }
        _ => Ok(()),
    }
}

//! A real Kubernetes of two nodes on this machine: control plane, kubelets, containerd and runc, each machine in namespaces
//! and cgroups of its own, and images made of this machine's files. Called by `cargo xtask cluster` and the cluster tests.
//!
//! Everything of a cluster is found by its name: state in `/run/egret-cluster/NAME` (kubeconfig, certificates, logs, and for
//! each machine a script `machines/MACHINE/enter`), big files where the caller says. Nothing here knows Egret, and what a killed
//! run left is removed by the next one of the same name.
//!
//! | machine | address | what |
//! |---|---|---|
//! | `control` | .1 | etcd, API server, controllers, scheduler; routes, and owns every address of the "internet" |
//! | `node-1`, `node-2` | .11, .12 | containerd, kubelet, kube-proxy |
//! | this one | .254 | link `egk-NAME`, so that kubectl works from here |

mod certificates;
mod cgroups;
mod control_plane;
pub mod image;
pub mod installed;
mod kube;
pub mod load;
mod machine;
mod network;
mod node;
pub mod parts;
pub mod plan;
pub mod release;
mod residue;
pub mod tools;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use self::{
    certificates::Certificates,
    plan::{CONTROL, NODES, Plan},
    tools::Tools,
};
pub use self::{kube::Kube, machine::Machine};
use crate::{netns::Namespace, wait};

/// The cluster's DNS server and all it needs.
const COREDNS: &str = include_str!("../cluster/coredns.yaml");
/// What a part of the cluster gets to be ready, on a machine that is busy with other things too.
const PATIENCE: Duration = Duration::from_mins(2);

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its short name; see [`Plan::new`].
    pub name: String,
    /// The built programs.
    pub tools: Tools,
    /// Directory for big files (images, containers, etcd), such as `target/cluster`. Not below `/run`, `/var/lib` or `/var/log`,
    /// which are other directories on the nodes.
    pub files: PathBuf,
}

/// A running cluster. Dropping it removes it, unless it is to be kept.
pub struct Cluster {
    plan: Plan,
    files: PathBuf,
    kube: Kube,
    keep: bool,
}

impl Cluster {
    /// Starts a cluster, after removing what is there of an earlier one of this name. `progress` is told what has been reached.
    pub fn start(options: &Options, progress: &mut dyn FnMut(&str) -> Result<()>) -> Result<Self> {
        let plan = Plan::new(&options.name)?;
        let _lock = lock(&plan)?;
        remove_all(&plan)?;
        let files = options.files.join(&options.name);
        let state = plan.state();
        fs::create_dir_all(&state).with_context(|| format!("cannot create {}", state.display()))?;
        fs::create_dir_all(&files).with_context(|| format!("cannot create {}", files.display()))?;
        let files = files.canonicalize()?;
        fs::write(state.join("files"), files.to_string_lossy().as_bytes())?;
        let kube = Kube::new(&options.tools, &state.join("kubeconfig"));
        // Removed below where it does not come up: we hold the lock that dropping it would take.
        let mut cluster = Self { plan, files, kube, keep: true };
        if let Err(error) = cluster.set_up(options, progress) {
            return Err(match remove_all(&cluster.plan) {
                Ok(()) => error,
                Err(left) => error.context(format!("and what was started is not all removed: {left:#}")),
            });
        }
        cluster.keep = false;
        Ok(cluster)
    }

    /// The cluster of this name that runs already. Dropping it leaves it running.
    pub fn attach(name: &str, tools: &Tools) -> Result<Self> {
        let plan = Plan::new(name)?;
        let state = plan.state();
        let files = fs::read_to_string(state.join("files")).with_context(|| {
            format!("no cluster {name} on this machine: start it with `cargo xtask cluster up --name {name}`")
        })?;
        let kube = Kube::new(tools, &state.join("kubeconfig"));
        let cluster = Self { plan, files: PathBuf::from(files), kube, keep: true };
        if let Some(machine) = cluster.machines().find(|machine| machine.process_one().is_none()) {
            bail!("machine {} of the cluster {name} does not run: start the cluster anew", machine.name());
        }
        Ok(cluster)
    }

    /// Leaves it running when this is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Removes it; an error says what could not be.
    pub fn remove(mut self) -> Result<()> {
        self.keep = true;
        remove(self.plan.name())
    }

    /// Names and addresses.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The API, as its administrator.
    pub fn kube(&self) -> &Kube {
        &self.kube
    }

    /// Runs kubectl; see [`Kube`] for more.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kube.kubectl(arguments)
    }

    /// The control machine.
    pub fn control(&self) -> Machine {
        Machine::of(&self.plan, CONTROL)
    }

    /// A node: `node-1` or `node-2`.
    pub fn node(&self, name: &str) -> Result<Machine> {
        if !NODES.contains(&name) {
            bail!("no node {name} in this cluster, only {}", NODES.join(" and "));
        }
        Ok(Machine::of(&self.plan, name))
    }

    /// The control machine and the nodes.
    pub fn machines(&self) -> impl Iterator<Item = Machine> {
        std::iter::once(CONTROL).chain(NODES).map(|name| Machine::of(&self.plan, name))
    }

    /// Puts an image (an archive of docker or OCI) on every node.
    pub fn import_image(&self, archive: &Path) -> Result<()> {
        in_parallel(NODES.map(|node| (Machine::of(&self.plan, node), archive)), |(machine, archive)| {
            import(machine, archive)
        })
    }

    /// Where the external service is started: the control machine's network, which has all addresses of the "internet".
    pub fn internet(&self) -> Namespace {
        Namespace::of_others(&self.plan.link(), &self.plan.link(), self.plan.host(), plan::EXTERNAL)
    }

    /// Starts a node that was killed again, as after a power cut: its disk is what it was.
    pub fn restart_node(&self, name: &str) -> Result<()> {
        let machine = self.node(name)?;
        let index = NODES.iter().position(|node| *node == name).unwrap_or_default();
        machine.kill()?;
        machine.boot(&self.plan, &self.files.join(name))?;
        network::node(&self.plan, index, &machine)?;
        node::start_containerd(&machine)?;
        node::start_kubelet(&machine)
    }

    fn set_up(&self, options: &Options, progress: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        let plan = &self.plan;
        let certificates = Certificates::make(plan, &plan.state().join("pki"))?;
        certificates.kubeconfig(plan, "admin", self.kube.kubeconfig())?;
        let images = image::write_all(&options.files.join("images"), &options.tools.path("coredns"))?;
        progress("certificates and images made")?;

        let control = self.control();
        let control_files = self.files.join(CONTROL);
        control.boot(plan, &control_files)?;
        network::control(plan, &control)?;
        control_plane::define(plan, &control, &options.tools, &certificates, &control_files)?;
        for service in control_plane::SERVICES {
            control.start(service)?;
        }
        let nodes: Vec<(usize, Machine)> =
            NODES.iter().enumerate().map(|(index, name)| (index, Machine::of(plan, name))).collect();
        in_parallel(nodes.clone(), |(index, machine)| {
            let files = self.files.join(machine.name());
            machine.boot(plan, &files)?;
            network::node(plan, *index, machine)?;
            node::define(plan, *index, machine, &options.tools, &certificates, &files)?;
            node::start_containerd(machine)?;
            images.iter().try_for_each(|archive| import(machine, archive))
        })?;
        progress("machines run, images are on the nodes")?;

        self.wait_for_api_server()?;
        progress("the API server is ready")?;
        for (index, machine) in &nodes {
            self.kube.apply(&node::object(plan, *index))?;
            node::start_kubelet(machine)?;
        }
        self.kube.apply(COREDNS)?;
        self.wait_for_nodes()?;
        progress("both nodes are ready")?;
        self.kube.wait_for_rollout("kube-system", "deployment/coredns", PATIENCE)?;
        self.kube.wait_for(
            "the default service account",
            &["serviceaccount", "default"],
            PATIENCE,
            |_| true,
        )?;
        progress("names resolve")
    }

    /// Waits until the API server serves.
    pub fn wait_for_api_server(&self) -> Result<()> {
        wait::until("the API server to be ready", PATIENCE, || {
            Ok(self.kubectl(&["get", "--raw=/readyz"]).ok())
        })
        .map(drop)
        .map_err(|error| self.control().explained(&error, "kube-apiserver"))
    }

    /// Waits until both nodes are ready.
    pub fn wait_for_nodes(&self) -> Result<()> {
        let ready = |node: &Value| {
            let conditions = node["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
            conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
        };
        let all = |list: &Value| {
            let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            items.len() == NODES.len() && items.iter().all(ready)
        };
        self.kube.wait_for("both nodes to be ready", &["nodes"], PATIENCE, all).map(drop).map_err(|error| {
            let logs = NODES.map(|node| Machine::of(&self.plan, node).log("kubelet"));
            anyhow!(
                "{error:#}
{}",
                logs.join(
                    "
"
                )
            )
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = remove(self.plan.name()) {
            report(&format!("the cluster {} is not removed: {error:#}", self.plan.name()));
        }
    }
}

/// Removes the cluster of this name, or what is there of it.
pub fn remove(name: &str) -> Result<()> {
    let plan = Plan::new(name)?;
    let _lock = lock(&plan)?;
    remove_all(&plan)?;
    let left = left(name)?;
    if left.is_empty() { Ok(()) } else { bail!("{}", left.join("; ")) }
}

/// What there is on this machine of the cluster of this name, one sentence each.
pub fn left(name: &str) -> Result<Vec<String>> {
    let plan = Plan::new(name)?;
    let mut left = network::left(&plan);
    let hierarchies = cgroups::hierarchies()?;
    for machine in std::iter::once(CONTROL).chain(NODES) {
        if Machine::of(&plan, machine).process_one().is_some() {
            left.push(format!("machine {machine} still runs"));
        }
        let groups = cgroups::places(&hierarchies, &plan.cgroup(machine));
        left.extend(groups.iter().map(|path| format!("the cgroup {} is still there", path.display())));
    }
    if plan.state().exists() {
        left.push(format!("{} is still there", plan.state().display()));
    }
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let state = plan.state();
    left.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&*state.to_string_lossy()))
            .map(|line| format!("still mounted: {line}")),
    );
    Ok(left)
}

/// Whether there is a cluster of this name, whole or in part.
pub fn exists(name: &str) -> Result<bool> {
    Ok(!left(name)?.is_empty())
}

/// Removes everything of a cluster. Every part is tried, the first error is told.
fn remove_all(plan: &Plan) -> Result<()> {
    let hierarchies = cgroups::hierarchies()?;
    let mut results = Vec::new();
    for name in NODES.into_iter().chain([CONTROL]) {
        results.push(Machine::of(plan, name).kill());
        for group in cgroups::places(&hierarchies, &plan.cgroup(name)) {
            results.push(cgroups::remove(&group));
        }
    }
    results.push(network::remove(plan));
    let state = plan.state();
    let files = fs::read_to_string(state.join("files")).map(PathBuf::from).ok();
    for directory in files.into_iter().chain([state]) {
        results.push(remove_directory(&directory));
    }
    results.into_iter().collect()
}

fn remove_directory(directory: &Path) -> Result<()> {
    let mut last = None;
    // What was mounted in it goes away a moment after the machines.
    let gone = wait::settled(Duration::from_secs(10), || {
        last = fs::remove_dir_all(directory).err();
        !directory.exists()
    });
    match last {
        Some(error) if !gone => Err(error).with_context(|| format!("cannot remove {}", directory.display())),
        _ => Ok(()),
    }
}

/// One at a time starts or removes the cluster of a name. The lock goes with the process, however it ends.
fn lock(plan: &Plan) -> Result<Flock<File>> {
    let path = plan.lock();
    fs::create_dir_all(path.parent().unwrap_or(&path))?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        anyhow!("another process starts or removes the cluster {} right now: let it end", plan.name())
    })
}

fn import(machine: &Machine, archive: &Path) -> Result<()> {
    if wait::interrupted() {
        bail!("interrupted before {} was on {}", archive.display(), machine.name());
    }
    let archive = archive.canonicalize().with_context(|| format!("no image {}", archive.display()))?;
    machine
        .run("ctr", &["--namespace", "k8s.io", "images", "import", &archive.to_string_lossy()])
        .map(drop)
        .with_context(|| format!("cannot put {} on {}", archive.display(), machine.name()))
}

/// Does the same for each, at the same time.
fn in_parallel<T: Send>(
    each: impl IntoIterator<Item = T>,
    work: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = each.into_iter().map(|one| scope.spawn(move || work(&one))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| bail!("a thread of the harness panicked"))
        })
    })
}

#[expect(clippy::print_stderr, reason = "addressed to whoever runs the tests")]
fn report(text: &str) {
    eprintln!("{text}");
}

//! Configuration from a real API server: what a gateway takes up, when, and what it makes of everything that goes wrong. The gateway
//! runs beside the cluster, with the token and the permissions that it has in a pod.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    cluster::Cluster,
    egret::{binary, workspace},
    process::Process,
    wait,
};
use tempfile::TempDir;

const NAMESPACE: &str = "istio-system";
/// What anything gets that has no deadline of its own.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a change gets until it is in force.
const IN_FORCE: Duration = Duration::from_secs(2);
/// What a change gets that was made while the API server was away, from its return on.
const AFTER_OUTAGE: Duration = Duration::from_secs(5);

/// How long the network swallows everything; the last time that TCP tries again before its end lies far before it, the next one far
/// behind.
const PARTITION: Duration = Duration::from_secs(31);

/// What swallows every packet between this machine and the API server.
const SWALLOW: &str = "table ip lost {
    chain input { type filter hook input priority -300; ip saddr @HOST@ drop; }
    chain output { type filter hook output priority -300; ip daddr @HOST@ drop; }
}
";

/// A partition between this machine and the API server. It goes with the cluster at the latest.
struct Lost<'a>(&'a Cluster);

impl<'a> Lost<'a> {
    fn between(cluster: &'a Cluster) -> Result<Self> {
        let rules = SWALLOW.replace("@HOST@", &cluster.plan().host().to_string());
        let lost = Self(cluster);
        lost.on_control("nft", &[&rules])?;
        Ok(lost)
    }

    /// Applies a text where the API server is to be reached.
    fn apply_beyond(&self, file: &Path, text: &str) -> Result<()> {
        fs::write(file, text)?;
        let kubectl = self.0.kube().command("kubectl");
        let program = kubectl.get_program().to_str().context("the path of kubectl")?;
        self.on_control(program, &["apply", "-f", file.to_str().context("the path of the file")?])
    }

    fn end(self) -> Result<()> {
        self.on_control("nft", &["delete table ip lost"])
    }

    /// Runs a program in the network of the API server.
    fn on_control(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let mut command = self.0.internet().command(Path::new(program));
        let output = command.args(arguments).env("KUBECONFIG", self.0.kube().kubeconfig()).output()?;
        ensure!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

/// A gateway that follows the configuration of the cluster.
struct Gateway {
    process: Process,
    /// How many configurations it has said to have read.
    seen: usize,
}

impl Gateway {
    /// Where a pod has them, in a mount namespace of its own, are the files of its service account.
    fn start(cluster: &Cluster, directory: &Path) -> Result<Self> {
        let kubectl = |arguments: &[&str]| cluster.kubectl(arguments);
        let token = kubectl(&["create", "token", "istio-egressgateway", "-n", NAMESPACE])?;
        let root = cluster.kube().get(&["configmap", "kube-root-ca.crt", "-n", NAMESPACE])?;
        let root = root["data"]["ca.crt"].as_str().context("the cluster publishes no root certificate")?;
        let account = directory.join("account");
        fs::create_dir(&account)?;
        fs::write(account.join("token"), token.trim())?;
        fs::write(account.join("ca.crt"), root)?;
        fs::write(account.join("namespace"), NAMESPACE)?;
        let server =
            kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"])?;
        let address = server.trim().strip_prefix("https://").context("the API server's address")?;
        let (host, port) = address.rsplit_once(':').context("the API server's port")?;
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--",
            "sh",
            "-ec",
            "mount -t tmpfs none /run; mkdir -p \"$1\"; mount --bind \"$2\" \"$1\"; shift 2; exec \"$@\"",
            "sh",
        ]);
        // /var/run leads to /run.
        command.arg("/var/run/secrets/kubernetes.io/serviceaccount").arg(&account);
        command.arg(binary()?).args([
            "gateway",
            "--kubernetes",
            "--hbone-address",
            "127.0.0.1:0",
            "--run-dir",
        ]);
        command.arg(directory.join("run"));
        for (name, value) in [
            ("KUBERNETES_SERVICE_HOST", host),
            ("KUBERNETES_SERVICE_PORT", port),
            ("POD_NAME", "gateway"),
            ("POD_NAMESPACE", NAMESPACE),
            ("POD_UID", "0"),
            ("POD_IP", "127.0.0.1"),
            ("NODE_NAME", "none"),
            // Without a certificate, which nobody issues here, it does not serve: this is how it tells what it has read.
            ("EGRET_LOG", "info,egret::source::following=debug"),
        ] {
            command.env(name, value);
        }
        Ok(Self { process: Process::spawn("the gateway", &mut command)?, seen: 0 })
    }

    /// Waits for the next configuration; how long that took since `from`.
    fn next(&mut self, from: Instant, patience: Duration) -> Result<Duration> {
        self.seen += 1;
        let waited = wait::until("a configuration to be in force", patience, || {
            let lines = self.process.stderr();
            let loads = lines.iter().filter(|line| line.contains(" configuration reloaded ")).count();
            Ok((loads >= self.seen).then(|| from.elapsed()))
        });
        waited.with_context(|| format!("the gateway wrote:\n{}", self.process.tail()))
    }

    /// The last configuration that it said to be in force.
    fn last(&self) -> String {
        let lines = self.process.stderr();
        lines.into_iter().rfind(|line| line.contains(" configuration reloaded ")).unwrap_or_default()
    }

    /// Makes a change, and waits until it is in force with so many objects and problems.
    fn takes_up(
        &mut self,
        objects: usize,
        problems: usize,
        change: impl FnOnce() -> Result<String>,
    ) -> Result<()> {
        change()?;
        let took = self.next(Instant::now(), IN_FORCE)?;
        let last = self.last();
        let expected = format!("objects={objects} problems={problems}");
        ensure!(last.ends_with(&expected), "{expected} after {took:?}, not {last}");
        Ok(())
    }
}

fn entry(name: &str, ports: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n\
         spec: {{hosts: [{name}.com], resolution: DNS, ports: [{ports}]}}\n"
    )
}

const HTTP: &str = "{number: 80, name: http, protocol: HTTP}";
/// What no schema refuses.
const TWICE: &str = "{number: 80, name: http, protocol: HTTP}, {number: 80, name: again, protocol: HTTP}";

/// What the chart makes of one template.
fn template(cluster: &Cluster, name: &str) -> Result<String> {
    let chart = workspace().join("deploy/egret");
    let chart = chart.to_str().context("the path of the chart")?;
    let show = format!("templates/{name}.yaml");
    // Rendered without asking the cluster, which helm takes for an old one unless told.
    let version = ["--kube-version", "1.34.0"];
    let arguments = ["template", "egret", chart, "--namespace", NAMESPACE, "--show-only", &show];
    cluster.kube().helm(&[&arguments[..], &version].concat())
}

/// `egret check` against the cluster: what it prints, and whether all is well.
fn check(cluster: &Cluster, more: &[&str]) -> Result<(String, bool)> {
    let mut command = Command::new(binary()?);
    command.arg("check").arg("--kubeconfig").arg(cluster.kube().kubeconfig()).args(more);
    let output = command.output()?;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((said, output.status.success()))
}

#[test]
fn a_gateway_takes_up_what_the_api_server_has() -> Result<()> {
    let Some(cluster) = super::cluster("config")? else { return Ok(()) };
    let kube = cluster.kube();
    kube.kubectl(&["create", "namespace", NAMESPACE])?;
    kube.apply(&template(&cluster, "rbac")?)?;
    kube.kubectl(&["create", "serviceaccount", "istio-egressgateway", "-n", NAMESPACE])?;
    let directory = TempDir::with_prefix("egret-cluster")?;
    let mut gateway = Gateway::start(&cluster, directory.path())?;

    // Nothing there yet: it says what it misses, and waits for what it cannot do without.
    gateway.process.wait_for_line(
        "ServiceEntry (networking.istio.io): the API server does not know this kind",
        PATIENCE,
    )?;
    let waiting = gateway.process.wait_for_line("waiting for the settings of the mesh", PATIENCE)?;
    ensure!(waiting.contains("ConfigMap istio-system/egret-mesh: is not there"), "{waiting}");
    ensure!(gateway.last().is_empty(), "in force without settings: {}", gateway.last());
    let (said, _) = check(&cluster, &["--egret-namespace", NAMESPACE])?;
    ensure!(said.contains("warning[EG0401] Gateway (networking.istio.io): "), "{said}");
    ensure!(said.contains("error[EG0112] ConfigMap istio-system/egret-mesh: is not there"), "{said}");
    gateway.takes_up(1, 0, || kube.apply(&template(&cluster, "mesh-config")?))?;

    // The kinds are installed, and it goes on by itself.
    let crds = Command::new(binary()?).arg("crds").output()?;
    kube.apply(&String::from_utf8(crds.stdout)?)?;
    for kind in ["serviceentries.networking.istio.io", "authorizationpolicies.security.istio.io"] {
        kube.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", &format!("crd/{kind}")])?;
    }
    kube.apply(&entry("a", HTTP))?;
    gateway.next(Instant::now(), PATIENCE)?;
    ensure!(gateway.last().ends_with("objects=2 problems=0"), "{}", gateway.last());

    gateway.takes_up(3, 0, || kube.apply(&entry("b", HTTP)))?;
    // A bad version is refused with object and field, and the last good one stays.
    gateway.takes_up(3, 2, || kube.apply(&entry("b", TWICE)))?;
    let (said, good) = check(&cluster, &["-n", "default"])?;
    ensure!(
        !good && said.contains("error[EG0108] ServiceEntry default/b spec: port 80 (again) is given twice"),
        "{said}"
    );
    ensure!(check(&cluster, &["-n", "elsewhere"])?.1, "there is nothing wrong elsewhere");
    gateway.takes_up(2, 0, || kube.kubectl(&["delete", "serviceentry", "b"]))?;
    // Labels mean nothing, and change nothing.
    kube.kubectl(&["label", "serviceentry", "a", "some=thing"])?;

    // The API server goes and comes back; what was changed first thing after that is in force soon.
    let control = cluster.control();
    control.stop("kube-apiserver")?;
    gateway.process.wait_for_line("the API server cannot be reached", PATIENCE)?;
    thread::park_timeout(Duration::from_secs(5));
    control.start("kube-apiserver")?;
    cluster.wait_for_api_server()?;
    let back = Instant::now();
    kube.apply(&entry("c", HTTP))?;
    let took = gateway.next(back, AFTER_OUTAGE)?;
    ensure!(gateway.last().ends_with("objects=3 problems=0"), "after {took:?}: {}", gateway.last());

    // Its packets are lost without a word for so long that the API server has almost given up sending what it has to tell.
    let lost = Lost::between(&cluster)?;
    thread::park_timeout(Duration::from_secs(1));
    lost.apply_beyond(&directory.path().join("beyond.yaml"), &entry("d", HTTP))?;
    thread::park_timeout(PARTITION);
    lost.end()?;
    let took = gateway.next(Instant::now(), AFTER_OUTAGE)?;
    ensure!(gateway.last().ends_with("objects=4 problems=0"), "after {took:?}: {}", gateway.last());

    // A thousand objects at once are few loads.
    let many: Vec<_> = (0..1000).map(|number| entry(&format!("many-{number}"), HTTP)).collect();
    kube.apply(&many.join("---\n"))?;
    wait::until("all of them to be in force", PATIENCE, || {
        Ok(gateway.last().ends_with("objects=1004 problems=0").then_some(()))
    })?;
    // The settings go by mistake: they stay as they were, and that is said.
    kube.kubectl(&["delete", "configmap", "egret-mesh", "-n", NAMESPACE])?;
    wait::until("the settings to be missed", PATIENCE, || {
        Ok(gateway.last().ends_with("objects=1004 problems=1").then_some(()))
    })?;
    cluster.remove()
}

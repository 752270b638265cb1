//! What a cluster is made of: programs built from Go modules into `target/cluster/bin`, and Debian packages.
//!
//! Kubernetes is pinned by `tests/cluster/kubernetes/go.mod`, the rest by version. Each is built again only when that changes.

use std::{fs, path::Path, process::Command, time::Instant};

use anyhow::{Context as _, Result, bail};
use egret_tests::cluster::tools::{self, Tools};

use crate::{
    command,
    packages::{self, installed},
    terminal::Terminal,
};

/// The version of Kubernetes, as the programs tell it; its modules are in `go.mod`.
const KUBERNETES: &str = "v1.34.4";
/// The other programs, with how long each takes on two cores.
const OTHERS: [(&str, &str, &str); 3] = [
    ("helm", "helm.sh/helm/v3/cmd/helm@v3.22.0", "about 2 minutes"),
    ("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0", "some seconds"),
    ("coredns", "github.com/coredns/coredns@v1.15.0", "about 3 minutes"),
];

/// Builds and installs what is missing.
pub(super) fn tools(terminal: &mut Terminal) -> Result<Tools> {
    let mut missing: Vec<&str> = tools::PACKAGES
        .into_iter()
        .filter(|(program, _)| !installed(program))
        .map(|(_, package)| package)
        .collect();
    if !Path::new("/usr/lib/cni/ptp").exists() && !Path::new("/opt/cni/bin/ptp").exists() {
        missing.push(tools::PLUGINS_PACKAGE);
    }
    packages::ensure_for_tests(terminal, &missing)?;

    let directory = tools::files().join("bin");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let directory = directory.canonicalize()?;
    let module = command::workspace().join("tests/cluster/kubernetes");
    let pinned = fs::read_to_string(module.join("go.mod")).context("tests/cluster/kubernetes/go.mod")?;
    let kubernetes = Part {
        name: "kubernetes",
        programs: &tools::KUBERNETES,
        pinned: format!("{KUBERNETES}\n{pinned}"),
        takes: "about 7 minutes",
    };
    kubernetes.build(terminal, &directory, |go| {
        let version = "k8s.io/component-base/version";
        let minor = KUBERNETES.split('.').nth(1).unwrap_or_default();
        go.current_dir(&module).args(["build", "-trimpath", "-o"]).arg(&directory).args([
            "-ldflags",
            &format!(
                "-s -w -X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor=1 -X {version}.gitMinor={minor}"
            ),
        ]);
        go.args(tools::KUBERNETES.map(|name| format!("k8s.io/kubernetes/cmd/{name}")));
    })?;
    for (name, package, takes) in &OTHERS {
        let part = Part { name, programs: std::slice::from_ref(name), pinned: (*package).to_owned(), takes };
        part.build(terminal, &directory, |go| {
            go.env("GOBIN", &directory).args(["install", "-trimpath", "-ldflags", "-s -w", package]);
        })?;
    }
    Tools::at(&directory)
}

/// Something to build.
struct Part<'a> {
    name: &'a str,
    programs: &'a [&'a str],
    /// What decides the result.
    pinned: String,
    takes: &'a str,
}

impl Part<'_> {
    fn build(
        &self,
        terminal: &mut Terminal,
        directory: &Path,
        arguments: impl FnOnce(&mut Command),
    ) -> Result<()> {
        let stamp = directory.join(format!("{}.stamp", self.name));
        let current = fs::read_to_string(&stamp).is_ok_and(|text| text == self.pinned);
        if current && self.programs.iter().all(|program| directory.join(program).is_file()) {
            return Ok(());
        }
        if !installed("go") {
            bail!(
                "{} is built with Go, which is not on this machine: install Go 1.26 or newer (https://go.dev/dl)",
                self.programs.join(", ")
            );
        }
        terminal.busy(&format!(
            "building {} (the first time: {} on two cores)",
            self.programs.join(", "),
            self.takes
        ))?;
        let started = Instant::now();
        let mut go = Command::new("go");
        go.current_dir(directory).env("CGO_ENABLED", "0");
        arguments(&mut go);
        command::run_quietly(&mut go)?;
        fs::write(&stamp, &self.pinned).with_context(|| format!("cannot write {}", stamp.display()))?;
        terminal.done(self.name, &format!("built in {:.0} s", started.elapsed().as_secs_f32()))
    }
}

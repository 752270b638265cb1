//! `cargo xtask manifests`: what `deploy/` holds that is made from something else: the chart's CustomResourceDefinitions from
//! `egret crds`, the plain manifests from the chart. With `--check` nothing is written: what is there has to be current, and the
//! chart has to lint, render and conform to Kubernetes' schemas with its own values and with every combination in `ci/`.

mod schemas;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{command, packages};

const CHART: &str = "deploy/egret";
const DEFINITIONS: &str = "deploy/egret/files/crds";
const MANIFESTS: &str = "deploy/manifests";
/// The newest Kubernetes that is tried; its schemas are the measure.
const KUBERNETES: &str = "1.34.4";
/// Where the demo installs, so that Istio's tutorials work as written.
const NAMESPACE: &str = "istio-system";

/// What to do.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write nothing; fail when something is not current, or does not conform
    #[arg(long)]
    check: bool,
}

/// `cargo xtask manifests --check`, for other tasks.
pub(crate) fn check_all() -> Result<()> {
    run(&Options { check: true })
}

/// What [`check_all`] needs and this machine has not.
pub(crate) fn missing() -> Option<String> {
    let go = packages::installed("go").then_some(()).context("go is not in PATH");
    tool("helm").and(tool("kubeconform")).map(drop).and(go).err().map(|why| why.to_string())
}

/// A file that is made, and its content.
struct Made {
    path: String,
    content: String,
}

/// Makes or checks them.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = command::workspace().canonicalize()?;
    let helm = tool("helm")?;
    // The definitions first: they are in what is rendered.
    settle(&root, &definitions()?, options.check)?;
    settle(&root, &rendered(&helm)?, options.check)?;
    if options.check {
        check(&helm, &root)?;
    }
    Ok(())
}

/// A program of the test cluster's tool set, else of the machine.
fn tool(name: &str) -> Result<PathBuf> {
    let own = command::workspace().join("target/cluster/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(own)
        .chain(std::env::split_paths(&path))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("{name} is not in PATH; `cargo xtask cluster tools` builds it"))
}

/// Writes what has changed; with `check`, says what has.
fn settle(root: &Path, made: &[Made], check: bool) -> Result<()> {
    let is_current =
        |file: &&Made| fs::read_to_string(root.join(&file.path)).is_ok_and(|text| text == file.content);
    let (_, old): (Vec<_>, Vec<_>) = made.iter().partition(is_current);
    if check && !old.is_empty() {
        let names: Vec<&str> = old.iter().map(|file| file.path.as_str()).collect();
        bail!("not current: {}; run `cargo xtask manifests`", names.join(", "));
    }
    for file in old {
        let path = root.join(&file.path);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        fs::write(&path, &file.content).with_context(|| file.path.clone())?;
        report(&format!("wrote {}\n", file.path));
    }
    Ok(())
}

/// One file for each definition that `egret crds` prints.
fn definitions() -> Result<Vec<Made>> {
    let mut cargo = command::cargo();
    cargo.args(["run", "--quiet", "--package", "egret", "--bin", "egret", "--", "crds"]);
    let text = output(&mut cargo)?;
    let documents = text.split("---\n").filter(|document| !document.is_empty());
    documents
        .map(|document| {
            let name = document
                .lines()
                .find_map(|line| line.strip_prefix("  name: "))
                .context("a definition without a name")?;
            Ok(Made {
                path: format!("{DEFINITIONS}/{name}.yaml"),
                content: format!("# Made by `cargo xtask manifests` from `egret crds`.\n{document}"),
            })
        })
        .collect()
}

/// The chart with its own values, for whoever does not use Helm.
fn rendered(helm: &Path) -> Result<Vec<Made>> {
    let head = |what: &str| {
        format!("# Made by `cargo xtask manifests` from deploy/egret with its own values. {what}\n")
    };
    let all = template(helm, &["--no-hooks"])?;
    let removal = template(helm, &["--show-only", "templates/uninstall-job.yaml"])?;
    Ok(vec![
        Made {
            path: format!("{MANIFESTS}/egret.yaml"),
            content: head(&format!(
                "Not for a cluster that has Istio: it would\n# replace its definitions (Helm looks first).\n#   \
                 kubectl create namespace {NAMESPACE}\n#   kubectl apply --server-side -f egret.yaml"
            )) + &all,
        },
        Made {
            path: format!("{MANIFESTS}/uninstall.yaml"),
            content: head(
                "Before egret.yaml is deleted: every\n# agent releases its node.\n#   kubectl apply -f uninstall.yaml\n#   \
                 kubectl --namespace istio-system wait --for=condition=complete --timeout=180s job/egret-uninstall\n\
                 # Without the selector the definitions go, too, and with them every object of theirs:\n#   \
                 kubectl delete -f egret.yaml --selector 'app.kubernetes.io/component!=crds'\n#   kubectl delete -f uninstall.yaml",
            ) + &removal,
        },
    ])
}

fn template(helm: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = helm_in_workspace(helm);
    command.args(["template", "egret", CHART, "--namespace", NAMESPACE, "--kube-version", KUBERNETES]);
    output(command.args(arguments))
}

fn helm_in_workspace(helm: &Path) -> Command {
    let mut command = Command::new(helm);
    command.current_dir(command::workspace());
    command
}

/// Lints, renders and validates every combination of values.
fn check(helm: &Path, root: &Path) -> Result<()> {
    let validator = tool("kubeconform")?;
    let schemas = schemas::write(root, KUBERNETES)?;
    let mut combinations = vec![None];
    for entry in fs::read_dir(root.join(CHART).join("ci"))? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "yaml") {
            combinations.push(Some(file));
        }
    }
    combinations.sort();
    for values in &combinations {
        let name = match values {
            Some(file) => file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            None => "default values".to_owned(),
        };
        let values: Vec<&str> = values.iter().filter_map(|file| file.to_str()).collect();
        let values: Vec<&str> = values.into_iter().flat_map(|file| ["--values", file]).collect();
        let mut lint = helm_in_workspace(helm);
        lint.args(["lint", "--strict", CHART, "--namespace", NAMESPACE, "--kube-version", KUBERNETES]);
        output(lint.args(&values)).with_context(|| name.clone())?;
        let text = template(helm, &values).with_context(|| name.clone())?;
        let location = schemas.join("{{.ResourceKind}}{{.KindSuffix}}.json");
        let mut validate = Command::new(&validator);
        // Of the Prometheus operator, whose schemas are not Kubernetes': rendered, and no more.
        validate.args(["-skip", "PodMonitor", "-strict", "-summary", "-schema-location"]).arg(location);
        let summary = output_of(&mut validate, &text).with_context(|| name.clone())?;
        report(&format!("{name}: {}\n", summary.trim_end()));
    }
    Ok(())
}

/// Runs to the end; what it printed is an error's text when it fails.
fn output(command: &mut Command) -> Result<String> {
    output_of(command, "")
}

fn output_of(command: &mut Command, input: &str) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let mut stdin = child.stdin.take().context("no input")?;
    let text = input.to_owned();
    // Beside it: it may print before it has read everything.
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, text.as_bytes()));
    let output = child.wait_with_output().with_context(|| name.clone())?;
    let written = writer.join();
    let (stdout, stderr) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{name} failed: {}\n{}{}", output.status, stdout, stderr.trim_end());
    }
    written.ok().context("writing panicked")?.with_context(|| format!("{name} did not read its input"))?;
    Ok(stdout)
}

#[expect(clippy::print_stdout, reason = "the task's result")]
fn report(text: &str) {
    print!("{text}");
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::command;

    #[test]
    fn chart_and_dockerfile_are_of_this_version() {
        let read = |file: &str| fs::read_to_string(command::workspace().join(file)).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let chart = read("deploy/egret/Chart.yaml");
        for line in [format!("version: {version}"), format!("appVersion: {version}")] {
            assert!(chart.lines().any(|found| found == line), "Chart.yaml: no line {line:?}");
        }
        assert!(read("deploy/Dockerfile").contains(&format!("image.version=\"{version}\"")));
    }
}

//! What the API server says of everything that the chart makes: with its own values, with every documented combination, and of the
//! plain manifests. A server-side dry run: it goes through validation, defaults and admission, and changes nothing.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use egret_tests::{cluster::Kube, egret::workspace};

/// Without any object of Egret's: applied in place of those that are there, lists would keep what these have no longer, since it was
/// another who wrote it.
const FREE: &str = "chart";

/// A kind of somebody else's that a combination has. Any object of it will do: its own schema comes with the Prometheus operator, which
/// is not here.
const POD_MONITORS: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: podmonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: PodMonitor, plural: podmonitors, singular: podmonitor}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

#[test]
fn the_api_server_takes_every_combination_of_values() -> Result<()> {
    let Some(egret) = super::installed()? else { return Ok(()) };
    let kube = egret.kube();
    kube.apply(POD_MONITORS)?;
    kube.kubectl(&[
        "wait",
        "--for=condition=Established",
        "--timeout=30s",
        "crd/podmonitors.monitoring.coreos.com",
    ])?;
    egret.namespace(FREE, false)?;
    let chart = workspace().join("deploy/egret");
    let mut combinations = vec![None];
    for entry in fs::read_dir(chart.join("ci"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            combinations.push(Some(path));
        }
    }
    ensure!(combinations.len() > 1, "no combination in {}", chart.display());
    let chart = chart.to_string_lossy();
    for values in combinations {
        let values = values.map(|path| path.to_string_lossy().into_owned());
        // Not by way of helm's own dry run, which asks the API server only what it knows.
        let mut arguments = vec!["template", "egret", &*chart, "--namespace", FREE, "--validate"];
        // There is an installation of that name already, whose objects of the whole cluster these are.
        arguments.push("--is-upgrade");
        arguments.extend(values.iter().flat_map(|values| ["--values", values]));
        let rendered = kube.helm(&arguments)?;
        takes(kube, &rendered)
            .with_context(|| values.unwrap_or_else(|| "the chart's own values".to_owned()))?;
    }
    for manifest in ["egret", "uninstall"] {
        let path = workspace().join(format!("deploy/manifests/{manifest}.yaml"));
        takes(kube, &fs::read_to_string(&path)?).with_context(|| path.display().to_string())?;
    }
    egret.remove_namespace(FREE)?;
    kube.kubectl(&["delete", "crd", "podmonitors.monitoring.coreos.com"]).map(drop)
}

/// The API server would take these objects, in place of any that are there.
fn takes(kube: &Kube, objects: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("objects.yaml");
    fs::write(&file, objects)?;
    let file = file.to_string_lossy();
    let apply = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", &*file];
    let said = kube.kubectl(&apply)?;
    let count = objects.lines().filter(|line| line.starts_with("kind: ")).count();
    ensure!(said.lines().count() == count, "{count} objects, but:\n{said}");
    Ok(())
}

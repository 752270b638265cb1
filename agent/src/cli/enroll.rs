//! `egret enroll` and `egret release`: workloads whose cgroup somebody else made.

use std::path::PathBuf;

use anyhow::{Context as _, bail};

use super::{
    args::{Enroll, Format, Release},
    output,
};
use crate::{
    admin::client,
    mesh::CgroupSelector,
    node::{agent::Enrolment, binding, foreign, workload::Workload},
};

/// Enrols, and says as what.
pub(super) async fn enroll(enroll: Enroll) -> anyhow::Result<()> {
    let cgroup = cgroup(&enroll)?;
    let enrolment = Enrolment {
        namespace: enroll.workload.namespace,
        service_account: enroll.workload.service_account,
        own_network: false,
        cgroup: Some(cgroup),
    };
    let socket = enroll.instance.run_dir().socket("agent");
    let workload: Workload = client::post(&socket, "/workloads", &enrolment).await?;
    match enroll.output.format {
        Format::Json => output::json(&workload),
        Format::Table => Ok(output::text(format!(
            "workload {}: {} in {}",
            workload.id,
            workload.identity,
            workload.cgroup.display()
        ))?),
    }
}

fn cgroup(enroll: &Enroll) -> anyhow::Result<PathBuf> {
    if let Some(process) = enroll.pid {
        return foreign::cgroup_of(process).with_context(|| format!("the cgroup of process {process}"));
    }
    match &enroll.unit {
        Some(name) => cgroup_of_unit(name),
        // The command line has one of the three.
        None => Ok(enroll.cgroup.clone().unwrap_or_default()),
    }
}

fn cgroup_of_unit(name: &str) -> anyhow::Result<PathBuf> {
    let name = if name.contains('.') { name.to_owned() } else { format!("{name}.service") };
    let mut found = binding::find(CgroupSelector::systemd_unit(&name)?)?;
    match (found.pop(), found.pop()) {
        (Some(cgroup), None) => Ok(cgroup),
        (None, _) => bail!("unit {name} has no cgroup: is it running?"),
        (Some(one), Some(other)) => bail!(
            "{name} has several cgroups, {} and {}: name one with --cgroup",
            one.display(),
            other.display()
        ),
    }
}

/// Releases.
pub(super) async fn release(release: Release) -> anyhow::Result<()> {
    let socket = release.instance.run_dir().socket("agent");
    client::delete::<()>(&socket, &format!("/workloads/{}", release.id)).await?;
    Ok(())
}

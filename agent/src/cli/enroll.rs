//! `egret enroll` and `egret release`: workloads whose cgroup somebody else made.

use std::path::PathBuf;

use anyhow::Context as _;

use super::{
    args::{Enroll, Format, Release},
    output,
};
use crate::{
    admin::client,
    node::{agent::Enrolment, foreign, workload::Workload},
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
    match (&enroll.cgroup, enroll.pid) {
        (Some(path), _) => Ok(path.clone()),
        (None, Some(process)) => {
            foreign::cgroup_of(process).with_context(|| format!("the cgroup of process {process}"))
        }
        (None, None) => anyhow::bail!("no cgroup is named"),
    }
}

/// Releases.
pub(super) async fn release(release: Release) -> anyhow::Result<()> {
    let socket = release.instance.run_dir().socket("agent");
    client::delete::<()>(&socket, &format!("/workloads/{}", release.id)).await?;
    Ok(())
}

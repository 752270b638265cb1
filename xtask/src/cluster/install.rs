//! Egret for a cluster: its image, built here or named, and its release in the cluster that is meant.

use std::{
    env,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Result, bail};
use egret_tests::{
    cluster::{Cluster, Kube, installed::NAMESPACE, release::Release, tools::Tools},
    egret::workspace,
};

use crate::{
    command,
    image::{self, Image, Profile},
    terminal::Terminal,
};

/// Which Egret.
#[derive(clap::Args, Default)]
pub(crate) struct Source {
    /// Build the development profile: quick to compile, slow to run
    #[arg(long)]
    debug: bool,
    /// With KUBECONFIG: the image, which the cluster's nodes have or can pull [default: egret:VERSION]
    #[arg(long, value_name = "REPOSITORY:TAG")]
    image: Option<String>,
    /// With KUBECONFIG: whether the image is pulled
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent")]
    pull_policy: String,
}

impl Source {
    /// Builds image and command line; with nothing to do this takes seconds.
    pub(super) fn build(&self, terminal: &mut Terminal) -> Result<Image> {
        if self.image.is_some() {
            bail!(
                "--image is for a cluster that KUBECONFIG names; the ones here get the image that is built here"
            );
        }
        let profile = if self.debug { "development" } else { "release" };
        terminal
            .busy(&format!("building the image, {profile} profile (the first time takes some minutes)"))?;
        let started = Instant::now();
        let image = image::build(&image::Options::of_profile(self.profile()))?;
        let size = image.size >> 20;
        terminal.done(
            "image",
            &format!("{} ({size} MiB), {:.1} s", image.name, started.elapsed().as_secs_f32()),
        )?;
        Ok(image)
    }

    /// The static binary, which is also the command line.
    pub(super) fn binary(&self) -> PathBuf {
        image::binary(self.profile(), "egret")
    }

    /// Builds it.
    pub(super) fn compile(&self) -> Result<PathBuf> {
        image::compile(self.profile())
    }

    /// Builds the external service.
    pub(super) fn external(&self) -> Result<PathBuf> {
        let mut cargo = image::cargo("build", self.profile());
        command::run(cargo.args(["--package", "egret-tests", "--bin", "egret-external"]))?;
        Ok(image::binary(self.profile(), "egret-external"))
    }

    fn profile(&self) -> Profile {
        if self.debug { Profile::Development } else { Profile::Release }
    }

    /// The release in a cluster of ours.
    pub(super) fn here(cluster: &Cluster) -> Release {
        Release::new(cluster.kube(), &chart(), vec!["image.pullPolicy=Never".to_owned()])
    }

    /// The release where `KUBECONFIG` points to.
    pub(super) fn there(&self, tools: &Tools, kubeconfig: &Path) -> Release {
        let image = self.image.clone().unwrap_or_else(|| format!("egret:{}", env!("CARGO_PKG_VERSION")));
        let (repository, tag) = split(&image);
        let values = [("repository", repository), ("tag", tag), ("pullPolicy", &self.pull_policy)];
        let values = values.iter().filter(|(_, value)| !value.is_empty());
        let values = values.map(|(name, value)| format!("image.{name}={value}")).collect();
        Release::new(&Kube::new(tools, kubeconfig), &chart(), values)
    }
}

/// Installs the release, or brings it up to date, and waits until all is ready.
pub(super) fn install(terminal: &mut Terminal, release: &Release, values: &[&str]) -> Result<()> {
    let started = Instant::now();
    terminal.command(&format!(
        "helm upgrade --install egret deploy/egret --namespace {NAMESPACE} --create-namespace"
    ))?;
    release.upgrade(values)?;
    release.wait_until_ready()?;
    let agents = release.pods("egret-agent")?.len();
    let gateways = release.pods("istio-egressgateway")?.len();
    terminal.done(
        "Egret is ready",
        &format!(
            "agents: {agents}, gateways: {gateways}, and a CA, after {:.1} s",
            started.elapsed().as_secs_f32()
        ),
    )
}

/// The kubeconfig of a cluster that is to be used instead of one of ours.
pub(super) fn foreign() -> Option<PathBuf> {
    env::var_os("KUBECONFIG").filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn chart() -> PathBuf {
    workspace().join("deploy/egret")
}

/// Repository and tag; a registry's port is no tag.
fn split(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (image, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn images_have_tags_or_not() {
        assert_eq!(split("egret:1"), ("egret", "1"));
        assert_eq!(split("localhost:5000/egret"), ("localhost:5000/egret", ""));
        assert_eq!(split("localhost:5000/egret:1"), ("localhost:5000/egret", "1"));
    }
}

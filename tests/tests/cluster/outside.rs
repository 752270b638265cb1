//! The outside as the tests of enrolment and of pod starts see it: which request arrived, and whether a gateway brought it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, bail, ensure};
use egret_tests::{
    capture::Capture,
    cluster::installed::{Installed, NAMESPACE},
    external::External,
    json_log::Mark,
};
use serde_json::Value;
use tempfile::TempDir;

/// The external service.
pub(crate) struct Outside {
    external: External,
    gateways: BTreeSet<IpAddr>,
    _directory: TempDir,
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    /// Who asked: the host that it asked for, up to the first dot.
    pub(crate) tag: String,
    /// A gateway brought it; else it came directly.
    pub(crate) by_gateway: bool,
    /// When, in milliseconds since 1970.
    pub(crate) at: u64,
}

impl Outside {
    /// Starts the external service of this cluster, and remembers which gateways there are.
    pub(crate) fn start(egret: &Installed) -> Result<Self> {
        let directory = TempDir::new()?;
        let external =
            External::start(&super::external_binary(), egret.cluster().internet(), directory.path())?;
        Ok(Self { external, gateways: gateways(egret)?, _directory: directory })
    }

    /// Where it answers.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.external.address())
    }

    /// Starts to look at every packet that comes to the outside.
    pub(crate) fn watch(&self) -> Result<Capture> {
        Capture::start_in(self.external.namespace(), &[])
    }

    /// How many packets came to the external service from elsewhere than a gateway, by source; an error where not all were seen.
    pub(crate) fn direct(&self, capture: Capture) -> Result<BTreeMap<IpAddr, u64>> {
        let report = capture.stop()?;
        ensure!(report.dropped == 0, "{} packets were not looked at", report.dropped);
        let here = self.external.address();
        let ours = report.packets.into_iter().filter(|((_, to), _)| *to == here);
        let by_source = ours.map(|((from, _), count)| (IpAddr::from(from), count));
        Ok(by_source.filter(|(from, _)| !self.gateways.contains(from)).collect())
    }

    /// What has arrived until now.
    pub(crate) fn mark(&self) -> Mark {
        self.external.log().mark()
    }

    /// What has arrived since.
    pub(crate) fn since(&self, mark: Mark) -> Result<Vec<Arrival>> {
        let lines = self.external.log().since(mark)?;
        lines.iter().map(|line| self.arrival(line)).collect()
    }

    fn arrival(&self, line: &Value) -> Result<Arrival> {
        let (Some(host), Some(peer), Some(at)) =
            (line["host"].as_str(), line["peer"].as_str(), line["time_ms"].as_u64())
        else {
            bail!("a request without host, peer or time: {line}")
        };
        let tag = host.split('.').next().unwrap_or_default().to_owned();
        let from = peer.parse::<SocketAddr>().context("a peer that is no address")?.ip();
        Ok(Arrival { tag, by_gateway: self.gateways.contains(&from), at })
    }
}

fn gateways(egret: &Installed) -> Result<BTreeSet<IpAddr>> {
    let list = egret.kube().get(&["pods", "-n", NAMESPACE, "-l", "istio=egressgateway"])?;
    let pods = list["items"].as_array().into_iter().flatten();
    let addresses: BTreeSet<_> =
        pods.filter_map(|pod| pod["status"]["podIP"].as_str()?.parse().ok()).collect();
    ensure!(!addresses.is_empty(), "there is no gateway: {list}");
    Ok(addresses)
}

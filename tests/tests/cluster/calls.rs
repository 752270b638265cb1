//! What Egret is installed for: a pod's call goes through the gateway, under the pod's own identity, and a pod that is not
//! enrolled is left alone.

use std::time::Duration;

use anyhow::{Result, ensure};
use egret_tests::{cluster::installed::Caller, external::External, wait};
use tempfile::TempDir;

/// How long a line of the access log may take.
const LOG_DELAY: Duration = Duration::from_secs(10);

#[test]
fn an_enrolled_pod_goes_through_the_gateway_and_others_do_not() -> Result<()> {
    let Some(egret) = super::installed()? else { return Ok(()) };
    let directory = TempDir::new()?;
    let external = External::start(&super::external_binary(), egret.cluster().internet(), directory.path())?;
    let url = format!("http://{}/status/418", external.address());
    for (namespace, enrolled) in [("calls", true), ("calls-free", false)] {
        egret.namespace(namespace, enrolled)?;
        for node in egret_tests::cluster::plan::NODES {
            let caller = Caller { namespace, name: node, node: Some(node), ..Caller::default() };
            if enrolled {
                egret.start_captured(&caller)?
            } else {
                egret.start(&caller)?
            }
            let mark = external.log().mark();
            let host = format!("host: {node}.{namespace}.test");
            let answer = egret.curl(namespace, node, &["-H", &host, &url])?;
            ensure!(answer.status == Some(418), "{namespace}/{node}: {}", answer.summary());
            let seen = external.log().since(mark)?;
            ensure!(seen.len() == 1, "{seen:?}");
            let line = || {
                let logged = egret.access_log()?;
                let name = format!("{node}.{namespace}.test");
                Ok(logged.into_iter().find(|line| line["authority"] == name.as_str()))
            };
            if enrolled {
                let line = wait::until("the gateway to log it", LOG_DELAY, line)?;
                ensure!(line["principal"] == format!("cluster.local/ns/{namespace}/sa/{node}"), "{line}");
            } else {
                ensure!(line()?.is_none(), "the gateway logged something of {namespace}/{node}");
            }
        }
    }
    for namespace in ["calls", "calls-free"] {
        egret.remove_namespace(namespace)?;
    }
    Ok(())
}

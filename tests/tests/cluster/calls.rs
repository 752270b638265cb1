//! What Egret is installed for: a pod's call goes through the gateway, under the pod's own identity, and a pod that is not
//! enrolled is left alone.

use anyhow::{Result, ensure};
use egret_tests::{cluster::installed::Caller, external::External};
use tempfile::TempDir;

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
            let logged = egret.access_log()?;
            let line = logged.iter().find(|line| line["authority"] == format!("{node}.{namespace}.test"));
            match line {
                Some(line) => ensure!(
                    enrolled && line["principal"] == format!("cluster.local/ns/{namespace}/sa/{node}"),
                    "{line}"
                ),
                None => ensure!(!enrolled, "the gateway logged nothing of {namespace}/{node}"),
            }
        }
    }
    for namespace in ["calls", "calls-free"] {
        egret.remove_namespace(namespace)?;
    }
    Ok(())
}

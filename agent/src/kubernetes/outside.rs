//! The connection to a cluster from outside of it: a laptop with a kubeconfig. The command line's.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::names;

/// A laptop may be on a slow line; beyond this nobody waits.
const CONNECT: Duration = Duration::from_secs(10);

/// Where Egret is taken to be, when nothing says where.
const USUAL_NAMESPACE: &str = "istio-system";

/// Which cluster is meant, and where in it Egret is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The context of the kubeconfig; else its current one.
    pub context: Option<String>,
    /// The kubeconfig; else what `KUBECONFIG` names, else the one in the home directory.
    pub kubeconfig: Option<PathBuf>,
    /// Egret's own namespace; else it is looked for.
    pub egret_namespace: Option<String>,
}

/// A cluster, seen from outside.
#[derive(Clone)]
pub struct Outside {
    pub(super) client: Client,
    /// Egret's own namespace.
    pub namespace: String,
}

impl Outside {
    /// Reads the kubeconfig, and asks the cluster where Egret is unless that was said.
    pub async fn connect(access: &Access) -> anyhow::Result<Self> {
        let kubeconfig = match &access.kubeconfig {
            Some(file) => Kubeconfig::read_from(file),
            None => Kubeconfig::read(),
        }
        .context("the kubeconfig cannot be read; name it with --kubeconfig or the variable KUBECONFIG")?;
        let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
        let context = access.context.clone().or_else(|| kubeconfig.current_context.clone());
        let context = context.unwrap_or_else(|| "(none)".to_owned());
        let named = format!("context {context} of the kubeconfig cannot be used");
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.context(named.clone())?;
        config.connect_timeout = Some(CONNECT);
        let address = config.cluster_url.to_string();
        let client = Client::try_from(config).context(named)?;
        let namespace = match &access.egret_namespace {
            Some(namespace) => namespace.clone(),
            None => find(&client)
                .await
                .with_context(|| format!("the Kubernetes API at {address} (context {context})"))?,
        };
        Ok(Self { client, namespace })
    }
}

/// The namespace that Egret is installed in, by the ConfigMap with its settings.
async fn find(client: &Client) -> anyhow::Result<String> {
    let labelled = ListParams::default()
        .labels("app.kubernetes.io/name=egret")
        .fields(&format!("metadata.name={}", names::MESH));
    let mut found: Vec<String> = match Api::<ConfigMap>::all(client.clone()).list_metadata(&labelled).await {
        Ok(list) => list.items.into_iter().filter_map(|map| map.metadata.namespace).collect(),
        // Who may not look through all namespaces can still ask in one.
        Err(kube::Error::Api(status)) if status.code == 403 => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    if found.len() > 1 {
        bail!("Egret is in several namespaces ({}): choose one with --egret-namespace", found.join(", "));
    }
    Ok(found.pop().unwrap_or_else(|| USUAL_NAMESPACE.to_owned()))
}

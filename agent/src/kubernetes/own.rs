//! Who this process is in the cluster: its pod, told by the downward API.

use std::net::IpAddr;

use anyhow::{Context as _, bail};

/// The pod of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// `POD_NAME`.
    pub name: String,
    /// `POD_NAMESPACE`: the one namespace that Egret is installed in.
    pub namespace: String,
    /// `POD_UID`.
    pub uid: String,
    /// `POD_IP`.
    pub address: IpAddr,
    /// `NODE_NAME`.
    pub node: String,
}

impl Own {
    /// As the environment says; the chart sets it.
    pub fn from_environment() -> anyhow::Result<Self> {
        Self::read(|name| std::env::var(name).ok())
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let need = |name: &str| {
            let Some(value) = variable(name).filter(|value| !value.is_empty()) else {
                bail!(
                    "the environment variable {name} is missing: with --kubernetes the pod has to set it by \
                     the downward API, as the Helm chart does"
                );
            };
            Ok(value)
        };
        let address = need("POD_IP")?;
        Ok(Self {
            name: need("POD_NAME")?,
            namespace: need("POD_NAMESPACE")?,
            uid: need("POD_UID")?,
            address: address.parse().with_context(|| format!("POD_IP {address:?} is no address"))?,
            node: need("NODE_NAME")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Own;

    #[test]
    fn what_is_missing_is_named() {
        let all = [
            ("POD_NAME", "egret-agent-x"),
            ("POD_NAMESPACE", "istio-system"),
            ("POD_UID", "u"),
            ("POD_IP", "10.0.0.1"),
            ("NODE_NAME", "a"),
        ];
        let read = |without: &str| {
            Own::read(|name| {
                let found = all.iter().find(|(known, _)| *known == name && name != without);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(read("").unwrap().namespace, "istio-system");
        for (name, _) in all {
            let error = read(name).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}

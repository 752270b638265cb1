//! DestinationRule: how connections to a host are made.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{ExportTo, HostPattern, ObjectRef, Selector};
use crate::route::LoadBalancer;

/// One DestinationRule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRule {
    /// Its name.
    pub object: ObjectRef,
    /// The host it is for.
    pub host: HostPattern,
    /// For every subset and port, unless those say otherwise.
    pub policy: TrafficPolicy,
    /// Subsets by label.
    pub subsets: Vec<Subset>,
    /// Who sees it.
    pub export_to: ExportTo,
    /// Only for gateways with these labels.
    pub workload_selector: Option<Selector>,
}

/// A named subset of the endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    /// Its name.
    pub name: Arc<str>,
    /// Labels of its endpoints.
    pub labels: Selector,
    /// Overrides.
    pub policy: TrafficPolicy,
}

/// `trafficPolicy`: what is not written is inherited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// `tls`.
    pub tls: Option<TlsSetting>,
    /// `loadBalancer.simple`.
    pub load_balancer: Option<LoadBalancer>,
    /// `connectionPool.tcp.connectTimeout`.
    pub connect_timeout: Option<Duration>,
    /// `portLevelSettings`.
    pub ports: BTreeMap<u16, TrafficPolicy>,
}

/// `tls.mode` with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsSetting {
    /// `DISABLE`: plain.
    Disable,
    /// `ISTIO_MUTUAL`: only meant between proxies of the mesh, so of no use towards the outside.
    IstioMutual,
    /// `SIMPLE` and `MUTUAL`.
    Originate {
        /// `MUTUAL`.
        mutual: bool,
        /// `credentialName`.
        credential_name: Option<Arc<str>>,
        /// `sni`.
        sni: Option<Arc<str>>,
        /// `subjectAltNames`.
        subject_alt_names: Vec<Arc<str>>,
        /// `insecureSkipVerify`.
        insecure_skip_verify: bool,
    },
}

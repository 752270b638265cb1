//! The pure model that every configuration source compiles to, and that `route` and `authz` read.
//!
//! Knows no YAML, no Kubernetes client and no I/O; `source` fills it, the engines only read it.

mod authorization_policy;
mod cgroup_selector;
mod compile;
mod credential;
mod destination_rule;
mod existing_connections;
pub(crate) mod exported;
mod gateway;
pub(crate) mod gateways;
mod host;
mod identity;
mod networks;
mod object;
mod policies;
mod registry;
mod rules;
mod scope;
mod service_entry;
mod settings;
mod snapshot;
mod text;
pub(crate) mod transport;
pub(crate) mod upstream;
mod virtual_service;
mod workload_binding;

pub use authorization_policy::{
    AuthorizationPolicy, Condition, HostRule, IpRule, Key, Operation, PathRule, PathTemplate, PolicyAction,
    PolicyPort, RefusedPolicy, Rule, ServiceAccount, Source, TemplatePart,
};
pub use cgroup_selector::{CgroupSelector, SelectorError};
pub use compile::Objects;
pub use credential::Credential;
pub use destination_rule::{DestinationRule, Subset, TlsSetting, TrafficPolicy};
pub use existing_connections::ExistingConnections;
pub use gateway::{Gateway, Server, ServerHost, ServerKind};
pub use host::{HostError, HostMap, HostPattern, looks_like_address, without_port};
pub use identity::{IdentityError, SpiffeId};
pub use object::{Kind, ObjectRef};
pub use registry::{Registry, Service};
pub use scope::{ExportTo, Selector};
pub use service_entry::{Endpoint, EndpointAddress, Resolution, ServiceEntry, ServicePort};
pub use settings::{GatewaySettings, MeshSettings, OnAgentDown, OutboundTrafficPolicy};
pub use snapshot::Snapshot;
pub use text::{TextError, TextMatch};
pub use upstream::Resolved;
pub use virtual_service::{
    Destination, GatewayName, HeaderMatch, HttpAction, HttpMatch, HttpRoute, L4Match, L4Route, RedirectPort,
    Rewrite, UriMatch, VirtualService, WeightedDestination,
};
pub use workload_binding::WorkloadBinding;

/// What there is nearly always one or two of: then it takes no memory from the heap.
pub(crate) type Few<T> = smallvec::SmallVec<[T; 2]>;

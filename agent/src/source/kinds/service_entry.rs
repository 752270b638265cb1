//! Reads a ServiceEntry.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::Meta;
use crate::{
    mesh::{
        Endpoint, EndpointAddress, HostPattern, Resolution, ServiceEntry, ServicePort, looks_like_address,
    },
    route::AppProtocol,
    source::{
        codes,
        fields::{Field, Fields},
        report::Severity,
        scalars,
    },
};

pub(super) fn read(meta: &Meta, mut spec: Fields<'_>) -> Option<ServiceEntry> {
    let of = spec.of().clone();
    let hosts: Vec<HostPattern> =
        spec.items("hosts").iter().filter_map(|host| host.parse(HostPattern::parse)).collect();
    if hosts.is_empty() {
        spec.missing("hosts");
    }
    if hosts.contains(&HostPattern::Any) {
        of.refuse("host \"*\" would register every host; name the domain, as in *.example.com");
    }
    let addresses = spec.items("addresses").iter().filter_map(|net| net.parse(scalars::network)).collect();
    let ports: Vec<ServicePort> = spec.items("ports").iter().filter_map(port).collect();
    if ports.is_empty() {
        spec.missing("ports");
    }
    for (index, port) in ports.iter().enumerate() {
        if ports[..index].iter().any(|other| other.number == port.number || other.name == port.name) {
            of.refuse(format!("port {} ({}) is given twice", port.number, port.name));
        }
    }
    if let Some(location) = spec.take("location") {
        location.one_of(&[("MESH_EXTERNAL", ()), ("MESH_INTERNAL", ())]);
    }
    let resolution = spec.take("resolution").map_or(Some(Resolution::None), |field| {
        field.one_of(&[
            ("NONE", Resolution::None),
            ("STATIC", Resolution::Static),
            ("DNS", Resolution::Dns),
            ("DNS_ROUND_ROBIN", Resolution::Dns),
        ])
    })?;
    let endpoints: Vec<Endpoint> =
        spec.items("endpoints").iter().filter_map(|field| endpoint(field, &ports)).collect();
    match resolution {
        Resolution::Static if endpoints.iter().any(|e| matches!(e.address, EndpointAddress::Name(_))) => {
            of.refuse("resolution STATIC takes endpoint addresses that are IP addresses; use DNS for names");
        }
        Resolution::None if !endpoints.is_empty() => {
            of.refuse(
                "resolution NONE goes to the address the workload dialled and takes no endpoints; use STATIC",
            );
        }
        _ => {}
    }
    let subject_alt_names = spec.texts("subjectAltNames").into_iter().map(Arc::from).collect();
    let export_to = scalars::export_to(spec.take("exportTo"), &meta.object.namespace);
    spec.unsupported(&["workloadSelector"], "list the endpoints");
    spec.finish();
    let (object, created) = (meta.object.clone(), Arc::clone(&meta.created));
    Some(ServiceEntry {
        object,
        created,
        hosts,
        addresses,
        ports,
        resolution,
        endpoints,
        subject_alt_names,
        export_to,
    })
}

fn port(field: &Field<'_>) -> Option<ServicePort> {
    let mut fields = field.fields()?;
    let number = fields.need("number").and_then(|f| f.port());
    let name = fields.need("name").and_then(|f| f.text());
    let protocol = match fields.take("protocol") {
        Some(protocol) => protocol_of(&protocol),
        None => Some(AppProtocol::Detect),
    };
    let target = fields.take("targetPort").and_then(|f| f.port());
    fields.finish();
    Some(ServicePort { number: number?, name: name?.into(), protocol: protocol?, target })
}

/// Istio's protocol names, in any case.
pub(super) fn protocol_of(field: &Field<'_>) -> Option<AppProtocol> {
    let text = field.text()?.to_ascii_uppercase();
    Some(match text.as_str() {
        "HTTP" | "HTTP_PROXY" => AppProtocol::Http,
        "HTTP2" | "GRPC" | "GRPC-WEB" => AppProtocol::Http2,
        "HTTPS" => AppProtocol::Https,
        "TLS" => AppProtocol::Tls,
        "TCP" | "MONGO" | "MYSQL" | "REDIS" => AppProtocol::Tcp,
        "UDP" => {
            field.report(
                Severity::Warning,
                codes::NO_EFFECT,
                "Egret carries TCP only; this port is left out",
                None,
            );
            return None;
        }
        _ => {
            field.refuse(format!(
                "{text:?} is not one of HTTP, HTTP2, GRPC, GRPC-WEB, HTTPS, TLS, TCP, MONGO, MYSQL, REDIS"
            ));
            return None;
        }
    })
}

fn endpoint(field: &Field<'_>, declared: &[ServicePort]) -> Option<Endpoint> {
    let mut fields = field.fields()?;
    let address = fields.need("address").and_then(|f| f.parse(address));
    let mut ports = BTreeMap::new();
    if let Some(field) = fields.take("ports") {
        for (name, value) in field.entries() {
            if !declared.iter().any(|port| *port.name == *name) {
                value.refuse(format!("the ServiceEntry declares no port named {name:?}"));
            }
            ports.extend(value.port().map(|port| (name.to_owned(), port)));
        }
    }
    let labels = fields.take("labels").map(|f| f.labels()).unwrap_or_default();
    fields.without_effect(&["weight", "locality", "network"]);
    fields.ignore(&["serviceAccount"]);
    fields.finish();
    Some(Endpoint { address: address?, ports, labels })
}

fn address(text: &str) -> Result<EndpointAddress, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(EndpointAddress::Ip(ip.to_canonical()));
    }
    match HostPattern::parse(text) {
        Ok(HostPattern::Exact(name)) if !looks_like_address(&name) => Ok(EndpointAddress::Name(name)),
        _ => Err(format!("{text:?} is neither an IP address nor a host name")),
    }
}

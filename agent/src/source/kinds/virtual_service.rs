//! Reads a VirtualService: its head, and its `tls` and `tcp` routes. `http` is in `http_route`.

use std::sync::Arc;

use super::{Meta, http_route};
use crate::{
    mesh::{Destination, GatewayName, HostPattern, L4Match, L4Route, VirtualService, WeightedDestination},
    source::{
        fields::{Field, Fields},
        scalars,
    },
};

pub(super) fn read(meta: &Meta, mut spec: Fields<'_>) -> VirtualService {
    let namespace = &meta.object.namespace;
    let hosts: Vec<_> = spec
        .items("hosts")
        .iter()
        .filter_map(|host| host.parse(|text| HostPattern::parse(&scalars::qualified(text, namespace))))
        .collect();
    if hosts.is_empty() {
        spec.missing("hosts");
    }
    let mut gateways = gateway_names(&mut spec, namespace);
    if gateways.is_empty() {
        gateways.push(GatewayName::Mesh);
    }
    let routes = |items: Vec<Field<'_>>, tls: bool| -> Vec<L4Route> {
        items.iter().enumerate().filter_map(|(index, field)| l4_route(field, index, namespace, tls)).collect()
    };
    let http: Vec<_> = spec
        .items("http")
        .iter()
        .enumerate()
        .filter_map(|(index, field)| http_route::read(field, index, namespace))
        .collect();
    let tls = routes(spec.items("tls"), true);
    let tcp = routes(spec.items("tcp"), false);
    let export_to = scalars::export_to(spec.take("exportTo"), namespace);
    if http.is_empty() && tls.is_empty() && tcp.is_empty() {
        spec.of().refuse("has no http, tls or tcp route");
    }
    spec.finish();
    let (object, created) = (meta.object.clone(), Arc::clone(&meta.created));
    VirtualService { object, created, hosts, gateways, http, tls, tcp, export_to }
}

/// `gateways`: `mesh`, `name` in the own namespace, or `namespace/name`.
pub(super) fn gateway_names(fields: &mut Fields<'_>, own: &Arc<str>) -> Vec<GatewayName> {
    fields
        .texts("gateways")
        .into_iter()
        .map(|text| match text.split_once('/') {
            None if text == "mesh" => GatewayName::Mesh,
            None => GatewayName::Named { namespace: Arc::clone(own), name: text.into() },
            Some((namespace, name)) => {
                let namespace = if namespace == "." { Arc::clone(own) } else { namespace.into() };
                GatewayName::Named { namespace, name: name.into() }
            }
        })
        .collect()
}

/// `destination`.
pub(super) fn destination(field: &Field<'_>, own: &Arc<str>) -> Option<Destination> {
    let mut fields = field.fields()?;
    let host = fields.need("host").and_then(|field| {
        field.parse(|text| match HostPattern::parse(&scalars::qualified(text, own)) {
            Ok(HostPattern::Exact(host)) => Ok(host),
            Ok(_) => Err("a destination is one host, not a wildcard".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    });
    let port = fields.take("port").and_then(|field| {
        let mut port = field.fields()?;
        let number = port.need("number").and_then(|f| f.port());
        port.finish();
        number
    });
    let subset = fields.text("subset").filter(|name| !name.is_empty()).map(Into::into);
    fields.finish();
    Some(Destination { host: host?, port, subset })
}

/// Weights: a single destination gets everything; beside weights that are set, one that is not set is 0.
pub(super) fn settle_weights(
    of: &Field<'_>,
    mut given: Vec<(WeightedDestination, Option<u32>)>,
) -> Vec<WeightedDestination> {
    let single = given.len() == 1;
    let total: u64 = given.iter().map(|(_, weight)| u64::from(weight.unwrap_or(0))).sum();
    if !single && total == 0 {
        of.refuse("the weights of several destinations add up to 0");
    }
    if total > u64::from(u32::MAX) {
        of.refuse("the weights add up to more than 4294967295");
    }
    for (to, weight) in &mut given {
        to.weight = if single { 1 } else { weight.unwrap_or(0) };
    }
    given.into_iter().map(|(to, _)| to).collect()
}

fn l4_route(field: &Field<'_>, index: usize, own: &Arc<str>, tls: bool) -> Option<L4Route> {
    let mut fields = field.fields()?;
    let matches: Vec<_> = fields.items("match").iter().filter_map(|f| l4_match(f, own, tls)).collect();
    if tls && matches.is_empty() {
        fields.missing("match");
    }
    let route = fields.need("route");
    fields.finish();
    let route = route?;
    let mut destinations = Vec::new();
    for item in route.items() {
        let Some(mut fields) = item.fields() else { continue };
        let to = fields.need("destination").and_then(|f| destination(&f, own));
        let weight = fields.take("weight").and_then(|f| f.number(0, u32::MAX));
        fields.finish();
        let Some(destination) = to else { continue };
        let to =
            WeightedDestination { destination, weight: 0, request_headers: None, response_headers: None };
        destinations.push((to, weight));
    }
    if destinations.is_empty() {
        route.refuse("needs a destination");
    }
    let destinations = settle_weights(&route, destinations);
    Some(L4Route { name: index.to_string().into(), matches, destinations })
}

fn l4_match(field: &Field<'_>, own: &Arc<str>, tls: bool) -> Option<L4Match> {
    let mut fields = field.fields()?;
    let mut sni_hosts = Vec::new();
    if tls {
        sni_hosts = fields.items("sniHosts").iter().filter_map(|f| f.parse(HostPattern::parse)).collect();
        if sni_hosts.is_empty() {
            fields.missing("sniHosts");
        }
    }
    let destination_subnets =
        fields.items("destinationSubnets").iter().filter_map(|f| f.parse(scalars::network)).collect();
    let port = fields.take("port").and_then(|f| f.port());
    let gateways = gateway_names(&mut fields, own);
    let source_namespace = fields.text("sourceNamespace").map(Into::into);
    fields.unsupported(&["sourceLabels", "sourceSubnet"], "use sourceNamespace, or an AuthorizationPolicy");
    fields.finish();
    Some(L4Match { sni_hosts, destination_subnets, port, gateways, source_namespace })
}

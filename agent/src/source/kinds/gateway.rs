//! Reads a Gateway. The tunnel carries the workload's connection over mutual TLS already, so `tls` here only tells whether
//! what is inside is HTTP, the workload's own TLS, or opaque.

use std::sync::Arc;

use super::{Meta, checked_labels};
use crate::{
    mesh::{Gateway, HostPattern, Selector, Server, ServerHost, ServerKind},
    route::AppProtocol,
    source::{
        codes,
        fields::{Field, Fields},
        report::Severity,
    },
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Passthrough,
    Terminate,
    TerminateOther,
}

pub(super) fn read(meta: &Meta, mut spec: Fields<'_>) -> Option<Gateway> {
    let selector = Selector(spec.take("selector").map(|field| checked_labels(&field)).unwrap_or_default());
    let servers = spec.need("servers")?;
    let servers = servers.items().iter().filter_map(|field| server(field, &meta.object.namespace)).collect();
    spec.finish();
    Some(Gateway { object: meta.object.clone(), selector, servers })
}

fn server(field: &Field<'_>, own: &Arc<str>) -> Option<Server> {
    let mut fields = field.fields()?;
    let port = fields.need("port").and_then(|field| {
        let mut port = field.fields()?;
        let number = port.need("number").and_then(|f| f.port());
        let protocol =
            port.need("protocol").and_then(|f| super::service_entry::protocol_of(&f).map(|p| (p, f)));
        port.ignore(&["name"]);
        port.without_effect(&["targetPort"]);
        port.finish();
        Some((number?, protocol?.0, field))
    });
    let tls = fields.take("tls");
    let mode = tls.as_ref().and_then(tls_mode);
    let hosts: Vec<_> =
        fields.items("hosts").iter().filter_map(|f| f.parse(|text| server_host(text, own))).collect();
    if hosts.is_empty() {
        fields.missing("hosts");
    }
    fields.without_effect(&["bind"]);
    fields.unsupported(&["defaultEndpoint"], "remove it");
    fields.ignore(&["name"]);
    fields.finish();
    let (port, protocol, port_field) = port?;
    let secure = matches!(protocol, AppProtocol::Https | AppProtocol::Tls);
    if secure && tls.is_none() {
        port_field.refuse("a server with protocol HTTPS or TLS needs tls.mode");
    }
    let kind = match (protocol, mode) {
        (AppProtocol::Https | AppProtocol::Tls, Some(Mode::Passthrough)) => ServerKind::Passthrough,
        (AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Https, _) => ServerKind::Http,
        (AppProtocol::Tls | AppProtocol::Tcp | AppProtocol::Detect, _) => ServerKind::Tcp,
    };
    Some(Server { port, kind, hosts })
}

fn tls_mode(field: &Field<'_>) -> Option<Mode> {
    let mut fields = field.fields()?;
    let mode = fields.take("mode").map_or(Some(Mode::Passthrough), |mode| {
        let found = mode.one_of(&[
            ("PASSTHROUGH", Mode::Passthrough),
            ("ISTIO_MUTUAL", Mode::Terminate),
            ("SIMPLE", Mode::TerminateOther),
            ("MUTUAL", Mode::TerminateOther),
            ("OPTIONAL_MUTUAL", Mode::TerminateOther),
        ]);
        if found == Some(Mode::TerminateOther) {
            mode.report(
                Severity::Warning,
                codes::NO_EFFECT,
                "workloads reach the egress gateway through a tunnel with mutual TLS and workload certificates, so this certificate is not used",
                Some("use ISTIO_MUTUAL".to_owned()),
            );
        }
        found
    });
    fields.unsupported(
        &["subjectAltNames", "verifyCertificateSpki", "verifyCertificateHash", "httpsRedirect"],
        "restrict callers with an AuthorizationPolicy",
    );
    fields.ignore(&[
        "credentialName",
        "credentialNames",
        "serverCertificate",
        "privateKey",
        "caCertificates",
        "caCrl",
        "caCertCredentialName",
        "tlsCertificates",
    ]);
    fields.without_effect(&["minProtocolVersion", "maxProtocolVersion", "cipherSuites"]);
    fields.finish();
    mode
}

fn server_host(text: &str, own: &Arc<str>) -> Result<ServerHost, String> {
    let (namespace, host) = match text.split_once('/') {
        None | Some(("*", _)) => (None, text.rsplit('/').next().unwrap_or(text)),
        Some((".", host)) => (Some(Arc::clone(own)), host),
        Some((namespace, host)) => (Some(Arc::from(namespace)), host),
    };
    let host = HostPattern::parse(host).map_err(|error| error.to_string())?;
    Ok(ServerHost { namespace, host })
}

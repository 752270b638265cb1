//! Both ends of a mesh handshake, in memory, with right and wrong certificates (cases ID-01 to ID-03, TLS-13).

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection,
    pki_types::{IpAddr, Ipv4Addr, ServerName},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{WorkloadCertificate, peer_identity};
use crate::{
    mesh::SpiffeId,
    tls::{
        provider::{MESH_VERSIONS, provider},
        testing::{Issued, TestAuthority, with_uris},
    },
};

const GATEWAY: &str = "spiffe://cluster.local/ns/istio-system/sa/egress";
const SLEEP: &str = "spiffe://cluster.local/ns/default/sa/sleep";

fn id(s: &str) -> SpiffeId {
    s.parse().unwrap()
}

/// Runs the handshake to its end; what either side says against it.
fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Result<ServerConnection, String> {
    let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([127, 0, 0, 1])));
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut input = bytes.as_slice();
        while !input.is_empty() {
            server.read_tls(&mut input).unwrap();
            server.process_new_packets().map_err(|e| format!("server: {e}"))?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut input = bytes.as_slice();
        while !input.is_empty() {
            client.read_tls(&mut input).unwrap();
            client.process_new_packets().map_err(|e| format!("client: {e}"))?;
        }
    }
    Ok(server)
}

/// A client that presents any certificate, and trusts `authority`.
fn client_with(issued: &Issued, authority: &TestAuthority) -> Arc<ClientConfig> {
    let key =
        CertifiedKey::from_der(vec![issued.certificate.clone()], issued.key_der(), &provider()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.root()).unwrap();
    Arc::new(
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(MESH_VERSIONS)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(crate::tls::peer::ExpectServer {
                roots: Arc::new(roots),
                server: id(GATEWAY),
            }))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
    )
}

#[test]
fn both_ends_know_each_other() {
    let authority = TestAuthority::new();
    let (gateway, sleep) = (authority.workload(GATEWAY), authority.workload(SLEEP));
    let server = handshake(sleep.client_config(&id(GATEWAY)), gateway.server_config()).unwrap();
    assert_eq!(peer_identity(&server), Some(id(SLEEP)));
    assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(server.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[test]
fn configurations_are_made_once() {
    let sleep = TestAuthority::new().workload(SLEEP);
    assert!(Arc::ptr_eq(&sleep.client_config(&id(GATEWAY)), &sleep.client_config(&id(GATEWAY))));
    assert!(!Arc::ptr_eq(&sleep.client_config(&id(GATEWAY)), &sleep.client_config(&id(SLEEP))));
}

#[test]
fn a_client_accepts_only_the_server_it_dialled() {
    let authority = TestAuthority::new();
    let sleep = authority.workload(SLEEP);
    let impostor = authority.workload("spiffe://cluster.local/ns/default/sa/egress");
    let error = handshake(sleep.client_config(&id(GATEWAY)), impostor.server_config()).unwrap_err();
    assert!(error.starts_with("client: ") && error.contains("ns/default/sa/egress, not of"), "{error}");

    let foreign = TestAuthority::new().workload(GATEWAY);
    let error = handshake(sleep.client_config(&id(GATEWAY)), foreign.server_config()).unwrap_err();
    assert!(error.starts_with("client: "), "{error}");
}

#[test]
fn a_server_refuses_certificates_without_exactly_one_identity_of_its_trust_domain() {
    let authority = TestAuthority::new();
    let gateway = authority.workload(GATEWAY);
    let dns_only = CertificateParams::new(vec!["sleep.default".to_owned()]).unwrap();
    let mut signs = with_uris(&[SLEEP]);
    signs.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let mut is_authority = with_uris(&[SLEEP]);
    is_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut server_only = with_uris(&[SLEEP]);
    server_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut expired = with_uris(&[SLEEP]);
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    for (name, params) in [
        ("foreign trust domain", with_uris(&["spiffe://other.domain/ns/default/sa/sleep"])),
        ("extra path segment", with_uris(&["spiffe://cluster.local/ns/default/sa/sleep/x"])),
        ("no path", with_uris(&["spiffe://cluster.local"])),
        ("other scheme", with_uris(&["https://cluster.local/ns/default/sa/sleep"])),
        ("no URI name", with_uris(&[])),
        ("DNS name only", dns_only),
        ("two URI names", with_uris(&[SLEEP, GATEWAY])),
        ("keyCertSign", signs),
        ("cA", is_authority),
        ("server usage only", server_only),
        ("expired", expired),
    ] {
        let client = client_with(&authority.issue(&params), &authority);
        let error = handshake(client, gateway.server_config()).err();
        assert!(error.as_ref().is_some_and(|e| e.starts_with("server: ")), "{name}: {error:?}");
    }
    // The same client with a good certificate gets in, so the cases above fail for their own reason.
    let good = client_with(&authority.issue(&with_uris(&[SLEEP])), &authority);
    handshake(good, gateway.server_config()).unwrap();
    let stranger = client_with(&TestAuthority::new().issue(&with_uris(&[SLEEP])), &authority);
    assert!(handshake(stranger, gateway.server_config()).is_err());
}

#[test]
fn a_client_refuses_a_server_with_a_client_certificate() {
    let authority = TestAuthority::new();
    let mut client_only = with_uris(&[GATEWAY]);
    client_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let issued = authority.issue(&client_only);
    let gateway =
        WorkloadCertificate::new(vec![issued.certificate.clone()], issued.key_der(), &[authority.root()])
            .unwrap();
    let sleep = authority.workload(SLEEP);
    assert!(handshake(sleep.client_config(&id(GATEWAY)), gateway.server_config()).is_err());
}

#[test]
fn a_client_without_certificate_is_refused() {
    let authority = TestAuthority::new();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.root()).unwrap();
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(MESH_VERSIONS)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(crate::tls::peer::ExpectServer {
            roots: Arc::new(roots),
            server: id(GATEWAY),
        }))
        .with_no_client_auth();
    assert!(handshake(Arc::new(client), authority.workload(GATEWAY).server_config()).is_err());
}

#[test]
fn a_key_that_does_not_fit_is_refused() {
    let authority = TestAuthority::new();
    let (one, other) = (authority.issue(&with_uris(&[SLEEP])), authority.issue(&with_uris(&[SLEEP])));
    let result = WorkloadCertificate::new(vec![one.certificate], other.key_der(), &[authority.root()]);
    assert!(result.unwrap_err().to_string().contains("key"));
}

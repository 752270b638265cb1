//! Origination against a real server on a socket: Istio's seven cases (TLS-01 to TLS-07) and the others of their table.

use std::{io, sync::Arc};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SanType};
use rustls::{
    RootCertStore, ServerConfig,
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::task::AbortOnDropHandle;

use super::{Client, Originator};
use crate::{
    mesh::{Credential, Kind, ObjectRef, Snapshot},
    reason::{Reason, Refusal},
    route::TlsOrigination,
    tls::{
        provider::{INTERNET_VERSIONS, provider},
        testing::{Issued, TestAuthority},
    },
};

const NAME: &str = "test.client";

fn dns(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

fn origination(mutual: bool) -> TlsOrigination {
    TlsOrigination {
        mutual,
        credential_name: Some(NAME.into()),
        sni: None,
        subject_alt_names: Vec::new(),
        insecure_skip_verify: false,
        object: ObjectRef::new(Kind::DestinationRule, "default", "test"),
    }
}

/// A credential with everything, signed by `client`, that trusts `server`.
fn credential(client: &TestAuthority, server: &TestAuthority) -> Credential {
    let issued = client.issue(&dns(&["client"]));
    Credential {
        object: ObjectRef::new(Kind::Secret, "istio-system", NAME),
        certificate: Some(issued.pem.into_bytes()),
        key: Some(issued.key.serialize_pem().into_bytes()),
        ca: Some(server.root_pem().into_bytes()),
        crl: None,
    }
}

fn snapshot(credential: Credential) -> Snapshot {
    Snapshot { credentials: [(NAME.to_owned(), Arc::new(credential))].into(), ..Snapshot::default() }
}

/// A TLS server that says hello to whoever gets through; `clients` signs the certificates it requires.
struct Server {
    address: std::net::SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    async fn start(issued: &Issued, clients: Option<&TestAuthority>) -> Self {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(INTERNET_VERSIONS)
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.root()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key =
            CertifiedKey::from_der(vec![issued.certificate.clone()], issued.key_der(), &provider()).unwrap();
        let config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
                let sni = tls.get_ref().1.server_name().unwrap_or("-").to_owned();
                tls.write_all(sni.as_bytes()).await.ok();
                tls.shutdown().await.ok();
            }
        });
        Self { address, _task: AbortOnDropHandle::new(task) }
    }

    /// What the server says (the SNI it saw), or why the handshake failed.
    async fn talk(&self, client: &Client) -> io::Result<String> {
        let tcp = TcpStream::connect(self.address).await?;
        let connector = TlsConnector::from(Arc::clone(&client.config));
        let mut tls = connector.connect(client.server_name.clone(), tcp).await?;
        let mut said = String::new();
        tls.read_to_string(&mut said).await?;
        Ok(said)
    }
}

async fn attempt(server: &Server, snapshot: &Snapshot, rule: &TlsOrigination) -> Result<String, Refusal> {
    let originator = Originator::with_system_roots(RootCertStore::empty());
    let client = originator.client(snapshot, &Arc::new(rule.clone()), "test.com", &[b"http/1.1"])?;
    server.talk(&client).await.map_err(|e| Originator::explain(rule, &e))
}

fn assert_refused(result: Result<String, Refusal>, reason: Reason, parts: &[&str]) {
    let refusal = result.unwrap_err();
    assert_eq!(refusal.reason, reason, "{refusal}");
    for part in parts {
        assert!(refusal.detail.contains(part), "{part:?} is not in: {refusal}");
    }
    let kind = if reason == Reason::Credential { Kind::Secret } else { Kind::DestinationRule };
    assert_eq!(refusal.object.unwrap().kind, kind);
}

struct World {
    servers: TestAuthority,
    clients: TestAuthority,
    server: Server,
}

impl World {
    async fn new() -> Self {
        let (servers, clients) = (TestAuthority::new(), TestAuthority::new());
        let server = Server::start(&servers.issue(&dns(&["test.com"])), Some(&clients)).await;
        Self { servers, clients, server }
    }

    fn credential(&self) -> Credential {
        credential(&self.clients, &self.servers)
    }
}

#[tokio::test]
async fn tls_01_a_good_credential_connects() {
    let world = World::new().await;
    let said = attempt(&world.server, &snapshot(world.credential()), &origination(true)).await;
    assert_eq!(said.unwrap(), "test.com");
}

#[tokio::test]
async fn tls_02_a_wrong_root_is_refused() {
    let world = World::new().await;
    let wrong = credential(&world.clients, &TestAuthority::new());
    let result = attempt(&world.server, &snapshot(wrong), &origination(true)).await;
    assert_refused(result, Reason::UpstreamTls, &["not signed by the CA in Secret test.client"]);
}

#[tokio::test]
async fn tls_03_a_missing_secret_is_refused() {
    let world = World::new().await;
    let result = attempt(&world.server, &Snapshot::default(), &origination(true)).await;
    assert_refused(
        result,
        Reason::Credential,
        &["Secret istio-system/test.client", "DestinationRule default/test"],
    );
}

#[tokio::test]
async fn tls_04_a_client_certificate_unknown_to_the_server_is_explained() {
    let world = World::new().await;
    let stranger = credential(&TestAuthority::new(), &world.servers);
    let result = attempt(&world.server, &snapshot(stranger), &origination(true)).await;
    assert_refused(result, Reason::UpstreamTls, &["rejected our client certificate", "Secret test.client"]);
}

#[tokio::test]
async fn tls_05_a_secret_with_only_a_ca_is_refused_for_mutual() {
    let world = World::new().await;
    let ca_only = Credential { certificate: None, key: None, ..world.credential() };
    let result = attempt(&world.server, &snapshot(ca_only), &origination(true)).await;
    assert_refused(result, Reason::Credential, &["Secret istio-system/test.client: tls.crt", "missing"]);
}

fn crl(authority: &TestAuthority, serials: &[&[u8]], expired: bool) -> Vec<u8> {
    let params = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2020, 1, 1),
        next_update: rcgen::date_time_ymd(if expired { 2021 } else { 2090 }, 1, 1),
        crl_number: rcgen::SerialNumber::from_slice(&[1]),
        issuing_distribution_point: None,
        revoked_certs: serials
            .iter()
            .map(|serial| rcgen::RevokedCertParams {
                serial_number: rcgen::SerialNumber::from_slice(serial),
                revocation_time: rcgen::date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            })
            .collect(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    params.signed_by(authority.issuer()).unwrap().pem().unwrap().into_bytes()
}

#[tokio::test]
async fn tls_06_07_revocation_lists_are_honoured() {
    let (servers, clients) = (TestAuthority::new(), TestAuthority::new());
    let mut params = dns(&["test.com"]);
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&[42]));
    let server = Server::start(&servers.issue(&params), Some(&clients)).await;
    for (list, expected) in [
        (crl(&servers, &[&[42]], false), Some("is revoked")),
        (crl(&servers, &[&[43]], false), None),
        (crl(&servers, &[], false), None),
        (crl(&servers, &[], true), Some("revocation list expired at 2021-01-01")),
    ] {
        let credential = Credential { crl: Some(list), ..credential(&clients, &servers) };
        let result = attempt(&server, &snapshot(credential), &origination(true)).await;
        match expected {
            None => assert_eq!(result.unwrap(), "test.com"),
            Some(part) => assert_refused(result, Reason::UpstreamTls, &[part]),
        }
    }
}

#[tokio::test]
async fn tls_08_the_name_is_verified() {
    let world = World::new().await;
    let named = |sni: Option<&str>, names: &[&str]| TlsOrigination {
        sni: sni.map(Into::into),
        subject_alt_names: names.iter().map(|&name| name.into()).collect(),
        ..origination(true)
    };
    let (servers, clients) = (&world.servers, &world.clients);
    let mut params = dns(&["test.com", "*.wild.com"]);
    params.subject_alt_names.push(SanType::URI("spiffe://x/ns/a/sa/b".try_into().unwrap()));
    let server = Server::start(&servers.issue(&params), Some(clients)).await;
    let snapshot = snapshot(world.credential());
    for (sni, names, sent) in [
        (None, &[][..], Some("test.com")),
        (Some("TEST.com."), &[][..], Some("test.com")),
        (Some("a.wild.com"), &[], Some("a.wild.com")),
        // TLS-10: a wildcard is one label.
        (Some("a.b.wild.com"), &[], None),
        (Some("wild.com"), &[], None),
        // Istio verifies no name here; we verify `sni`.
        (Some("other.com"), &[], None),
        (Some("other.com"), &["test.com"], Some("other.com")),
        (None, &["other.com"], None),
        (None, &["other.com", "test.com"], Some("test.com")),
        (None, &["spiffe://x/ns/a/sa/b"], Some("test.com")),
        (None, &["spiffe://x/ns/a/sa/c"], None),
        (None, &["*.wild.com"], Some("test.com")),
        (None, &["*.com"], None),
        (None, &["a name that is none"], None),
    ] {
        let rule = named(sni, names);
        let result = attempt(&server, &snapshot, &rule).await;
        match sent {
            Some(sent) => assert_eq!(result.unwrap(), sent, "{sni:?} {names:?}"),
            None => assert_refused(result, Reason::UpstreamTls, &["test.com, *.wild.com", "not for"]),
        }
    }
}

#[tokio::test]
async fn an_address_is_verified_as_an_address() {
    let servers = TestAuthority::new();
    let snapshot = snapshot(credential(&TestAuthority::new(), &servers));
    let originator = Originator::with_system_roots(RootCertStore::empty());
    for (names, good) in [(&["192.0.2.1"][..], true), (&["test.com"][..], false)] {
        let server = Server::start(&servers.issue(&dns(names)), None).await;
        let client = originator.client(&snapshot, &Arc::new(origination(false)), "192.0.2.1", &[]).unwrap();
        assert_eq!(server.talk(&client).await.is_ok(), good, "{names:?}");
    }
}

#[tokio::test]
async fn tls_09_verification_is_skipped_only_when_that_is_written() {
    let world = World::new().await;
    let wrong = snapshot(credential(&world.clients, &TestAuthority::new()));
    let rule = TlsOrigination { insecure_skip_verify: true, ..origination(true) };
    assert_eq!(attempt(&world.server, &wrong, &rule).await.unwrap(), "test.com");
}

#[tokio::test]
async fn tls_12_13_expired_and_unfit_servers_are_refused() {
    let servers = TestAuthority::new();
    let snapshot = snapshot(credential(&TestAuthority::new(), &servers));
    let (mut expired, mut early, mut client_only) =
        (dns(&["test.com"]), dns(&["test.com"]), dns(&["test.com"]));
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    early.not_before = rcgen::date_time_ymd(2090, 1, 1);
    client_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    for (params, part) in [
        (expired, "expired at 2020-01-01"),
        (early, "not valid before 2090-01-01"),
        (client_only, "not meant for servers"),
    ] {
        let server = Server::start(&servers.issue(&params), None).await;
        assert_refused(attempt(&server, &snapshot, &origination(false)).await, Reason::UpstreamTls, &[part]);
    }
}

#[tokio::test]
async fn without_a_credential_the_systems_anchors_decide() {
    let (servers, system) = (TestAuthority::new(), TestAuthority::new());
    let rule = Arc::new(TlsOrigination { credential_name: None, ..origination(false) });
    let mut roots = RootCertStore::empty();
    roots.add(system.root()).unwrap();
    let originator = Originator::with_system_roots(roots);
    let client = originator.client(&Snapshot::default(), &rule, "test.com", &[]).unwrap();
    let good = Server::start(&system.issue(&dns(&["test.com"])), None).await;
    assert_eq!(good.talk(&client).await.unwrap(), "test.com");
    let bad = Server::start(&servers.issue(&dns(&["test.com"])), None).await;
    let refusal = Originator::explain(&rule, &bad.talk(&client).await.unwrap_err());
    assert!(refusal.detail.contains("the system's trust anchors"), "{refusal}");

    let none = Originator::with_system_roots(RootCertStore::empty());
    let refusal = none.client(&Snapshot::default(), &rule, "test.com", &[]).map(|_| String::new());
    assert_refused(refusal, Reason::UpstreamTls, &["ca-certificates"]);
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_from_simple_is_explained() {
    let world = World::new().await;
    let result = attempt(&world.server, &snapshot(world.credential()), &origination(false)).await;
    assert_refused(result, Reason::UpstreamTls, &["requires a client certificate", "MUTUAL"]);
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_explained() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = Server {
        address: listener.local_addr().unwrap(),
        _task: AbortOnDropHandle::new(tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            assert!(tcp.read(&mut [0; 1024]).await.unwrap() > 0);
            drop(tcp);
            drop(listener.accept().await.unwrap());
        })),
    };
    let snapshot = snapshot(credential(&TestAuthority::new(), &TestAuthority::new()));
    let result = attempt(&plain, &snapshot, &origination(false)).await;
    assert_refused(result, Reason::UpstreamTls, &["not TLS"]);
    let result = attempt(&plain, &snapshot, &origination(false)).await;
    assert_refused(result, Reason::UpstreamTls, &["closed the connection"]);
}

#[test]
fn what_is_wrong_with_a_credential_is_said_precisely() {
    let (servers, clients) = (TestAuthority::new(), TestAuthority::new());
    let good = credential(&clients, &servers);
    let other = credential(&clients, &servers);
    let mut old = dns(&["client"]);
    old.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let old = clients.issue(&old);
    let mut early = dns(&["client"]);
    early.not_before = rcgen::date_time_ymd(2090, 1, 1);
    let early = clients.issue(&early);
    let with_pair = |issued: &Issued| Credential {
        certificate: Some(issued.pem.clone().into_bytes()),
        key: Some(issued.key.serialize_pem().into_bytes()),
        ..good.clone()
    };
    let text = |s: &str| Some(s.as_bytes().to_vec());
    let broken = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    let cases = [
        (Credential { key: None, ..good.clone() }, "tls.key (or key) is missing"),
        (Credential { key: other.key, ..good.clone() }, "tls.key (or key) does not fit the certificate"),
        (Credential { key: text("x"), ..good.clone() }, "tls.key (or key) holds no private key"),
        (Credential { certificate: text("x"), ..good.clone() }, "tls.crt (or cert) holds no certificate"),
        (Credential { certificate: text(broken), ..good.clone() }, "tls.crt (or cert) is not valid PEM"),
        (Credential { ca: None, ..good.clone() }, "ca.crt (or cacert) is missing"),
        (Credential { ca: text("x"), ..good.clone() }, "ca.crt (or cacert) holds no certificate"),
        (Credential { ca: text(broken), ..good.clone() }, "ca.crt (or cacert) is not valid PEM"),
        (Credential { crl: text("x"), ..good.clone() }, "ca.crl (or crl) holds no revocation list"),
        (with_pair(&old), "the certificate in tls.crt (or cert) expired at 2020-01-01"),
        (with_pair(&early), "the certificate in tls.crt (or cert) is not valid before 2090-01-01"),
    ];
    let originator = Originator::with_system_roots(RootCertStore::empty());
    for (credential, part) in cases {
        let result = originator.client(&snapshot(credential), &Arc::new(origination(true)), "test.com", &[]);
        assert_refused(
            result.map(|_| "a configuration".to_owned()),
            Reason::Credential,
            &["Secret istio-system/test.client: ", part],
        );
    }
    assert!(originator.client(&snapshot(good), &Arc::new(origination(true)), "test.com", &[]).is_ok());
}

#[test]
fn mutual_without_a_name_is_refused() {
    let rule = Arc::new(TlsOrigination { credential_name: None, ..origination(true) });
    let originator = Originator::with_system_roots(RootCertStore::empty());
    let refusal = originator.client(&Snapshot::default(), &rule, "test.com", &[]).unwrap_err();
    assert_eq!(refusal.reason, Reason::Credential);
}

#[test]
fn the_ca_may_be_in_a_secret_of_its_own() {
    let good = credential(&TestAuthority::new(), &TestAuthority::new());
    let ca = Credential {
        object: ObjectRef::new(Kind::Secret, "istio-system", "test.client-cacert"),
        certificate: None,
        key: None,
        ..good.clone()
    };
    let mut snapshot = snapshot(Credential { ca: None, ..good });
    snapshot.credentials.insert("test.client-cacert".to_owned(), Arc::new(ca));
    let originator = Originator::with_system_roots(RootCertStore::empty());
    assert!(originator.client(&snapshot, &Arc::new(origination(true)), "test.com", &[]).is_ok());
}

#[tokio::test]
async fn tls_20_a_rotated_secret_is_used_at_once_and_an_equal_one_changes_nothing() {
    let world = World::new().await;
    let originator = Originator::with_system_roots(RootCertStore::empty());
    let good = world.credential();
    let rule = Arc::new(origination(true));
    let client = |credential: &Credential| {
        originator.client(&snapshot(credential.clone()), &rule, "test.com", &[]).unwrap()
    };
    let first = client(&good);
    let same = client(&good);
    assert_eq!(first.generation, same.generation);
    assert!(Arc::ptr_eq(&first.config, &same.config));

    let wrong = client(&credential(&world.clients, &TestAuthority::new()));
    assert_ne!(wrong.generation, first.generation);
    assert!(world.server.talk(&wrong).await.is_err());
    let back = client(&good);
    assert_ne!(back.generation, wrong.generation);
    assert_eq!(world.server.talk(&back).await.unwrap(), "test.com");

    let other_host = originator.client(&snapshot(good.clone()), &rule, "other.com", &[]).unwrap();
    let other_alpn = originator.client(&snapshot(good), &rule, "test.com", &[b"h2"]).unwrap();
    assert!(![back.generation, other_alpn.generation].contains(&other_host.generation));
    assert_ne!(back.generation, other_alpn.generation);
}

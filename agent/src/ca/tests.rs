//! The authority's file, what it signs, and the whole way over the socket.

mod network;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use rcgen::{CertificateParams, KeyPair};
use tokio_util::sync::CancellationToken;

use super::{Authority, listen, serve};
use crate::{
    mesh::SpiffeId,
    tls::{
        certificate::WorkloadCertificate,
        issuer::{Issuer as _, unix::UnixIssuer},
    },
};

const DOMAIN: &str = "cluster.local";

fn id(name: &str) -> SpiffeId {
    SpiffeId::new(DOMAIN, "default", name).unwrap()
}

fn request() -> (KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params
        .subject_alt_names
        .push(rcgen::SanType::URI("spiffe://cluster.local/ns/kube-system/sa/admin".try_into().unwrap()));
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    (key, csr)
}

fn certificate(
    authority: &Authority,
    identity: &SpiffeId,
    validity: Option<Duration>,
) -> WorkloadCertificate {
    let (key, csr) = request();
    let chain = authority.sign(identity, &csr, validity).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    WorkloadCertificate::from_pem(&chain, key).unwrap()
}

#[test]
fn the_root_is_kept_and_only_its_owner_may_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().join("ca");
    let first = Authority::load_or_create(&directory, DOMAIN).unwrap();
    let again = Authority::load_or_create(&directory, DOMAIN).unwrap();
    assert_eq!(first.roots_pem(), again.roots_pem());
    assert!(!first.roots_pem().contains("PRIVATE"));
    assert_eq!(fs::metadata(directory.join("root.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "a temporary file was left");
}

#[test]
fn an_unusable_root_is_refused_with_its_name_and_the_cause() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("root.pem");
    Authority::load_or_create(directory.path(), DOMAIN).unwrap();
    let good = fs::read_to_string(&path).unwrap();
    let other = Authority::generate(DOMAIN).unwrap().keys();
    let other = format!("{}{}", other.key, other.certificates);
    let certificate_at = |pem: &str| pem.find("-----BEGIN CERTIFICATE").unwrap();
    let mixed = format!("{}{}", &good[..certificate_at(&good)], &other[certificate_at(&other)..]);
    let expired = {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.subject_alt_names =
            vec![rcgen::SanType::URI(format!("spiffe://{DOMAIN}").try_into().unwrap())];
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        format!("{}{}", key.serialize_pem(), params.self_signed(&key).unwrap().pem())
    };
    for (pem, domain, expected) in [
        (String::new(), DOMAIN, "no private key"),
        (good[..good.len() / 2].to_owned(), DOMAIN, "no certificate"),
        (
            good.clone(),
            "other.domain",
            "it is the root of spiffe://cluster.local, not of trust domain other.domain",
        ),
        (mixed, DOMAIN, "its key does not fit"),
        (expired, DOMAIN, "is valid from"),
    ] {
        fs::write(&path, pem).unwrap();
        let error = Authority::load_or_create(directory.path(), domain).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("root.pem"), "{expected}: {error}");
    }
    fs::write(&path, &good).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Authority::load_or_create(directory.path(), DOMAIN).unwrap_err().to_string();
    assert!(error.contains("mode 644") && error.contains("600"), "{error}");
}

#[test]
fn what_the_request_says_of_itself_is_ignored() {
    let authority = Authority::generate(DOMAIN).unwrap();
    assert_eq!(*certificate(&authority, &id("sleep"), None).identity(), id("sleep"));
}

#[test]
fn validity_is_bounded_both_ways() {
    let authority = Authority::generate(DOMAIN).unwrap().with_ttl(Duration::from_hours(1));
    for (asked, granted) in [(None, 3600), (Some(600), 600), (Some(u64::from(u32::MAX)), 3600), (Some(1), 60)]
    {
        let certificate = certificate(&authority, &id("sleep"), asked.map(Duration::from_secs));
        // A minute of it lies in the past.
        assert_eq!(certificate.lifetime().as_secs(), granted + 60, "{asked:?}");
    }
}

#[test]
fn refuses_foreign_identities_and_forged_requests() {
    let authority = Authority::generate(DOMAIN).unwrap();
    let (_, csr) = request();
    let foreign = SpiffeId::new("other.domain", "default", "sleep").unwrap();
    assert!(authority.sign(&foreign, &csr, None).unwrap_err().to_string().contains("trust domain"));
    assert!(authority.sign(&id("sleep"), "no request", None).is_err());
    // Another key's signature under the same request.
    let der = pem_body(&csr);
    let mut forged = der.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let forged = rustls::pki_types::CertificateSigningRequestDer::from(forged);
    assert!(rcgen::CertificateSigningRequestParams::from_der(&forged).is_err());
}

fn pem_body(pem: &str) -> Vec<u8> {
    use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
    CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

fn start(socket: &Path, authority: &Authority) -> (tokio::task::JoinHandle<()>, CancellationToken) {
    let drain = CancellationToken::new();
    let listener = listen(socket).unwrap();
    (tokio::spawn(serve(listener, authority.clone(), drain.clone())), drain)
}

#[tokio::test]
async fn a_certificate_comes_over_the_socket_and_a_restarted_ca_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("ca.sock");
    let authority = Authority::generate(DOMAIN).unwrap();
    let issuer = UnixIssuer::new(&socket);
    for _ in 0..2 {
        let (server, drain) = start(&socket, &authority);
        let certificate = issuer.issue(&id("sleep")).await.unwrap();
        assert_eq!(*certificate.identity(), id("sleep"));
        drain.cancel();
        server.await.unwrap();
        assert!(socket.exists(), "left behind, as by a killed CA");
    }
}

#[tokio::test]
async fn a_socket_is_private_and_never_taken_from_a_running_ca() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("ca.sock");
    let _first = listen(&socket).unwrap();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(listen(&socket).unwrap_err().to_string().contains("another CA is running"));
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(listen(&file).unwrap_err().to_string().contains("no socket"));
}

#[tokio::test]
async fn errors_name_the_socket_and_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("ca.sock");
    let issuer = UnixIssuer::new(&socket);
    let error = issuer.issue(&id("sleep")).await.unwrap_err().to_string();
    assert!(error.contains("ca.sock") && error.contains("is `egret ca` running?"), "{error}");

    let authority = Authority::generate(DOMAIN).unwrap();
    let (_server, _drain) = start(&socket, &authority);
    let foreign = SpiffeId::new("other.domain", "default", "sleep").unwrap();
    let error = issuer.issue(&foreign).await.unwrap_err().to_string();
    assert!(error.contains("this CA's trust domain is cluster.local"), "{error}");
}

//! The whole way over TLS, from the issuer in agents and gateways to a CA that knows its callers from a fake.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use super::{DOMAIN, id};
use crate::{
    ca::{
        Account, Authority, Caller, Callers, Desk, Keys, Office, Opening, Rules, Tally, Unknown,
        serve_network,
    },
    mesh::SpiffeId,
    tls::{
        certificate::WorkloadCertificate,
        issuer::{
            Issuer as _,
            network::{Network, NetworkIssuer},
        },
    },
};

/// Tokens are `NAMESPACE/ACCOUNT@NODE`; what runs on node `a` is default/sleep.
struct Fake;

impl Callers for Fake {
    async fn identify(&self, token: &str) -> Result<Caller, Unknown> {
        if token == "away" {
            return Err(Unknown::Unavailable("the API server cannot be reached".to_owned()));
        }
        let parts = token.split_once('@').and_then(|(account, node)| Some((account.split_once('/')?, node)));
        let ((namespace, name), node) =
            parts.ok_or_else(|| Unknown::Refused("the token is refused: expired".to_owned()))?;
        Ok(Caller {
            account: Account { namespace: namespace.to_owned(), name: name.to_owned() },
            node: Some(node.to_owned()),
        })
    }

    async fn runs(&self, node: &str, namespace: &str, service_account: &str) -> Result<bool, Unknown> {
        Ok((node, namespace, service_account) == ("a", "default", "sleep"))
    }
}

fn rules() -> Rules {
    Rules {
        namespace: "istio-system".to_owned(),
        agent: Account { namespace: "istio-system".to_owned(), name: "egret-agent".to_owned() },
    }
}

struct Rig {
    address: SocketAddr,
    office: watch::Sender<Opening>,
    tally: Arc<Tally>,
    roots: String,
    directory: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Rig {
    async fn with(keys: &Keys) -> Self {
        let office = Office::open(keys, DOMAIN, &rules()).await.unwrap();
        let roots = office.authority().roots_pem();
        let (office, receiver) = watch::channel(Some(Ok(office)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tally, stop) = (Arc::new(Tally::default()), CancellationToken::new());
        let desk = Desk { callers: Fake, rules: rules(), office: receiver, tally: Arc::clone(&tally) };
        tokio::spawn(serve_network(listener, desk, stop.clone()));
        Self { address, office, tally, roots, directory: tempfile::tempdir().unwrap(), stop }
    }

    async fn new() -> Self {
        Self::with(&Authority::generate(DOMAIN).unwrap().keys()).await
    }

    fn issuer(&self, token: &str) -> NetworkIssuer {
        self.issuer_with(token, vec![self.address], &self.roots, "egret-ca")
    }

    fn issuer_with(&self, token: &str, replicas: Vec<SocketAddr>, roots: &str, ca: &str) -> NetworkIssuer {
        let path = self.directory.path().join("token");
        std::fs::write(&path, format!("{token}\n")).unwrap();
        NetworkIssuer::new(network(replicas, roots, ca, path))
    }

    async fn ask(&self, token: &str, identity: &SpiffeId) -> Result<WorkloadCertificate, String> {
        self.issuer(token).issue(identity).await.map_err(|e| e.to_string())
    }
}

fn network(replicas: Vec<SocketAddr>, roots: &str, ca: &str, token: PathBuf) -> Network {
    // The senders are gone: what was sent stays.
    Network {
        name: "Service istio-system/egret-ca".to_owned(),
        replicas: watch::channel(Some(replicas)).1,
        roots: watch::channel(Some(roots.to_owned())).1,
        identity: SpiffeId::new(DOMAIN, "istio-system", ca).unwrap(),
        token,
    }
}

const AGENT: &str = "istio-system/egret-agent@a";

#[tokio::test]
async fn an_agent_gets_certificates_of_what_runs_on_its_node() {
    let rig = Rig::new().await;
    assert_eq!(*rig.ask(AGENT, &id("sleep")).await.unwrap().identity(), id("sleep"));
    for (token, identity, expected) in [
        ("istio-system/egret-agent@b", id("sleep"), "runs on the agent's node b"),
        (AGENT, id("other"), "no pod of service account default/other"),
        ("default/sleep@a", id("sleep"), "may not ask this CA"),
        ("nonsense", id("sleep"), "expired"),
        ("away", id("sleep"), "the API server cannot be reached"),
    ] {
        let error = rig.ask(token, &identity).await.unwrap_err();
        assert!(error.contains(expected) && error.contains("egret-ca"), "{expected}: {error}");
    }
    let counted = rig.tally.counts();
    let expected = [("denied", 3), ("issued", 1), ("unauthenticated", 1), ("unavailable", 1)];
    assert_eq!(counted, expected.map(|(name, count)| (name.to_owned(), count)).into());
}

#[tokio::test]
async fn the_server_has_to_be_the_ca_of_the_root_that_is_published() {
    let rig = Rig::new().await;
    let stranger = Authority::generate(DOMAIN).unwrap().roots_pem();
    let error = rig.issuer_with(AGENT, vec![rig.address], &stranger, "egret-ca").issue(&id("sleep")).await;
    assert!(error.unwrap_err().to_string().contains("TLS failed"));
    let error = rig.issuer_with(AGENT, vec![rig.address], &rig.roots, "somebody").issue(&id("sleep")).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("sa/egret-ca, not of"), "{error}");
    assert!(rig.tally.counts().is_empty(), "no token was sent to it");
}

#[tokio::test]
async fn a_replica_that_is_gone_is_passed_over() {
    let rig = Rig::new().await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for _ in 0..8 {
        let issuer = rig.issuer_with(AGENT, vec![gone, rig.address], &rig.roots, "egret-ca");
        issuer.issue(&id("sleep")).await.unwrap();
    }
    let error = rig.issuer_with(AGENT, vec![gone], &rig.roots, "egret-ca").issue(&id("sleep")).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains(&gone.to_string()) && error.contains("cannot be reached"), "{error}");
}

#[tokio::test]
async fn a_ca_without_keys_serves_nobody_until_it_has_some() {
    let rig = Rig::new().await;
    let office = rig.office.send_replace(Some(Err("the Secret is unusable".to_owned())));
    assert!(rig.ask(AGENT, &id("sleep")).await.unwrap_err().contains("TLS failed"));
    rig.office.send_replace(office);
    rig.ask(AGENT, &id("sleep")).await.unwrap();
}

#[tokio::test]
async fn whoever_fails_often_is_not_asked_about_any_more() {
    let rig = Rig::new().await;
    for _ in 0..10 {
        assert!(rig.ask("nonsense", &id("sleep")).await.unwrap_err().contains("expired"));
    }
    assert!(rig.ask("nonsense", &id("sleep")).await.unwrap_err().contains("too often"));
    assert_eq!(rig.tally.counts()["shut_out"], 1);
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_disconnected() {
    let rig = Rig::new().await;
    let mut silent = TcpStream::connect(rig.address).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), silent.read(&mut [0; 16])).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
}

/// Somebody's own authority: the root, and an intermediate with its key.
fn brought() -> (String, Keys) {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    };
    let root = CertifiedIssuer::self_signed(authority("root"), KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificates = authority("intermediate").signed_by(&key, &root).unwrap().pem();
    let keys = Keys { certificates, key: key.serialize_pem(), roots: Some(root.pem()) };
    (root.pem(), keys)
}

#[tokio::test]
async fn an_intermediate_of_ones_own_works_with_its_root() {
    let (root, keys) = brought();
    let rig = Rig::with(&keys).await;
    assert_eq!(rig.roots.trim(), root.trim());
    let sleep = rig.ask(AGENT, &id("sleep")).await.unwrap();
    assert_eq!(*sleep.identity(), id("sleep"));

    let lacking = Keys { roots: None, ..keys.clone() };
    let error = Authority::of_keys(&lacking, DOMAIN).unwrap_err();
    assert!(error.contains("CN=root") && error.contains("ca.crt"), "{error}");
    // The root may follow in the same text, too.
    let whole = Keys { certificates: format!("{}{root}", keys.certificates), ..lacking };
    Office::open(&whole, DOMAIN, &rules()).await.unwrap();
    // A root of the same name that did not sign it.
    let (impostor, _) = brought();
    let error = Office::open(&Keys { roots: Some(impostor), ..keys }, DOMAIN, &rules()).await.unwrap_err();
    assert!(error.contains("not trusted"), "{error}");
}

#[tokio::test]
async fn roots_change_without_a_gap_while_both_are_named() {
    let (old, new) =
        (Authority::generate(DOMAIN).unwrap().keys(), Authority::generate(DOMAIN).unwrap().keys());
    let both = format!("{}{}", old.certificates, new.certificates);
    let before = Rig::with(&Keys { roots: Some(both.clone()), ..old }).await;
    let after = Rig::with(&Keys { roots: Some(both), ..new }).await;
    let (sleep, gateway) = (before.ask(AGENT, &id("sleep")).await.unwrap(), {
        let gateway = SpiffeId::new(DOMAIN, "istio-system", "istio-egressgateway").unwrap();
        after.ask("istio-system/istio-egressgateway@b", &gateway).await.unwrap()
    });
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let server = tokio_rustls::TlsAcceptor::from(gateway.server_config());
    let client = tokio_rustls::TlsConnector::from(sleep.client_config(gateway.identity()));
    let name = rustls::pki_types::ServerName::try_from("gateway").unwrap();
    let (accepted, connected) = tokio::join!(server.accept(ours), client.connect(name, theirs));
    accepted.unwrap();
    connected.unwrap();
}

#[test]
fn keys_are_no_part_of_what_is_printed() {
    let keys = Authority::generate(DOMAIN).unwrap().keys();
    assert!(!format!("{keys:?}").contains("PRIVATE"));
}

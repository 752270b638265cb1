//! The certificates of the outside world, made anew for every run: the external service's CA and certificate, the CA
//! of its clients, the client certificate `test.client`, and broken variants of it. Nothing is committed.
//!
//! Called by `egret-external pki`. The files are listed in [`write`].

use std::{fs, os::unix::fs::OpenOptionsExt as _, path::Path};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

/// Common name of the client certificate, and the `credentialName` of the scenario.
pub const CLIENT: &str = "test.client";
/// SPIFFE ID of the scenario's workload.
pub const WORKLOAD: &str = "spiffe://cluster.local/ns/default/sa/sleep";
/// SPIFFE ID of a foreign egress gateway.
pub const GATEWAY: &str = "spiffe://cluster.local/ns/istio-system/sa/istio-egressgateway";

/// Makes everything and writes it into `directory`, which is created:
///
/// | file | what |
/// |---|---|
/// | `external-ca.crt` | CA of the external service |
/// | `server.crt`, `server.key` | the service's certificate for `host`, by `external-ca` |
/// | `server-expired.crt` | the same key, not valid any more |
/// | `client-ca.crt` | CA of the clients that the service lets in |
/// | `client.crt`, `client.key` | `test.client`, by `client-ca` |
/// | `client-expired.crt` | the same key and name, not valid any more |
/// | `other-ca.crt` | a CA that nobody trusts |
/// | `client-other-ca.crt` | the client's key and name, signed by `other-ca` |
/// | `other.key` | a key that belongs to no certificate |
pub fn write(directory: &Path, host: &str) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let external_ca = authority("Egret test: external CA")?;
    let client_ca = authority("Egret test: client CA")?;
    let other_ca = authority("Egret test: a CA nobody trusts")?;

    let server_key = KeyPair::generate()?;
    let server = |validity| leaf(host, Some(host), ExtendedKeyUsagePurpose::ServerAuth, validity);
    let client_key = KeyPair::generate()?;
    let client = |validity| leaf(CLIENT, None, ExtendedKeyUsagePurpose::ClientAuth, validity);

    let certificates: [(&str, Certificate); 5] = [
        ("server.crt", server(Validity::Now)?.signed_by(&server_key, &external_ca)?),
        ("server-expired.crt", server(Validity::Past)?.signed_by(&server_key, &external_ca)?),
        ("client.crt", client(Validity::Now)?.signed_by(&client_key, &client_ca)?),
        ("client-expired.crt", client(Validity::Past)?.signed_by(&client_key, &client_ca)?),
        ("client-other-ca.crt", client(Validity::Now)?.signed_by(&client_key, &other_ca)?),
    ];
    for (name, certificate) in &certificates {
        write_file(&directory.join(name), &certificate.pem())?;
    }
    for (name, authority) in
        [("external-ca.crt", &external_ca), ("client-ca.crt", &client_ca), ("other-ca.crt", &other_ca)]
    {
        write_file(&directory.join(name), &authority.pem())?;
    }
    for (name, key) in
        [("server.key", &server_key), ("client.key", &client_key), ("other.key", &KeyPair::generate()?)]
    {
        write_file(&directory.join(name), &key.serialize_pem())?;
    }
    Ok(())
}

/// Makes the identities of a mesh, as a sidecar and an egress gateway of other makes have them, and writes them into `directory`,
/// which is there:
///
/// | file | what |
/// |---|---|
/// | `mesh-ca.crt` | the mesh's CA |
/// | `workload.crt`, `workload.key` | [`WORKLOAD`] |
/// | `gateway.crt`, `gateway.key` | [`GATEWAY`] |
pub fn write_mesh(directory: &Path) -> Result<()> {
    let ca = authority("Egret test: mesh CA")?;
    write_file(&directory.join("mesh-ca.crt"), &ca.pem())?;
    for (name, identity) in [("workload", WORKLOAD), ("gateway", GATEWAY)] {
        let mut params = leaf(name, None, ExtendedKeyUsagePurpose::ClientAuth, Validity::Now)?;
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        params.subject_alt_names.push(SanType::URI(identity.try_into()?));
        let key = KeyPair::generate()?;
        write_file(&directory.join(format!("{name}.crt")), &params.signed_by(&key, &ca)?.pem())?;
        write_file(&directory.join(format!("{name}.key")), &key.serialize_pem())?;
    }
    Ok(())
}

/// When a certificate is valid.
#[derive(Clone, Copy)]
enum Validity {
    /// From an hour ago, for a day.
    Now,
    /// For a day, until yesterday.
    Past,
}

impl Validity {
    fn apply(self, params: &mut CertificateParams) {
        let now = OffsetDateTime::now_utc();
        let (from, to) = match self {
            Self::Now => (now - Duration::hours(1), now + Duration::days(1)),
            Self::Past => (now - Duration::days(2), now - Duration::days(1)),
        };
        params.not_before = from;
        params.not_after = to;
    }
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Validity::Now.apply(&mut params);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn leaf(
    name: &str,
    host: Option<&str>,
    usage: ExtendedKeyUsagePurpose,
    validity: Validity,
) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(host.map(str::to_owned).into_iter().collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    validity.apply(&mut params);
    Ok(params)
}

/// Keys are for the owner's eyes; certificates get the same mode for simplicity.
fn write_file(path: &Path, pem: &str) -> Result<()> {
    use std::io::Write as _;
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(pem.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

//! The configuration directory of a run: the files of `deploy/demo` with the external service's address filled in, and
//! the Secret made from this run's certificates.
//!
//! Every file is replaced by rename, so that Egret never reads half of one.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::external::External;

/// The tutorial's placeholder for the address of the external ingress gateway.
pub const PLACEHOLDER: &str = "<ingress-gateway-ip>";

/// The directory of one run.
#[derive(Clone, Debug)]
pub struct Config {
    directory: PathBuf,
    /// Where the steps' files come from: `deploy/demo`.
    source: PathBuf,
    address: String,
}

/// PEM files of a Secret, by their names in the certificate directory.
#[derive(Clone, Copy, Debug)]
pub struct Credential<'a> {
    /// `tls.crt`.
    pub certificate: &'a str,
    /// `tls.key`.
    pub key: &'a str,
    /// `ca.crt`: who signs the server's certificate.
    pub ca: &'a str,
}

/// The credential that works.
pub const GOOD: Credential<'static> =
    Credential { certificate: "client.crt", key: "client.key", ca: "external-ca.crt" };

impl Config {
    /// An empty directory for files from `source`.
    pub fn create(directory: &Path, source: &Path, external: &External) -> Result<Self> {
        Self::for_address(directory, source, external.address())
    }

    /// The same for a server at this address.
    pub fn for_address(directory: &Path, source: &Path, address: Ipv4Addr) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let (directory, source) = (directory.to_owned(), source.to_owned());
        Ok(Self { directory, source, address: address.to_string() })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Puts a file of `source` (such as `4-egress-gateway/gateway.yaml`) in place, under its own name.
    pub fn apply(&self, file: &str) -> Result<()> {
        let path = self.source.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_name().with_context(|| format!("{file:?} names no file"))?;
        self.write(&name.to_string_lossy(), &text.replace(PLACEHOLDER, &self.address))
    }

    /// Writes a file, or replaces it.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        // Not a YAML name: whoever watches the directory passes it over.
        let fresh = self.directory.join(format!(".{name}.new"));
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.directory.join(name);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Writes the Secret `test.client` as `kubectl create secret generic -o yaml` would print it.
    pub fn write_secret(&self, external: &External, credential: Credential<'_>) -> Result<()> {
        self.write_secret_of(external.certificates(), credential)
    }

    /// The same with the files of this directory.
    pub fn write_secret_of(&self, certificates: &Path, credential: Credential<'_>) -> Result<()> {
        let encoded = |name: &str| {
            let path = certificates.join(name);
            let pem = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok::<_, anyhow::Error>(STANDARD.encode(pem))
        };
        self.write(
            SECRET,
            &format!(
                "apiVersion: v1\nkind: Secret\nmetadata:\n  name: test.client\n  namespace: istio-system\n\
                 type: Opaque\ndata:\n  tls.crt: {}\n  tls.key: {}\n  ca.crt: {}\n",
                encoded(credential.certificate)?,
                encoded(credential.key)?,
                encoded(credential.ca)?,
            ),
        )
    }
}

/// File name of the Secret.
pub const SECRET: &str = "secret-test.client.yaml";

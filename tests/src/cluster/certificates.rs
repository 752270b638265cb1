//! The cluster's certificates and kubeconfigs, all from one CA made anew for every run. Made by openssl's command line.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    cluster::plan::{API_PORT, API_SERVICE, NODES, Plan},
    process,
};

/// Names in certificates do not come from openssl's own configuration.
const CONFIGURATION: &str = "[req]\ndistinguished_name = name\n[name]\n";

/// Where the files are.
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Makes all of them in `directory`.
    pub(super) fn make(plan: &Plan, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
        let made = Self { directory: directory.to_owned() };
        fs::write(made.path("openssl.cnf"), CONFIGURATION)?;
        made.authority()?;
        let server = format!(
            "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,\
             DNS:localhost,IP:127.0.0.1,IP:{API_SERVICE},IP:{}",
            plan.control()
        );
        made.leaf("apiserver", "/CN=kube-apiserver", Some(&server))?;
        made.leaf("apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client", None)?;
        made.leaf("admin", "/O=system:masters/CN=kubernetes-admin", None)?;
        made.leaf("kube-controller-manager", "/CN=system:kube-controller-manager", None)?;
        made.leaf("kube-scheduler", "/CN=system:kube-scheduler", None)?;
        made.leaf("kube-proxy", "/CN=system:kube-proxy", None)?;
        for (index, node) in NODES.iter().enumerate() {
            let names = format!("DNS:{node},IP:{}", plan.node(index));
            made.leaf(node, &format!("/O=system:nodes/CN=system:node:{node}"), Some(&names))?;
        }
        let (key, public) = (made.text("service-accounts.key"), made.text("service-accounts.pub"));
        process::run(
            "openssl",
            &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", &key],
        )?;
        process::run("openssl", &["pkey", "-in", &key, "-pubout", "-out", &public])?;
        Ok(made)
    }

    /// A file.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A file, as an argument.
    pub(super) fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// Writes a kubeconfig for one of the identities; everything is in it, so that it can be copied.
    pub(super) fn kubeconfig(&self, plan: &Plan, identity: &str, file: &Path) -> Result<()> {
        let data = |name: &str| -> Result<String> {
            let path = self.path(name);
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(STANDARD.encode(bytes))
        };
        let cluster = format!("egret-{}", plan.name());
        let text = format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters:\n\
             - name: {cluster}\n\
             \x20 cluster:\n\
             \x20   server: https://{}:{API_PORT}\n\
             \x20   certificate-authority-data: {}\n\
             users:\n\
             - name: {identity}\n\
             \x20 user:\n\
             \x20   client-certificate-data: {}\n\
             \x20   client-key-data: {}\n\
             contexts:\n\
             - name: {cluster}\n\
             \x20 context: {{cluster: {cluster}, user: {identity}}}\n\
             current-context: {cluster}\n",
            plan.control(),
            data("ca.crt")?,
            data(&format!("{identity}.crt"))?,
            data(&format!("{identity}.key"))?,
        );
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o600))?)
    }

    fn authority(&self) -> Result<()> {
        let extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"];
        self.request("ca", "/CN=egret-test-cluster", &extensions, &[])
    }

    /// A certificate for clients, and for servers too where it has names.
    fn leaf(&self, file: &str, subject: &str, names: Option<&str>) -> Result<()> {
        let names = names.map(|names| format!("subjectAltName={names}"));
        let mut extensions = vec![
            "basicConstraints=critical,CA:FALSE",
            "keyUsage=critical,digitalSignature",
            "extendedKeyUsage=clientAuth,serverAuth",
        ];
        extensions.extend(names.as_deref());
        let (ca, key) = (self.text("ca.crt"), self.text("ca.key"));
        self.request(file, subject, &extensions, &["-CA", &ca, "-CAkey", &key])
    }

    fn request(&self, file: &str, subject: &str, extensions: &[&str], signer: &[&str]) -> Result<()> {
        let configuration = self.text("openssl.cnf");
        let (certificate, key) = (self.text(&format!("{file}.crt")), self.text(&format!("{file}.key")));
        let mut arguments = vec!["req", "-x509", "-new", "-noenc", "-days", "30", "-config", &configuration];
        arguments.extend(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", subject]);
        arguments.extend(["-keyout", &key, "-out", &certificate]);
        arguments.extend_from_slice(signer);
        for extension in extensions {
            arguments.extend(["-addext", extension]);
        }
        process::run("openssl", &arguments).map(drop)
    }
}

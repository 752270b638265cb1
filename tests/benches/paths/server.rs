//! The external server, the same for all paths and for the whole run: nginx in a namespace of its own, plain on port 80, and on
//! port 443 for clients with a certificate only.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use egret_tests::{cgroup::Cgroup, netns::Namespace, pki, process::Process};

use crate::place;

/// The name in its certificate, and in every request.
pub(crate) const HOST: &str = "test.com";
/// A large body, and its bytes.
pub(crate) const BULK: &str = "/bulk";
pub(crate) const BULK_SIZE: usize = 64 << 20;
/// Where large bodies are taken.
pub(crate) const UPLOAD: &str = "/upload/body";
/// What the server knows of its client.
pub(crate) const WHO: &str = "/who";
/// The answer to that by TLS, and without.
pub(crate) const WHO_TLS: &str = "TLSv1.3 CN=test.client";
pub(crate) const WHO_PLAIN: &str = "plain";

/// The lock files of our namespaces, and their prefix.
pub(crate) const LOCKS: &str = "/run/lock/egret-bench";
pub(crate) const PREFIX: &str = "egb";

const CONFIGURATION: &str = r#"
daemon off;
worker_processes WORKERS;
user root;
pid DIRECTORY/nginx.pid;
error_log stderr error;
events { worker_connections 12000; }
http {
  access_log off;
  client_body_temp_path DIRECTORY/body;
  proxy_temp_path DIRECTORY/proxy;
  fastcgi_temp_path DIRECTORY/fastcgi;
  uwsgi_temp_path DIRECTORY/uwsgi;
  scgi_temp_path DIRECTORY/scgi;
  client_max_body_size 0;
  sendfile on;
  keepalive_timeout 1h;
  keepalive_requests 1000000000;
  default_type text/plain;
  server {
    listen ADDRESS:80 reuseport backlog=4096;
    location = /who { return 200 "plain\n"; }
    LOCATIONS
  }
  server {
    listen ADDRESS:443 ssl reuseport backlog=4096;
    ssl_protocols TLSv1.3;
    ssl_certificate PKI/server.crt;
    ssl_certificate_key PKI/server.key;
    ssl_client_certificate PKI/client-ca.crt;
    ssl_verify_client on;
    location = /who { return 200 "$ssl_protocol $ssl_client_s_dn\n"; }
    LOCATIONS
  }
}
"#;

const LOCATIONS: &str = r#"
    location = /1k { return 200 "KIBIBYTE"; }
    location = /bulk { root DIRECTORY/files; }
    location /upload/ { root DIRECTORY/files; dav_methods PUT; create_full_put_path on; }
"#;

/// The running server. Dropping it ends the process, then removes the namespace.
pub(crate) struct Server {
    _process: Process,
    _cgroup: Cgroup,
    namespace: Namespace,
    certificates: PathBuf,
}

impl Server {
    /// Makes certificates and files in `directory`, and starts `nginx`.
    pub(crate) fn start(nginx: &Path, directory: &Path, workers: usize) -> Result<Self> {
        let certificates = directory.join("pki");
        pki::write(&certificates, HOST)?;
        pki::write_mesh(&certificates)?;
        let files = directory.join("files");
        fs::create_dir_all(&files)?;
        fs::write(files.join("bulk"), vec![b'x'; BULK_SIZE]).context("the large file")?;
        let namespace = Namespace::create(PREFIX, Path::new(LOCKS))?;
        let text = CONFIGURATION
            .replace("LOCATIONS", LOCATIONS)
            .replace("KIBIBYTE", &"x".repeat(1024))
            .replace("WORKERS", &workers.to_string())
            .replace("ADDRESS", &namespace.address().to_string())
            .replace("PKI", &certificates.to_string_lossy())
            .replace("DIRECTORY", &directory.to_string_lossy());
        let file = directory.join("server.conf");
        fs::write(&file, text)?;
        let cgroup = place::cgroup()?;
        let mut command = place::command(Some(&namespace), &cgroup, nginx);
        command.arg("-p").arg(directory).arg("-c").arg(&file).args(["-e", "stderr"]);
        let mut process = place::start("the external server", &mut command, &directory.join("server.out"))?;
        place::listens(&mut process, "the external server", 443)?;
        Ok(Self { _process: process, _cgroup: cgroup, namespace, certificates })
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        self.namespace.address()
    }

    pub(crate) fn plain(&self) -> SocketAddr {
        (self.address(), 80).into()
    }

    pub(crate) fn tls(&self) -> SocketAddr {
        (self.address(), 443).into()
    }

    /// The directory of all certificates.
    pub(crate) fn certificates(&self) -> &Path {
        &self.certificates
    }
}

//! One hop on this machine that originates mutual TLS, nothing else: nginx or HAProxy. The client is in a namespace of its own.

use std::fs;

use anyhow::{Context as _, Result};
use egret_tests::egret::free_port;

use super::{Ground, Running, client_side, namespace_of};
use crate::place;

const NGINX: &str = r#"
daemon off;
worker_processes WORKERS;
user root;
pid DIRECTORY/nginx.pid;
error_log stderr error;
events { worker_connections 12000; }
http {
  access_log DIRECTORY/access.log combined;
  client_body_temp_path DIRECTORY/body;
  proxy_temp_path DIRECTORY/proxy;
  fastcgi_temp_path DIRECTORY/fastcgi;
  uwsgi_temp_path DIRECTORY/uwsgi;
  scgi_temp_path DIRECTORY/scgi;
  client_max_body_size 0;
  keepalive_timeout 1h;
  keepalive_requests 1000000000;
  upstream external {
    server SERVER;
    keepalive 512;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
  }
  server {
    listen LISTEN reuseport backlog=4096;
    location / {
      proxy_pass https://external;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_request_buffering off;
      proxy_max_temp_file_size 0;
      proxy_ssl_protocols TLSv1.3;
      proxy_ssl_certificate PKI/client.crt;
      proxy_ssl_certificate_key PKI/client.key;
      proxy_ssl_trusted_certificate PKI/external-ca.crt;
      proxy_ssl_verify on;
      proxy_ssl_name test.com;
      proxy_ssl_server_name on;
    }
  }
}
"#;

const HAPROXY: &str = "
global
  nbthread WORKERS
  maxconn 12000
  no strict-limits
  log stdout format raw local0
defaults
  mode http
  log global
  option httplog
  http-reuse always
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend clients
  bind LISTEN backlog 4096
  default_backend external
backend external
  server external SERVER ssl crt DIRECTORY/client.pem ca-file PKI/external-ca.crt verify required sni str(test.com) \
    verifyhost test.com ssl-min-ver TLSv1.3
";

pub(super) fn nginx(running: &mut Running, ground: &Ground) -> Result<()> {
    let port = listen(running)?;
    let file = configure(running, ground, NGINX)?;
    let cgroup = running.proxies.insert(place::cgroup()?);
    let mut command = place::command(None, cgroup, &ground.peers.nginx);
    command.arg("-p").arg(&running.directory).arg("-c").arg(&file).args(["-e", "stderr"]);
    let output = running.directory.join("output");
    let mut process = place::start("the nginx hop", &mut command, &output)?;
    let listening = place::listens(&mut process, "the nginx hop", port);
    running.logs.push(running.directory.join("access.log"));
    running.add(process);
    listening
}

pub(super) fn haproxy(running: &mut Running, ground: &Ground) -> Result<()> {
    let port = listen(running)?;
    let certificates = ground.server.certificates();
    let read = |name| fs::read_to_string(certificates.join(name));
    fs::write(running.directory.join("client.pem"), read("client.crt")? + &read("client.key")?)?;
    let file = configure(running, ground, HAPROXY)?;
    let program = ground.peers.haproxy.as_deref().context("no haproxy")?;
    let cgroup = running.proxies.insert(place::cgroup()?);
    let mut command = place::command(None, cgroup, program);
    // In the foreground, one process.
    command.arg("-db").arg("-f").arg(&file);
    let output = running.directory.join("access.log");
    let mut process = place::start("HAProxy", &mut command, &output)?;
    let listening = place::listens(&mut process, "HAProxy", port);
    running.logs.push(output);
    running.add(process);
    listening
}

/// The client's namespace; the hop listens at this machine's end of its link.
fn listen(running: &mut Running) -> Result<u16> {
    running.namespace = Some(client_side()?);
    let address = namespace_of(running)?.host_address();
    let port = free_port(address)?;
    running.target = (address, port).into();
    Ok(port)
}

fn configure(running: &Running, ground: &Ground, text: &str) -> Result<std::path::PathBuf> {
    let text = text
        .replace("WORKERS", &ground.workers.to_string())
        .replace("LISTEN", &running.target.to_string())
        .replace("SERVER", &ground.server.tls().to_string())
        .replace("PKI", &ground.server.certificates().to_string_lossy())
        .replace("DIRECTORY", &running.directory.to_string_lossy());
    let file = running.directory.join("hop.conf");
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

//! A foreign TLS implementation on the far side: nginx with OpenSSL, TLS 1.2 and 1.3, client certificate required.
//!
//! The program is the one in PATH, or the one that `cargo xtask test` unpacked into `target/tools/nginx`.

use std::{
    env, fs,
    net::TcpStream,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{config::GOOD, egret::workspace, process::Process, scenario::World, wait};

use crate::Rig;

const PATIENCE: Duration = Duration::from_secs(10);

/// One server per TLS version; each answers with what it knows of the connection.
const SERVERS: &str = "\
daemon off;
master_process off;
worker_processes 1;
pid DIRECTORY/nginx.pid;
error_log stderr warn;
events {}
http {
  access_log off;
  client_body_temp_path DIRECTORY/body;
  proxy_temp_path DIRECTORY/proxy;
  fastcgi_temp_path DIRECTORY/fastcgi;
  uwsgi_temp_path DIRECTORY/uwsgi;
  scgi_temp_path DIRECTORY/scgi;
  ssl_certificate DIRECTORY/server.crt;
  ssl_certificate_key DIRECTORY/server.key;
  ssl_client_certificate DIRECTORY/client-ca.crt;
  ssl_verify_client on;
  keepalive_timeout 60s;
  default_type text/plain;
  server {
    listen ADDRESS:8443 ssl;
    ssl_protocols TLSv1.3;
    return 200 \"$ssl_protocol $ssl_server_name $ssl_client_s_dn $host $connection_requests\\n\";
  }
  server {
    listen ADDRESS:8444 ssl;
    ssl_protocols TLSv1.2;
    return 200 \"$ssl_protocol $ssl_server_name $ssl_client_s_dn $host $connection_requests\\n\";
  }
}
";

const ROUTES: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: nginx, namespace: default}
spec:
  hosts: [nginx.test]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints: [{address: ADDRESS}]
  ports:
  - {name: http, number: 80, protocol: HTTP}
  - {name: tls13, number: 8443, protocol: HTTPS}
  - {name: tls12, number: 8444, protocol: HTTPS}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: nginx, namespace: default}
spec:
  hosts: [nginx.test]
  http:
  - match: [{uri: {prefix: /new}}]
    route: [{destination: {host: nginx.test, port: {number: 8443}}}]
  - route: [{destination: {host: nginx.test, port: {number: 8444}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: nginx, namespace: default}
spec:
  host: nginx.test
  trafficPolicy:
    tls: {mode: MUTUAL, credentialName: test.client, sni: test.com}
";

/// nginx inside the external service's namespace.
fn start(world: &World) -> Result<Process> {
    let directory = world.external.file("nginx");
    fs::create_dir_all(&directory)?;
    for name in ["server.crt", "server.key", "client-ca.crt"] {
        fs::copy(world.external.file(name), directory.join(name))?;
    }
    let address = world.external.address();
    let text =
        SERVERS.replace("DIRECTORY", &directory.to_string_lossy()).replace("ADDRESS", &address.to_string());
    let file = directory.join("nginx.conf");
    fs::write(&file, text)?;
    let mut command = world.external.namespace().command(&program()?);
    command.arg("-p").arg(&directory).arg("-c").arg(&file).args(["-e", "stderr"]);
    let mut process = Process::spawn("nginx", &mut command)?;
    wait::until("nginx to listen", PATIENCE, || {
        if let Some(status) = process.try_status()? {
            anyhow::bail!("nginx ended with {status}:\n{}", process.tail());
        }
        Ok(TcpStream::connect((address, 8444)).is_ok().then_some(()))
    })?;
    Ok(process)
}

fn program() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|directory| directory.join("nginx"))
        .chain([
            workspace().join("target/tools/nginx/usr/sbin/nginx"),
            Path::new("/usr/sbin/nginx").to_owned(),
        ])
        .find(|program| program.is_file())
        .context("no nginx: run `cargo xtask test`, which unpacks one, or install it")
}

#[test]
fn takes_the_client_certificate_and_keeps_connections_alive() -> Result<()> {
    let Some(rig) = Rig::start()? else { return Ok(()) };
    let world = &rig.world;
    let _nginx = start(world)?;
    world.egret.reconfigure(|| {
        world.config.write_secret(&world.external, GOOD)?;
        world.config.write("nginx.yaml", &ROUTES.replace("ADDRESS", &world.external.address().to_string()))
    })?;

    // Each is of another workload, and comes to one of the gateway's workers, which have connections of their own: of one more than there are
    // workers, two meet.
    let requests = thread::available_parallelism()?.get() + 1;
    for (path, version) in [("/new", "TLSv1.3"), ("/old", "TLSv1.2")] {
        let mut reused = false;
        for _ in 0..requests {
            let url = format!("http://{}{path}", world.external.address());
            let answer = world.egret.curl("default/sleep", false, &["-H", "host: nginx.test", &url])?;
            let expected = format!("{version} test.com CN=test.client nginx.test ");
            let number = answer.body.strip_prefix(&expected).map(str::trim);
            ensure!(answer.status == Some(200) && number.is_some(), "{}", answer.summary());
            reused |= number.is_some_and(|number| number != "1");
        }
        ensure!(reused, "{path}: each of {requests} requests had a connection of its own");
    }
    let log = world.egret.access_log();
    let is_old = |line: &serde_json::Value| line["path"] == "/old";
    let lines = log.wait_since(egret_tests::json_log::Mark::default(), PATIENCE, is_old)?;
    let last = lines.last().context("nothing in the access log")?;
    assert_eq!(last["upstream_cluster"], "outbound|8444||nginx.test");
    assert_eq!(last["upstream_tls_version"], "TLSv1.2");
    Ok(())
}

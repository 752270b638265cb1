//! Connections to the API server that notice when nobody is at the other end any more.
//!
//! A watch mostly listens. When a firewall, a load balancer or the network itself drops its packets, without a reset, nothing is ever
//! heard of it again, and everything looks well. The kernel therefore asks the other end now and then whether it is there: unlike a
//! time limit for silence this costs no new watch where there is just nothing to tell. Used by [`super::cluster`].

use std::time::Duration;

use anyhow::Context as _;
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _, retry::RetryPolicy},
};
use tower::{ServiceBuilder, retry::RetryLayer};

/// A connection that is not made by then is tried again: an API server that is back must not wait for one that is stuck.
const CONNECT: Duration = Duration::from_secs(3);

/// After this much silence the kernel asks.
const SILENCE: Duration = Duration::from_secs(10);
/// How long it waits for an answer, and how often it asks before it gives the connection up.
const ANSWER: Duration = Duration::from_secs(2);
const QUESTIONS: u32 = 3;
/// What was sent has to be acknowledged by then.
const UNACKNOWLEDGED: Duration = Duration::from_secs(16);

/// A client that does not stay with connections that are dead.
pub(super) fn client(config: &Config) -> anyhow::Result<Client> {
    let mut tcp = HttpConnector::new();
    // TLS is put on top of it.
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(SILENCE));
    tcp.set_keepalive_interval(Some(ANSWER));
    tcp.set_keepalive_retries(Some(QUESTIONS));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let tls = config.rustls_https_connector_with_connector(tcp).context("the cluster's root certificate")?;
    let mut connector = TimeoutConnector::new(tls);
    connector.set_connect_timeout(Some(CONNECT));
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(RetryLayer::new(RetryPolicy::server_retry()))
        .option_layer(config.auth_layer().context("the token of the service account")?)
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

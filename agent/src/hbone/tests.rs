//! Both ends over real sockets and real mutual TLS.

mod failover;
mod gathering;
mod lifecycle;
mod stream;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    client::{self, Dial, Gateway, Gateways, Pool},
    headers::Connect,
    server::{self, Incoming},
    tunnel::Tunnel,
};
use crate::{
    net::read_ahead::ReadAhead,
    tls::{certificate::WorkloadCertificate, testing::TestAuthority},
};

const GATEWAY: &str = "spiffe://cluster.local/ns/istio-system/sa/egress";
const SLEEP: &str = "spiffe://cluster.local/ns/default/sa/sleep";

/// Nothing here takes that long; a test that hangs fails instead.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(Duration::from_mins(1), future).await;
    result.unwrap_or_else(|_| panic!("{what} hangs"))
}

#[derive(Default)]
struct Dialer {
    dialled: AtomicUsize,
}

impl Dial for Dialer {
    fn dial(&self, gateway: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + '_>> {
        self.dialled.fetch_add(1, SeqCst);
        Box::pin(TcpStream::connect(gateway))
    }
}

/// A gateway that serves tunnels with `handler`, and a pool of one workload in front of it.
struct Mesh {
    authority: TestAuthority,
    sleep: Arc<WorkloadCertificate>,
    gateway: Gateway,
    dialer: Arc<Dialer>,
    pool: Arc<Pool>,
    drain: CancellationToken,
    /// Connections the gateway serves at the moment.
    served: watch::Receiver<usize>,
    _listener: AbortOnDropHandle<()>,
}

impl Mesh {
    async fn start<H, F>(handler: H) -> Self
    where
        H: Fn(Incoming) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_as(GATEWAY, handler).await
    }

    async fn start_as<H, F>(identity: &str, handler: H) -> Self
    where
        H: Fn(Incoming) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let authority = TestAuthority::new();
        let server = authority.workload(identity);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = Gateway { address: listener.local_addr().unwrap(), identity: GATEWAY.parse().unwrap() };
        let drain = CancellationToken::new();
        let (count, served) = watch::channel(0_usize);
        let (handler, acceptor) = (Arc::new(handler), TlsAcceptor::from(server.server_config()));
        let token = drain.clone();
        let accept = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (handler, acceptor, token) = (Arc::clone(&handler), acceptor.clone(), token.clone());
                let count = count.clone();
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(ReadAhead::new(tcp)).await else { return };
                    count.send_modify(|n| *n += 1);
                    server::serve(tls, handler, token).await.ok();
                    count.send_modify(|n| *n -= 1);
                });
            }
        });
        let dialer = Arc::new(Dialer::default());
        Self {
            sleep: Arc::new(authority.workload(SLEEP)),
            authority,
            gateway,
            pool: Arc::new(Pool::new(Arc::clone(&dialer) as Arc<dyn Dial>)),
            dialer,
            drain,
            served,
            _listener: AbortOnDropHandle::new(accept),
        }
    }

    async fn open(&self) -> Result<Tunnel, client::Error> {
        soon("open", self.pool.open(&self.sleep, &Gateways::only(self.gateway.clone()), &connect())).await
    }

    fn dialled(&self) -> usize {
        self.dialer.dialled.load(SeqCst)
    }
}

fn connect() -> Connect {
    Connect {
        original_destination: "192.0.2.1:443".parse().unwrap(),
        dialled_host: None,
        flow_id: None,
        traceparent: None,
        baggage: None,
    }
}

/// Sends back what it gets, half-close included.
async fn echo(incoming: Incoming) {
    let Ok(tunnel) = incoming.accept() else { return };
    let (mut read, mut write) = tokio::io::split(tunnel);
    if tokio::io::copy(&mut read, &mut write).await.is_ok() {
        tokio::io::AsyncWriteExt::shutdown(&mut write).await.ok();
    }
}

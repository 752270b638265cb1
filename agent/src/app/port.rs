//! HTTP on a TCP port that whoever reaches it may ask, so it is bounded: a few connections at a time, each for one answer.
//!
//! `metrics` and `egret ui` answer there; what is answered is theirs.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};

/// Connections at a time; more wait to be accepted.
const MOST_CONNECTIONS: usize = 16;

/// For the head of a request.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// For a connection, which carries one answer.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(30);

/// After a connection that could not be accepted, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// Answers whoever connects, until it is dropped.
pub(crate) async fn answer(listener: TcpListener, router: Router) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let service = TowerToHyperService::new(router);
    // It is never closed.
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!("a connection cannot be accepted: {e}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service.clone());
        tokio::spawn(async move {
            // Whoever does not read its answer has lost nothing that it could not ask for again.
            drop(timeout(CONNECTION_DEADLINE, connection).await);
            drop(place);
        });
    }
}

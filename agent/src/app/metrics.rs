//! `/metrics` on a TCP port, for a Prometheus: read-only, and nothing else is served there.
//!
//! Whoever reaches the port may read. Gateway and CA serve it from their start to their end. Of two agents on a node it is the one that captures, see [`serve_while`]. `egret up` puts the
//! answers of all roles on one page, see [`of_roles`].

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use axum::{Router, http::header::CONTENT_TYPE, routing::get};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{listen::listen, port::answer, run_dir::RunDir};
use crate::{
    admin::{self, client},
    telemetry::metrics::{
        exposition::{Format, merge, render},
        page::Page,
    },
};

/// How often an agent looks whether the port is its own, and free.
const LOOK: Duration = Duration::from_millis(200);

/// Looks after which a port that is still taken is told of: an agent that was just taken over has closed it by then.
const PATIENCE: u32 = 50;

/// How long a role of this machine may take for its answer.
const ROLE_DEADLINE: Duration = Duration::from_secs(5);

/// Answers at `address` until `stop`, in a task of its own. Fails when it cannot listen there.
pub(super) fn serve(
    address: SocketAddr,
    measure: impl Fn() -> Page + Clone + Send + Sync + 'static,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    serve_router(address, admin::measured(measure), stop)
}

fn serve_router(address: SocketAddr, router: Router, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = listen(address).with_context(|| {
        format!("metrics cannot be served on {address}: choose another address with --metrics-address")
    })?;
    tokio::spawn(async move { stop.run_until_cancelled(answer(listener, router)).await });
    Ok(())
}

/// Answers at `address` whenever it is due, until `stop`. The port is the node's, so of two agents only one can have it: the one that
/// captures; or one that waits, as long as there is none. A port that is taken by somebody else is tried again and again: without
/// metrics an agent captures all the same.
pub(super) async fn serve_while(
    address: SocketAddr,
    measure: impl Fn() -> Page + Clone + Send + Sync + 'static,
    is_due: impl Fn() -> bool,
    stop: CancellationToken,
) {
    let mut failures = 0_u32;
    let serving = async {
        loop {
            sleep(LOOK).await;
            if !is_due() {
                failures = 0;
                continue;
            }
            let over = async {
                while is_due() {
                    sleep(LOOK).await;
                }
            };
            match listen(address) {
                Ok(listener) => tokio::select! {
                    () = answer(listener, admin::measured(measure.clone())) => {}
                    () = over => {}
                },
                Err(e) => {
                    failures = failures.saturating_add(1);
                    if failures == PATIENCE {
                        tracing::error!(
                            "metrics cannot be served on {address}, which is tried again and again: {e}; choose another \
                             address with --metrics-address"
                        );
                    }
                }
            }
        }
    };
    stop.run_until_cancelled(serving).await;
}

/// Answers at `address` for all roles of an instance until `stop`. One that does not answer is said not to.
pub(super) fn of_roles(
    address: SocketAddr,
    run_dir: &RunDir,
    roles: &'static [&'static str],
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let run_dir = run_dir.clone();
    let handler = move || {
        let run_dir = run_dir.clone();
        async move { ([(CONTENT_TYPE, Format::Text.content_type())], page_of_roles(&run_dir, roles).await) }
    };
    serve_router(address, Router::new().route("/metrics", get(handler)), stop)
}

async fn page_of_roles(run_dir: &RunDir, roles: &[&'static str]) -> String {
    let (mut texts, mut up) = (Vec::new(), Vec::new());
    for role in roles {
        let socket = run_dir.socket(role);
        let answer = timeout(ROLE_DEADLINE, client::get_raw(&socket, "/metrics")).await;
        let text = answer.ok().and_then(Result::ok).and_then(|body| String::from_utf8(body.to_vec()).ok());
        up.push((vec![("component", (*role).to_owned())], f64::from(u8::from(text.is_some()))));
        texts.extend(text);
    }
    let mut page = Page::default();
    page.gauges("egret_role_up", "Whether a role of egret up answers: 1 or 0", up);
    texts.push(render(page.registry(), Format::Text));
    merge(&texts)
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering::Relaxed},
        },
        time::Duration,
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        time::{sleep, timeout},
    };
    use tokio_util::sync::CancellationToken;

    use super::{of_roles, serve, serve_while};
    use crate::{app::run_dir::RunDir, telemetry::metrics::page::Page};

    /// A port that was free a moment ago.
    async fn free() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    fn page(name: &str) -> Page {
        let mut page = Page::default();
        page.gauge(name, "Here", 1.0);
        page
    }

    async fn ask(address: SocketAddr, request: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// Waits until whoever has the port says this.
    async fn says(address: SocketAddr, word: &str) {
        let asked = async {
            while !ask(address, "GET /metrics").await.is_ok_and(|answer| answer.contains(word)) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), asked).await.unwrap();
    }

    #[tokio::test]
    async fn of_two_agents_the_one_that_is_due_has_the_port() {
        let (address, stop) = (free().await, CancellationToken::new());
        let due = Arc::new([AtomicBool::new(true), AtomicBool::new(false)]);
        for (index, name) in ["the_first", "the_second"].into_iter().enumerate() {
            let due = Arc::clone(&due);
            let is_due = move || due[index].load(Relaxed);
            tokio::spawn(serve_while(address, move || page(name), is_due, stop.clone()));
        }
        says(address, "the_first 1.0").await;
        // Both for a moment, as when one takes over: the port stays where it is until it is given up.
        due[1].store(true, Relaxed);
        says(address, "the_first 1.0").await;
        due[0].store(false, Relaxed);
        says(address, "the_second 1.0").await;
        stop.cancel();
        let closed = async {
            while TcpStream::connect(address).await.is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), closed).await.unwrap();
    }

    #[tokio::test]
    async fn nothing_but_a_page_to_read_is_there() {
        let (address, stop) = (free().await, CancellationToken::new());
        serve(address, || page("here"), stop.clone()).unwrap();
        let answer = ask(address, "GET /metrics").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\r\n\r\n# HELP here"), "{answer}");
        for (request, status) in [("POST /metrics", 405), ("GET /status", 404), ("POST /workloads", 404)] {
            let answer = ask(address, request).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        }
        let taken = serve(address, || page("here"), stop).unwrap_err();
        assert!(format!("{taken:#}").contains("--metrics-address"), "{taken:#}");
    }

    #[tokio::test]
    async fn a_role_that_does_not_answer_is_said_not_to() {
        let (address, stop) = (free().await, CancellationToken::new());
        let directory = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(directory.path().join("run"));
        of_roles(address, &run_dir, &["ca", "agent"], stop).unwrap();
        let answer = ask(address, "GET /metrics").await.unwrap();
        assert!(answer.contains("egret_role_up{component=\"ca\"} 0.0\n"), "{answer}");
    }
}

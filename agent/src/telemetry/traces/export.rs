//! The way to the collector: a bounded queue, and a task that sends what is in it by OTLP over gRPC.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper_util::rt::TokioIo;
use opentelemetry::{KeyValue, trace::SpanContext};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::{Resource, trace::SpanExporter as _};
use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{
    Endpoint, Finished, Tracing,
    context::{self, Begun},
    span,
};
use crate::{telemetry::metrics::page::Page, tls::system};

/// Spans that wait, about 1 KB each (OpenTelemetry's default). Beyond that they are lost and counted.
const QUEUE: usize = 2048;
/// Most spans in one message (OpenTelemetry's default).
const BATCH: usize = 512;
/// How long a span waits for company.
const GATHER: Duration = Duration::from_secs(1);
/// For one message, tries included (OTLP's default).
const TIMEOUT: Duration = Duration::from_secs(10);
/// At the end, for what is still in the queue.
const FLUSH: Duration = Duration::from_secs(1);
/// Between two complaints about a collector.
const COMPLAIN: Duration = Duration::from_mins(1);

/// Begins spans, and takes those that have finished. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Traces {
    share: f64,
    queue: mpsc::Sender<Finished>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    exported: AtomicU64,
    lost: AtomicU64,
    failed: AtomicU64,
}

impl Traces {
    /// Starts to export as `tracing` says, as the service `service`, from the pod `pod`. Nothing is connected yet; the
    /// standard variables `OTEL_EXPORTER_OTLP_HEADERS` and `OTEL_RESOURCE_ATTRIBUTES` are heeded.
    pub fn start(tracing: &Tracing, service: &str, pod: Option<&str>) -> anyhow::Result<(Self, Exporting)> {
        let mut exporter = SpanExporter::builder()
            .with_tonic()
            .with_channel(channel(&tracing.endpoint)?)
            .with_timeout(TIMEOUT)
            .build()?;
        let known = [
            Some(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))),
            pod.map(|pod| KeyValue::new("k8s.pod.name", pod.to_owned())),
        ];
        let resource = Resource::builder()
            .with_service_name(service.to_owned())
            .with_attributes(known.into_iter().flatten());
        exporter.set_resource(&resource.build());
        let (queue, finished) = mpsc::channel(QUEUE);
        let counts = Arc::<Counts>::default();
        let stop = CancellationToken::new();
        let export = Export {
            endpoint: tracing.endpoint.clone(),
            exporter,
            finished,
            counts: Arc::clone(&counts),
            complained: None,
        };
        let task = tokio::spawn(export.run(stop.clone()));
        Ok((Self { share: tracing.sampling.share(), queue, counts }, Exporting { stop, task }))
    }

    /// Begins a span, if there is to be one.
    pub fn begin(&self, parent: Option<SpanContext>) -> Option<Begun> {
        context::begin(parent, self.share, &mut rand::rng())
    }

    /// Queues a span to be sent; never waits.
    pub fn finish(&self, finished: Finished) {
        if self.queue.try_send(finished).is_err() {
            self.counts.lost.fetch_add(1, Relaxed);
        }
    }

    /// How many spans came to what.
    pub fn write_metrics(&self, page: &mut Page) {
        let Counts { exported, lost, failed } = &*self.counts;
        page.counters(
            "egret_trace_spans",
            "Spans that the collector took, that it did not take, and that were lost before, because it was too slow",
            [("exported", exported), ("failed", failed), ("lost", lost)]
                .map(|(outcome, count)| (vec![("outcome", outcome.to_owned())], count.load(Relaxed))),
        );
    }
}

/// The task that sends.
#[derive(Debug)]
pub struct Exporting {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Exporting {
    /// Sends what is left, for a second at most.
    pub async fn end(mut self) {
        self.stop.cancel();
        if timeout(FLUSH, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!("the last spans are lost: the collector did not take them within {FLUSH:?}");
        }
    }
}

struct Export {
    endpoint: Endpoint,
    exporter: SpanExporter,
    finished: mpsc::Receiver<Finished>,
    counts: Arc<Counts>,
    /// Spans fail, and when that was said last.
    complained: Option<Instant>,
}

impl Export {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let mut batch = Vec::new();
            let gathered = stop.run_until_cancelled(self.gather(&mut batch)).await;
            let is_last = gathered.is_none();
            if is_last {
                // Whoever finishes one from now on loses it.
                self.finished.close();
            }
            while self.finished.try_recv().map(|span| batch.push(span)).is_ok() {}
            if batch.is_empty() {
                return;
            }
            let mut batch = batch.into_iter().map(span::data).peekable();
            while batch.peek().is_some() {
                self.send(batch.by_ref().take(BATCH).collect()).await;
            }
            if is_last {
                return;
            }
        }
    }

    /// Waits for spans. Cancelled, it leaves what it has in `batch`.
    async fn gather(&mut self, batch: &mut Vec<Finished>) {
        if self.finished.recv_many(batch, BATCH).await > 0 {
            let more = async {
                while batch.len() < BATCH {
                    let room = BATCH - batch.len();
                    if self.finished.recv_many(batch, room).await == 0 {
                        break;
                    }
                }
            };
            // Late is full enough.
            let _ = timeout(GATHER, more).await;
        }
    }

    async fn send(&mut self, batch: Vec<opentelemetry_sdk::trace::SpanData>) {
        let count = batch.len() as u64;
        let sent = timeout(TIMEOUT, self.exporter.export(batch)).await;
        match sent
            .map_err(|_| "no answer in time".to_owned())
            .and_then(|sent| sent.map_err(|e| e.to_string()))
        {
            Ok(()) => {
                self.counts.exported.fetch_add(count, Relaxed);
                if self.complained.take().is_some() {
                    tracing::info!(collector = %self.endpoint, "the collector takes spans again");
                }
            }
            Err(e) => {
                self.counts.failed.fetch_add(count, Relaxed);
                if self.complained.is_none_or(|last| last.elapsed() >= COMPLAIN) {
                    self.complained = Some(Instant::now());
                    tracing::warn!(
                        collector = %self.endpoint,
                        spans = count,
                        "spans are lost, requests are served as ever: the collector of --otlp-endpoint does not take them: {e}"
                    );
                }
            }
        }
    }
}

/// A channel that connects when it is needed.
fn channel(endpoint: &Endpoint) -> anyhow::Result<Channel> {
    let (host, port) = endpoint.host_and_port();
    let (host, tls) = (host.to_owned(), endpoint.is_tls());
    let tls = if tls {
        let name = ServerName::try_from(host.clone())?;
        Some((TlsConnector::from(Arc::new(system::client(&[b"h2"])?)), name))
    } else {
        None
    };
    let connector = tower::service_fn(move |_: http::Uri| {
        let (host, tls) = (host.clone(), tls.clone());
        async move {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            let stream: Box<dyn Stream> = match tls {
                Some((connector, name)) => Box::new(connector.connect(name, stream).await?),
                None => Box::new(stream),
            };
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    let channel = Channel::from_shared(endpoint.to_string())?.timeout(TIMEOUT).connect_timeout(TIMEOUT);
    Ok(channel.connect_with_connector_lazy(connector))
}

/// A connection, with TLS or without.
trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for S {}

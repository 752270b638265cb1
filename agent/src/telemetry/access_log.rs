//! The access log: one JSON line per HTTP request, or per connection that is not HTTP.
//!
//! `gateway` writes entries. Field names are those of Envoy and of Istio's default JSON format, so that people's greps
//! keep working, plus ours from `principal` on. Formatting and writing happen on a thread of their own behind a bounded
//! channel: a slow disk or terminal costs log lines, which are counted, and never latency.

use std::{
    io::{self, BufWriter, Write as _},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
};

use jiff::Timestamp;
use serde::Serialize;

use crate::{flow::FlowId, mesh::SpiffeId, reason::Reason};

/// Lines waiting for the writer; beyond that they are lost and counted.
const QUEUE: usize = 16 * 1024;

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// When the request, or the connection, began.
    pub start_time: Timestamp,
    /// HTTP method.
    pub method: Option<String>,
    /// Path and query as they were sent, before normalisation.
    pub path: Option<String>,
    /// `HTTP/1.1`, `HTTP/2`; absent for connections.
    pub protocol: Option<&'static str>,
    /// HTTP status sent to the workload; 0 when none was, and for connections.
    pub response_code: u16,
    /// Status of a gRPC call, as its client sees it.
    pub grpc_status: Option<u16>,
    /// Envoy's response flags, `-` when there are none.
    pub response_flags: &'static str,
    /// Who answered: `via_upstream`, or the reason.
    pub response_code_details: &'static str,
    /// What ended a connection early, as a sentence.
    pub connection_termination_details: Option<String>,
    /// The upstream's transport failure (connect, TLS), as a sentence.
    pub upstream_transport_failure_reason: Option<String>,
    /// Body bytes from the workload.
    pub bytes_received: u64,
    /// Body bytes to the workload.
    pub bytes_sent: u64,
    /// Milliseconds from first to last byte.
    pub duration: u64,
    /// Milliseconds from the request to the head of the upstream's answer.
    pub upstream_service_time: Option<u64>,
    /// Always null: Egret neither trusts nor tells it.
    pub x_forwarded_for: Option<String>,
    /// `User-Agent`.
    pub user_agent: Option<String>,
    /// `X-Request-Id`.
    pub request_id: Option<String>,
    /// `Host` or `:authority` as it was sent.
    pub authority: Option<String>,
    /// The endpoint.
    pub upstream_host: Option<SocketAddr>,
    /// Such as `outbound|443||test.com`.
    pub upstream_cluster: Option<Arc<str>>,
    /// Our end of the upstream connection.
    pub upstream_local_address: Option<SocketAddr>,
    /// The address the workload dialled.
    pub downstream_local_address: SocketAddr,
    /// The host that this address is synthetic for, where DNS is captured.
    pub dialled_host: Option<Arc<str>>,
    /// The workload's address, as the gateway sees it.
    pub downstream_remote_address: SocketAddr,
    /// Server name of a TLS connection that passes through.
    pub requested_server_name: Option<String>,
    /// Route in force: the gateway stage's, else the mesh stage's.
    pub route_name: Option<Arc<str>>,
    /// Who asked.
    pub principal: String,
    /// Why it ended.
    pub reason: Reason,
    /// The sentence behind it.
    pub reason_detail: Option<String>,
    /// Joins agent and gateway.
    pub flow_id: FlowId,
    /// VirtualService of the mesh stage.
    pub mesh_route: Option<String>,
    /// Gateway.
    pub gateway: Option<String>,
    /// VirtualService of the gateway stage.
    pub gateway_route: Option<String>,
    /// ServiceEntry.
    pub service_entry: Option<String>,
    /// DestinationRule.
    pub destination_rule: Option<String>,
    /// AuthorizationPolicy and rule that decided.
    pub policy: Option<String>,
    /// `TLSv1.3` where TLS was originated.
    pub upstream_tls_version: Option<&'static str>,
    /// Subject of the certificate the upstream presented.
    pub upstream_peer: Option<Arc<str>>,
}

impl Entry {
    /// A line about something that `principal` began at `start_time`; everything else is still unknown.
    pub fn new(
        start_time: Timestamp,
        source: &SpiffeId,
        flow_id: FlowId,
        original_destination: SocketAddr,
        source_address: SocketAddr,
    ) -> Self {
        Self {
            start_time,
            method: None,
            path: None,
            protocol: None,
            response_code: 0,
            grpc_status: None,
            response_flags: Reason::Completed.response_flags(),
            response_code_details: "via_upstream",
            connection_termination_details: None,
            upstream_transport_failure_reason: None,
            bytes_received: 0,
            bytes_sent: 0,
            duration: 0,
            upstream_service_time: None,
            x_forwarded_for: None,
            user_agent: None,
            request_id: None,
            authority: None,
            upstream_host: None,
            upstream_cluster: None,
            upstream_local_address: None,
            downstream_local_address: original_destination,
            dialled_host: None,
            downstream_remote_address: source_address,
            requested_server_name: None,
            route_name: None,
            principal: source.principal(),
            reason: Reason::Completed,
            reason_detail: None,
            flow_id,
            mesh_route: None,
            gateway: None,
            gateway_route: None,
            service_entry: None,
            destination_rule: None,
            policy: None,
            upstream_tls_version: None,
            upstream_peer: None,
        }
    }
}

impl Entry {
    /// The name that was asked for, as it was sent.
    pub fn asked(&self) -> Option<&str> {
        self.authority.as_deref().or(self.requested_server_name.as_deref()).or(self.dialled_host.as_deref())
    }
}

enum Message {
    Entry(Box<Entry>),
    Flush(SyncSender<()>),
}

/// The log. Cheap to clone; the thread ends, with everything written, when the last clone is dropped.
#[derive(Clone)]
pub struct AccessLog {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl AccessLog {
    /// A log that writes to `writer`, which is flushed whenever nothing waits.
    pub fn to(writer: impl io::Write + Send + 'static) -> io::Result<Self> {
        let (queue, entries) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let lost_there = Arc::clone(&lost);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&entries, writer, &lost_there))?;
        Ok(Self { queue, lost })
    }

    /// Queues a line; never waits.
    pub fn write(&self, entry: Box<Entry>) {
        if self.queue.try_send(Message::Entry(entry)).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Lines lost so far, because the writer was too slow or failed.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Blocks until everything queued before is written.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.send(Message::Flush(done)).is_ok() {
            // An error means that the writer thread ended, so there is nothing left to wait for.
            let _ = wait.recv();
        }
    }
}

fn write_all(entries: &Receiver<Message>, writer: impl io::Write, lost: &AtomicU64) {
    let mut writer = BufWriter::with_capacity(64 * 1024, writer);
    let mut reported = 0;
    loop {
        let message = match entries.try_recv() {
            Ok(message) => message,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                flush(&mut writer);
                let total = lost.load(Relaxed);
                if total > reported {
                    tracing::warn!(lines = total - reported, "access log lines lost: its writer is too slow");
                    reported = total;
                }
                match entries.recv() {
                    Ok(message) => message,
                    Err(_) => break,
                }
            }
        };
        match message {
            Message::Entry(entry) => {
                let line = serde_json::to_writer(&mut writer, &entry).map_err(io::Error::from);
                if line.and_then(|()| writer.write_all(b"\n")).is_err() {
                    lost.fetch_add(1, Relaxed);
                }
            }
            Message::Flush(done) => {
                flush(&mut writer);
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
            }
        }
    }
    flush(&mut writer);
}

fn flush(writer: &mut BufWriter<impl io::Write>) {
    if let Err(error) = writer.flush() {
        tracing::warn!(%error, "access log cannot be written");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, mpsc},
    };

    use parking_lot::Mutex;

    use super::{AccessLog, Entry, QUEUE};
    use crate::flow::FlowId;

    fn entry(path: &str) -> Box<Entry> {
        let source = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
        let mut entry = Entry::new(
            jiff::Timestamp::now(),
            &source,
            FlowId::random(),
            "203.0.113.7:80".parse().unwrap(),
            "10.0.0.1:40000".parse().unwrap(),
        );
        entry.path = Some(path.to_owned());
        Box::new(entry)
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn writes_one_escaped_line_per_entry() {
        let out = Shared::default();
        let log = AccessLog::to(out.clone()).unwrap();
        log.write(entry("/a\n{\"forged\":1}"));
        log.write(entry("/b"));
        log.flush();
        let text = String::from_utf8(out.0.lock().clone()).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["path"], "/a\n{\"forged\":1}");
        assert_eq!(lines[1]["principal"], "cluster.local/ns/default/sa/sleep");
        assert_eq!(lines[1]["x_forwarded_for"], serde_json::Value::Null);
    }

    /// A writer that blocks until the test lets go.
    struct Blocked(mpsc::Receiver<()>);

    impl io::Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn loses_lines_instead_of_waiting_and_counts_them() {
        let (release, blocked) = mpsc::channel();
        let log = AccessLog::to(Blocked(blocked)).unwrap();
        for _ in 0..3 * QUEUE {
            log.write(entry("/"));
        }
        assert!(log.lost() > 0);
        drop(release);
    }
}

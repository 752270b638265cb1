//! A flow in the hands of whoever serves it.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    FlowId, FlowRecord, FlowTable, TunnelLeg, UpstreamLeg, Verdict, Wait, WorkloadLeg,
    live::{Live, Moved},
    shared,
};
use crate::{net::gauge::Gauge, reason::Refusal};

/// A live flow; dropping it ends the flow. Where no records are kept it counts bytes, for metrics and access log, and nothing else:
/// what would go into a record is not even asked for.
#[derive(Debug)]
pub struct FlowHandle {
    id: FlowId,
    flow: Flow,
}

#[derive(Debug)]
enum Flow {
    Recorded { live: Arc<Live>, table: FlowTable },
    Counted(Moved),
}

impl FlowHandle {
    pub(super) fn recorded(id: FlowId, live: Arc<Live>, table: FlowTable) -> Self {
        Self { id, flow: Flow::Recorded { live, table } }
    }

    pub(super) fn counted(id: FlowId) -> Self {
        Self { id, flow: Flow::Counted(Moved::default()) }
    }

    fn live(&self) -> Option<&Live> {
        match &self.flow {
            Flow::Recorded { live, .. } => Some(live),
            Flow::Counted(_) => None,
        }
    }

    fn moved(&self) -> &Moved {
        match &self.flow {
            Flow::Recorded { live, .. } => &live.moved,
            Flow::Counted(moved) => moved,
        }
    }

    /// Its id.
    pub fn id(&self) -> FlowId {
        self.id
    }

    /// Whether there will be a record of it.
    pub fn is_recorded(&self) -> bool {
        matches!(self.flow, Flow::Recorded { .. })
    }

    /// Counts bytes from the workload.
    pub fn add_sent(&self, bytes: u64) {
        self.moved().sent.fetch_add(bytes, Relaxed);
    }

    /// Counts bytes to the workload.
    pub fn add_received(&self, bytes: u64) {
        if self.moved().received.fetch_add(bytes, Relaxed) == 0
            && bytes > 0
            && let Some(live) = self.live()
        {
            live.answered();
        }
    }

    /// Bytes so far, from and to the workload.
    pub fn bytes(&self) -> (u64, u64) {
        let Moved { sent, received } = self.moved();
        (sent.load(Relaxed), received.load(Relaxed))
    }

    /// Counts time in which nothing moved.
    pub fn waited(&self, wait: Wait, time: Duration) {
        if let Some(live) = self.live() {
            live.waited(wait, time);
        }
    }

    /// From `since` on this is waited for, until something else is said.
    pub fn waits(&self, wait: Wait, since: Instant) {
        if let Some(live) = self.live() {
            live.waits(wait, since);
        }
    }

    /// Changes the record: protocol, host, upstream, request count.
    pub fn update(&self, change: impl FnOnce(&mut FlowRecord)) {
        if let Some(live) = self.live() {
            live.change(|record, _| change(record));
        }
    }

    /// Notes the host that is asked for now: nearly always the one before.
    pub fn asked_for(&self, host: &str) {
        self.update(|record| {
            if record.host.as_deref() != Some(host) {
                record.host = Some(shared(host));
            }
        });
    }

    /// Says where the kernel's figures of the workload's connection are.
    pub fn captured(&self, gauge: impl FnOnce() -> Gauge) {
        if let Some(live) = self.live() {
            let gauge = gauge();
            live.change(|record, gauges| {
                record.legs.workload = Some(Box::new(WorkloadLeg::default()));
                gauges.workload = Some(gauge);
            });
        }
    }

    /// Says which tunnel carries it.
    pub fn tunnelled(&self, leg: impl FnOnce() -> (TunnelLeg, Gauge)) {
        if let Some(live) = self.live() {
            let (leg, gauge) = leg();
            live.change(|record, gauges| {
                record.legs.tunnel = Some(Box::new(leg));
                gauges.tunnel = Some(gauge);
            });
        }
    }

    /// Says which upstream connection serves it, or the request of it that is under way.
    pub fn served(&self, leg: impl FnOnce() -> (UpstreamLeg, Gauge)) {
        if let Some(live) = self.live() {
            let (leg, gauge) = leg();
            live.change(|record, gauges| {
                record.upstream_host = Some(leg.connection.endpoint);
                match &mut record.legs.upstream {
                    Some(last) => **last = leg,
                    none => *none = Some(Box::new(leg)),
                }
                gauges.upstream = Some(gauge);
            });
        }
    }

    /// Names the endpoint at which it, or a request of it, failed.
    pub fn attempted(&self, endpoint: Option<SocketAddr>) {
        self.update(|record| record.upstream_host = endpoint.or(record.upstream_host));
    }

    /// Ends the flow with what the kernel measured of it.
    pub fn measured(self, sent: u64, received: u64, duration: Duration) {
        self.moved().sent.store(sent, Relaxed);
        self.moved().received.store(received, Relaxed);
        if let Some(live) = self.live() {
            live.measured(duration);
        }
    }

    /// Ends it without a record.
    pub fn discard(self) {
        if let Some(live) = self.live() {
            live.discard();
        }
    }

    /// From now on the next byte for the workload is the first of the server's answer.
    pub fn spliced(&self) {
        if let Some(live) = self.live() {
            live.spliced();
        }
    }

    /// Records how the flow, or one request of it, failed; the worst verdict wins, the latest among equals.
    pub fn fail(&self, refusal: &Refusal) {
        let verdict = Verdict::of(refusal.reason);
        self.update(|record| {
            if verdict >= record.verdict {
                record.verdict = verdict;
                record.reason = refusal.reason;
                record.detail = Some(match &refusal.object {
                    Some(object) => format!("{object}: {}", refusal.detail).into(),
                    None => refusal.detail.as_str().into(),
                });
            }
        });
    }
}

impl Drop for FlowHandle {
    fn drop(&mut self) {
        if let Flow::Recorded { live, table } = &self.flow {
            table.close(live);
        }
    }
}

//! Flows that no agent carries, as the kernel programs tell of them: bypassed connections, from their `connect()` to their end, and
//! calls that were refused. `app::agent` runs it as long as the process lives.
//!
//! What is told is kept in the table of flows. A call that is refused again and again is one flow, with its number of attempts.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::{self, Instant};

use super::agent::Agent;
use crate::{
    datapath::{Call, Caller, Event, Figures},
    flow::{FlowHandle, FlowId, FlowTable, Process, TcpFigures, Verdict, WorkloadLeg, shared},
    mesh::SpiffeId,
    reason::Reason,
};

/// How long events may gather between two looks: the ring holds thousands.
const PAUSE: Duration = Duration::from_millis(50);
/// A call that is not made again for so long has ended.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// How often the log says that events were lost.
const SAY_AGAIN: Duration = Duration::from_mins(1);
/// Different refused calls that are told apart at one time; further ones end the oldest.
const REFUSED_AT_ONCE: usize = 1024;
/// Open bypassed connections that are followed; further ones are recorded when they end.
const OPEN_AT_ONCE: usize = 64 * 1024;

/// Whose calls they are. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) identity: SpiffeId,
    pub(super) pod: Option<Arc<str>>,
}

/// Workloads by number, also those that have just ended: what is told of a short process is read after it.
#[derive(Debug, Default)]
pub(super) struct Subjects {
    known: HashMap<u32, Subject>,
    /// Those that were not there any more when last it was looked.
    ended: HashSet<u32>,
}

impl Subjects {
    pub(super) fn add(&mut self, workload: u32, subject: Subject) {
        self.known.insert(workload, subject);
        self.ended.remove(&workload);
    }

    /// Forgets those that have been gone for a whole round.
    fn forget(&mut self, is_there: impl Fn(u32) -> bool) {
        let gone: HashSet<u32> = self.known.keys().copied().filter(|id| !is_there(*id)).collect();
        self.known.retain(|id, _| !(gone.contains(id) && self.ended.contains(id)));
        self.ended = gone;
    }
}

/// Reads what the kernel programs tell for as long as it is polled. Where that cannot be read it says so in the log and ends: the ring
/// fills then, and what is lost is counted in the kernel.
pub async fn watch(agent: Arc<Agent>) {
    let mut events = match agent.capture().take_events() {
        Ok(events) => events,
        Err(e) => return tracing::error!("bypassed connections and refused calls are not recorded: {e}"),
    };
    let mut observed = Observed::new(agent.flows().clone());
    let mut losses = Losses::new(&agent);
    loop {
        let ready = tokio::select! {
            ready = events.ready() => ready,
            () = time::sleep(REFUSED_FOR), if !observed.refused.is_empty() => Ok(()),
        };
        let read = ready.and_then(|()| {
            let subjects = agent.subjects.lock();
            events.read(|event| observed.tell(event, &subjects.known))
        });
        if let Err(e) = read {
            return tracing::error!("bypassed connections and refused calls are not recorded any more: {e}");
        }
        if losses.rose(&agent) {
            observed.forget_open();
        }
        observed.end_refused(Instant::now());
        let there: HashSet<u32> = agent.workloads.lock().enrolled.keys().copied().collect();
        agent.subjects.lock().forget(|id| there.contains(&id));
        agent.counters.events_of_unknown.add(std::mem::take(&mut observed.unknown));
        time::sleep(PAUSE).await;
    }
}

/// Events that were lost: those of this agent's time are told to its operator.
struct Losses {
    before: u64,
    /// When the log said so last.
    said: Option<Instant>,
}

impl Losses {
    fn new(agent: &Agent) -> Self {
        Self { before: agent.capture().lost_events().unwrap_or_default(), said: None }
    }

    /// Whether there were more since it was asked last.
    fn rose(&mut self, agent: &Agent) -> bool {
        // What cannot be read has not risen: the next round reads it.
        let now = agent.capture().lost_events().unwrap_or(self.before);
        let lost = now.saturating_sub(self.before);
        self.before = now;
        if lost > 0 && self.said.is_none_or(|said| said.elapsed() > SAY_AGAIN) {
            self.said = Some(Instant::now());
            tracing::warn!(
                lost,
                "more bypassed connections or refused calls than could be recorded: some are not among the flows (event_lost counts them)"
            );
        }
        lost > 0
    }
}

/// What names a refused call that is made again.
type Repeated = (u32, &'static str, Option<SocketAddr>, Option<Caller>);

struct Observed {
    flows: FlowTable,
    /// By cookie.
    open: HashMap<u64, FlowHandle>,
    refused: HashMap<Repeated, (FlowHandle, Instant)>,
    /// Events of workloads that nobody knows.
    unknown: u64,
}

impl Observed {
    fn new(flows: FlowTable) -> Self {
        Self { flows, open: HashMap::new(), refused: HashMap::new(), unknown: 0 }
    }

    fn tell(&mut self, event: Event, subjects: &HashMap<u32, Subject>) {
        let (Event::Opened(call) | Event::Closed { call, .. } | Event::Refused(call)) = &event;
        let Some(subject) = subjects.get(&call.workload) else {
            self.unknown += 1;
            return;
        };
        match event {
            Event::Opened(call) => {
                if self.open.len() < OPEN_AT_ONCE {
                    // Of an earlier connect() of the same socket, the end was not told.
                    self.open.insert(call.cookie, self.flow(&call, subject, Verdict::Bypassed));
                }
            }
            Event::Closed { call, connect_time, duration, figures } => {
                let flow = self.open.remove(&call.cookie);
                let flow = flow.unwrap_or_else(|| self.flow(&call, subject, Verdict::Bypassed));
                flow.update(|record| {
                    record.legs.workload = Some(Box::new(leg(connect_time, &figures)));
                    if connect_time.is_none() {
                        record.detail = Some(format!("{}: never connected", call.decision).into());
                    }
                });
                flow.measured(figures.sent, figures.received, duration);
            }
            Event::Refused(call) => self.refuse(&call, subject),
        }
    }

    /// After a loss it is not known which of them still are. Each that is comes back when it ends: an end tells everything.
    fn forget_open(&mut self) {
        self.open.drain().for_each(|(_, flow)| flow.discard());
    }

    fn refuse(&mut self, call: &Call, subject: &Subject) {
        let now = Instant::now();
        let repeated = (call.workload, call.decision, call.destination, call.caller.clone());
        if let Entry::Occupied(mut known) = self.refused.entry(repeated.clone()) {
            let (flow, last) = known.get_mut();
            *last = now;
            flow.update(|record| record.attempts = record.attempts.map(|attempts| attempts + 1));
            return;
        }
        if self.refused.len() >= REFUSED_AT_ONCE {
            let oldest = self.refused.iter().min_by_key(|(_, (_, last))| *last).map(|(key, _)| key.clone());
            oldest.map(|key| self.refused.remove(&key));
        }
        let flow = self.flow(call, subject, Verdict::Denied);
        flow.update(|record| record.attempts = Some(1));
        self.refused.insert(repeated, (flow, now));
    }

    fn end_refused(&mut self, now: Instant) {
        self.refused.retain(|_, (_, last)| now.saturating_duration_since(*last) < REFUSED_FOR);
    }

    fn flow(&self, call: &Call, subject: &Subject, verdict: Verdict) -> FlowHandle {
        let nowhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let destination = call.destination.unwrap_or(nowhere);
        let flow = self.flows.open(FlowId::random(), subject.identity.clone(), destination);
        flow.update(|record| {
            record.started = Timestamp::try_from(call.at).unwrap_or(record.started);
            record.pod.clone_from(&subject.pod);
            record.process = call.caller.clone().map(|Caller { pid, name }| Process { pid, name }.into());
            record.verdict = verdict;
            record.reason = if verdict == Verdict::Denied { Reason::KernelRefused } else { Reason::Bypassed };
            record.detail = Some(shared(call.decision));
        });
        flow
    }
}

fn leg(connect_time: Option<Duration>, figures: &Figures) -> WorkloadLeg {
    WorkloadLeg {
        connect_us: connect_time.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
        tcp: Some(Box::new(TcpFigures {
            rtt_us: figures.rtt_us,
            retransmits: figures.retransmits,
            bytes_acked: figures.sent,
            bytes_received: figures.received,
            segments_sent: figures.segments_sent,
            segments_received: figures.segments_received,
            ..TcpFigures::default()
        })),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::flow::{FlowQuery, FlowRecord, Side};

    const WORKLOAD: u32 = 7;

    fn call(cookie: u64, destination: &str) -> Call {
        Call {
            workload: WORKLOAD,
            decision: "bypassed_range",
            destination: Some(destination.parse().unwrap()),
            caller: Some(Caller { pid: 42, name: "curl".to_owned() }),
            at: SystemTime::now(),
            cookie,
        }
    }

    fn closed(call: Call) -> Event {
        let figures = Figures { sent: 5, received: 9, rtt_us: 300, ..Figures::NONE };
        let duration = Duration::from_millis(20);
        Event::Closed { call, connect_time: Some(Duration::from_micros(250)), duration, figures }
    }

    /// What is recorded after these events.
    fn records(events: impl IntoIterator<Item = Event>) -> (Observed, Vec<FlowRecord>) {
        let identity = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
        let subjects = HashMap::from([(WORKLOAD, Subject { identity, pod: Some("sleep-1".into()) })]);
        let mut observed = Observed::new(FlowTable::new(Side::Agent, 9));
        for event in events {
            observed.tell(event, &subjects);
        }
        let query = FlowQuery { bypassed: true, ..FlowQuery::default() };
        let records = observed.flows.select(&query).into_iter().map(Arc::unwrap_or_clone).collect();
        (observed, records)
    }

    #[test]
    fn a_bypassed_connection_is_one_flow_from_its_opening_to_its_end() {
        let (_observed, open) = records([Event::Opened(call(1, "10.0.0.1:80"))]);
        assert_eq!((open[0].verdict, open[0].duration_ms), (Verdict::Bypassed, None));
        let (_observed, ended) =
            records([Event::Opened(call(1, "10.0.0.1:80")), closed(call(1, "10.0.0.1:80"))]);
        assert_eq!(ended.len(), 1);
        let flow = &ended[0];
        assert_eq!((flow.sent, flow.received, flow.duration_ms), (5, 9, Some(20)));
        assert_eq!((flow.first_byte_us, flow.pod.as_deref()), (None, Some("sleep-1")));
        assert_eq!(flow.process.as_deref().unwrap().to_string(), "curl (pid 42)");
        let leg = flow.legs.workload.as_deref().unwrap();
        assert_eq!((leg.connect_us, leg.tcp.as_ref().unwrap().rtt_us), (Some(250), 300));
    }

    #[test]
    fn an_end_alone_is_a_flow_too() {
        let (_observed, ended) = records([closed(call(1, "10.0.0.1:80"))]);
        assert_eq!((ended.len(), ended[0].duration_ms), (1, Some(20)));
    }

    #[test]
    fn after_a_loss_a_connection_is_one_flow_still() {
        let (mut observed, _) = records([Event::Opened(call(1, "10.0.0.1:80"))]);
        observed.forget_open();
        let query = FlowQuery { bypassed: true, ..FlowQuery::default() };
        assert_eq!(observed.flows.select(&query).len(), 0);
        let identity = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
        observed.tell(
            closed(call(1, "10.0.0.1:80")),
            &HashMap::from([(WORKLOAD, Subject { identity, pod: None })]),
        );
        assert_eq!(observed.flows.select(&query).len(), 1);
    }

    #[test]
    fn a_call_that_is_refused_again_is_one_flow() {
        let refused = |port| Event::Refused(call(0, &format!("203.0.113.7:{port}")));
        let (mut observed, flows) = records([refused(443), refused(443), refused(853), refused(443)]);
        let attempts: Vec<_> = flows.iter().map(|flow| (flow.attempts, flow.reason)).collect();
        assert_eq!(attempts, [(Some(3), Reason::KernelRefused), (Some(1), Reason::KernelRefused)]);
        observed.end_refused(Instant::now() + REFUSED_FOR);
        assert!(observed.flows.records().iter().all(|flow| flow.duration_ms.is_some()));
    }

    #[test]
    fn calls_of_any_number_take_bounded_room() {
        let many = (0..5000_u16).map(|port| Event::Refused(call(0, &format!("203.0.113.7:{}", port + 1))));
        let (observed, flows) = records(many);
        assert_eq!(observed.refused.len(), REFUSED_AT_ONCE);
        assert_eq!(flows.len(), REFUSED_AT_ONCE + 9, "and those that the table keeps");
    }

    #[test]
    fn what_is_told_of_strangers_is_counted() {
        let stranger = Call { workload: 8, ..call(1, "10.0.0.1:80") };
        let (observed, flows) = records([Event::Opened(stranger)]);
        assert_eq!((observed.unknown, flows.len()), (1, 0));
    }

    #[test]
    fn a_workload_is_known_for_a_round_after_its_end() {
        let mut subjects = Subjects::default();
        let identity: SpiffeId = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
        subjects.add(1, Subject { identity, pod: None });
        subjects.forget(|_| true);
        subjects.forget(|_| false);
        assert!(subjects.known.contains_key(&1));
        subjects.forget(|_| false);
        assert!(subjects.known.is_empty() && !subjects.ended.is_empty());
        subjects.forget(|_| false);
        assert!(subjects.ended.is_empty());
    }
}

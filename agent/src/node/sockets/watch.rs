//! Looks at the sockets of one workload for as long as it is enrolled: at once, again and again, and whenever something happened
//! that may have let a connection out. Counts, logs, and keeps the workload's policy in step with what was found.
//!
//! `node::life` starts it. What is found, and what is done about it, is `examine` and `foreign`.

use std::{collections::HashSet, fmt::Write as _, io, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{task, time};

use super::{
    examine::{Cgroups, Findings, Subject, examine},
    existing::{Existing, Treatment},
    foreign::{Foreign, foreign},
    holders,
    judge::Rules,
    message::Socket,
};
use crate::node::{
    agent::{Agent, Enrolled},
    cgroup::Cgroup,
    presence::Presences,
    workload::Workload,
};

/// How often it is asked whether there is a reason to look: a look costs a walk through the kernel's table of connections.
const INTERVAL: Duration = Duration::from_secs(10);
/// How many of these pass until it is looked without a reason, also at the descriptors of the workload's processes.
const ROUNDS: u32 = 30;
/// The same while older connections go on, whose number is shown.
const ROUNDS_WITH_OLDER: u32 = 6;
/// Connections that are named in one line of the log.
const NAMED: usize = 20;

/// What is known of a workload's sockets: part of `egret status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketStatus {
    /// How connections are treated that are older than the enrolment; absent: they have not been looked at yet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub existing_connections: Option<Treatment>,
    /// Such connections that are open and may go on.
    pub older: usize,
    /// Connections that were open to the outside though neither captured nor permitted. Has to stay 0.
    pub escaped: u64,
    /// Sockets of its processes that were made elsewhere, so that nothing of ours sees them.
    pub foreign: usize,
}

/// Looks until the workload ends.
pub(in crate::node) async fn run(agent: Arc<Agent>, enrolled: Arc<Enrolled>) {
    let mut watch = Watch::new(agent, enrolled);
    let mut interval = time::interval(INTERVAL);
    interval.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut settings = watch.agent.socket_settings.subscribe();
    loop {
        tokio::select! {
            _ = interval.tick() => watch.round().await,
            () = watch.enrolled.look.notified() => drop(watch.look().await),
            () = time::sleep(watch.until_end()) => drop(watch.look().await),
            // The sender is the agent's, which is there.
            _ = settings.changed() => drop(watch.look().await),
        }
    }
}

struct Watch {
    agent: Arc<Agent>,
    enrolled: Arc<Enrolled>,
    /// The last look did not fail.
    looked: bool,
    /// That the time of older connections is over has been seen.
    over: bool,
    /// The next round's number.
    rounds: u32,
    /// Rounds without a look, whatever the counters say, because the last looks for their sake found nothing: what they count may be
    /// another workload's, or where nobody looks.
    pause: u32,
    /// What [`Capture::unjudged`](crate::datapath::Capture::unjudged) said at the last look.
    unjudged: u64,
    /// Cookies of foreign sockets that are known.
    foreign: HashSet<u64>,
}

impl Watch {
    fn new(agent: Arc<Agent>, enrolled: Arc<Enrolled>) -> Self {
        Self {
            agent,
            enrolled,
            looked: false,
            over: false,
            rounds: 0,
            pause: 0,
            unjudged: 0,
            foreign: HashSet::new(),
        }
    }

    /// How long older connections may go on; a long time where there is no end.
    fn until_end(&self) -> Duration {
        const NEVER: Duration = Duration::from_hours(24);
        match self.enrolled.existing.lock().treatment {
            Treatment::KeepUntil { until } if !self.over => {
                Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default().min(NEVER)
            }
            _ => NEVER,
        }
    }

    /// Looks where there is a reason, or it is time.
    async fn round(&mut self) {
        let round = self.rounds;
        self.rounds = self.rounds.wrapping_add(1);
        let older = self.enrolled.sockets.lock().older > 0;
        let due = round.is_multiple_of(if older { ROUNDS_WITH_OLDER } else { ROUNDS });
        // Where they cannot be read, it is looked.
        let unjudged = self.agent.capture.unjudged().unwrap_or(u64::MAX);
        let reason = unjudged != self.unjudged && round.is_multiple_of(self.pause + 1);
        if due || reason || !self.looked {
            self.unjudged = unjudged;
            let found = self.look().await;
            if reason {
                self.pause = if found { 0 } else { (self.pause * 2 + 1).min(ROUNDS) };
            }
        }
        // In the second, too: the process of `egret exec` enters a moment after the enrolment.
        if round == 1 || round.is_multiple_of(ROUNDS) {
            self.walk().await;
        }
    }

    /// Looks at the connections. Whether anything was found that was not known.
    async fn look(&mut self) -> bool {
        // Another agent has taken over: the policy and the state file are its own to write.
        let Some(_acting) = self.agent.acting().await else { return false };
        let (agent, enrolled) = (Arc::clone(&self.agent), Arc::clone(&self.enrolled));
        let (existing, now) = (*self.enrolled.existing.lock(), Timestamp::now());
        self.over = existing.ends_older(now);
        let looked = task::spawn_blocking(move || {
            // Held for all of it: whatever a workload opens after its release is direct, and none of ours to end.
            let presences = enrolled.presences.lock();
            let (_cgroup, subject) = subject(&enrolled.workload, &presences)?;
            let map = agent.capture.older_map().map_err(io::Error::other)?;
            let settings = agent.socket_settings.borrow().clone();
            let rules = Rules {
                direct: &settings.direct,
                direct_ever: &settings.direct_ever,
                first: existing.map != map,
                end_older: existing.ends_older(now),
            };
            let findings = examine(&agent.capture, &subject, &rules)?;
            drop(presences);
            let named = if findings.escaped.is_empty() && findings.older.is_empty() {
                Named::default()
            } else {
                Named::of(&subject, &findings)
            };
            Ok((map, findings, named))
        });
        let mut found = false;
        self.looked = false;
        let strict = match looked.await.map_err(io::Error::other).flatten() {
            Ok((map, findings, named)) => {
                self.looked = true;
                found = !findings.older.is_empty() || !findings.escaped.is_empty();
                self.tell(existing.treatment, &findings, &named);
                if existing.map != map {
                    self.save(map);
                }
                Existing { map, ..existing }.is_strict(now, map)
            }
            Err(error) if self.has_ended() => {
                tracing::debug!("the workload has ended: {error}");
                return false;
            }
            Err(error) => {
                self.agent.counters.socket_checks_failed.increment();
                tracing::error!(
                    workload = %self.enrolled.workload.identity,
                    "its sockets cannot be looked at: what is older than its enrolment and what escaped is not known: {error}"
                );
                // Without having been looked at, also what came in is older. Where all that is older may go on, it does.
                existing.ends_older(now) || self.enrolled.presences.lock().drops_older
            }
        };
        self.adjust(strict);
        found
    }

    /// Counts and logs.
    fn tell(&self, treatment: Treatment, findings: &Findings, named: &Named) {
        let counters = &self.agent.counters;
        let identity = &self.enrolled.workload.identity;
        counters.escaped.add(findings.escaped.len() as u64);
        counters.older_ended.add(findings.older_ended as u64);
        {
            let mut status = self.enrolled.sockets.lock();
            status.existing_connections = Some(treatment);
            status.older = findings.kept;
            status.escaped += findings.escaped.len() as u64;
        }
        if !findings.escaped.is_empty() {
            tracing::error!(
                workload = %identity,
                "connections escaped, open to the outside though neither captured nor permitted, and are ended ({}): {}",
                findings.escaped.len(), named.escaped
            );
        }
        if !findings.older.is_empty() {
            let fate = match treatment {
                _ if findings.kept == 0 => "are ended".to_owned(),
                Treatment::KeepUntil { until } => format!("go on until {until}"),
                Treatment::Report | Treatment::Reset => "go on".to_owned(),
            };
            tracing::warn!(
                workload = %identity,
                "connections older than its enrolment (or than a change of what it may reach directly) {fate} ({}): {}",
                findings.older.len(), named.older
            );
        }
        for error in &findings.not_ended {
            counters.socket_checks_failed.increment();
            tracing::error!(workload = %identity, "a connection is not ended, though it may not go on: {error}");
        }
    }

    /// Looks at the descriptors of its processes.
    async fn walk(&mut self) {
        let Some(_acting) = self.agent.acting().await else { return };
        let (agent, enrolled) = (Arc::clone(&self.agent), Arc::clone(&self.enrolled));
        let end = self.enrolled.existing.lock().treatment == Treatment::Reset;
        let walked = task::spawn_blocking(move || {
            let (_cgroup, subject) = subject(&enrolled.workload, &enrolled.presences.lock())?;
            let settings = agent.socket_settings.borrow().clone();
            foreign(&subject, &settings.direct, end)
        });
        match walked.await.map_err(io::Error::other).flatten() {
            Ok(found) => self.tell_foreign(&found),
            Err(error) if self.has_ended() => tracing::debug!("the workload has ended: {error}"),
            Err(error) => {
                self.agent.counters.socket_checks_failed.increment();
                tracing::error!(workload = %self.enrolled.workload.identity,
                    "whether its processes have sockets from elsewhere is not known: {error}");
            }
        }
    }

    fn tell_foreign(&mut self, found: &[Foreign]) {
        let new: Vec<&Foreign> =
            found.iter().filter(|foreign| !self.foreign.contains(&foreign.socket.cookie)).collect();
        self.agent.counters.foreign_sockets.add(new.len() as u64);
        self.enrolled.sockets.lock().foreign = found.iter().filter(|foreign| !foreign.ended).count();
        if !new.is_empty() {
            let named = list(new.iter().map(|foreign| {
                let ended = if foreign.ended { ", ended" } else { "" };
                format!("{} of {}{ended}", shown(&foreign.socket), foreign.holder)
            }));
            tracing::warn!(
                workload = %self.enrolled.workload.identity,
                "sockets of its processes were made outside of it, so that nothing of ours sees what they send ({}): {named}",
                new.len()
            );
        }
        self.foreign = found.iter().map(|foreign| foreign.socket.cookie).collect();
    }

    fn has_ended(&self) -> bool {
        self.enrolled.presences.lock().released || self.enrolled.workload.is_gone()
    }

    /// Brings the policy in the kernel in step.
    fn adjust(&self, strict: bool) {
        let workload = &self.enrolled.workload;
        let mut presences = self.enrolled.presences.lock();
        if presences.released || presences.drops_older == strict {
            return;
        }
        presences.drops_older = strict;
        if let Err(error) = self.agent.write_policy(workload, &presences) {
            // The next check of the workload's programs writes it.
            tracing::error!(workload = %workload.identity, "{:#}", anyhow::Error::new(error));
        }
    }

    /// Writes down in which map the standings are.
    fn save(&self, map: u32) {
        // A state file must not come back, nor say what the workload was before.
        let presences = self.enrolled.presences.lock();
        if presences.released {
            return;
        }
        self.enrolled.existing.lock().map = map;
        let workload = self.enrolled.current();
        if let Err(error) = workload.save(&self.agent.run_dir) {
            tracing::error!(workload = %workload.identity,
                "the next agent will take what escapes until then for older than the enrolment: {error}");
        }
    }
}

/// Whose sockets, as of now. By the cgroup's descriptor, which has to stay open: a service that is started again has another cgroup
/// with the same name.
fn subject(workload: &Workload, presences: &Presences) -> io::Result<(Cgroup, Subject)> {
    if presences.released {
        return Err(io::Error::other("it is released"));
    }
    let cgroup = workload.open_cgroup()?;
    let subject = Subject {
        workload: workload.id,
        cgroup: cgroup.path_by_descriptor(),
        namespaces: presences.namespaces(),
    };
    Ok((cgroup, subject))
}

/// Connections, with the processes that have them, as text.
#[derive(Default)]
struct Named {
    escaped: String,
    older: String,
}

impl Named {
    fn of(subject: &Subject, findings: &Findings) -> Self {
        let directories = Cgroups::below(&subject.cgroup).map(|cgroups| cgroups.directories);
        let held = holders::sockets(&directories.unwrap_or_default());
        let name = |sockets: &[Socket]| {
            list(sockets.iter().map(|socket| match held.get(&socket.inode) {
                Some(holder) => format!("{} of {holder}", shown(socket)),
                None => shown(socket),
            }))
        };
        Self { escaped: name(&findings.escaped), older: name(&findings.older) }
    }
}

fn shown(socket: &Socket) -> String {
    format!("{} {} -> {}", socket.protocol.name(), socket.local, socket.remote)
}

/// Some of them, and how many more there are.
fn list(named: impl ExactSizeIterator<Item = String>) -> String {
    let more = named.len().saturating_sub(NAMED);
    let mut text = named.take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{NAMED, list};

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(list(["a".to_owned(), "b".to_owned()].into_iter()), "a, b");
        let long = vec!["x".to_owned(); NAMED + 2];
        assert!(list(long.into_iter()).ends_with("x and 2 more"));
    }
}

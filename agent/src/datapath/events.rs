//! What the kernel programs tell, read from their ring: bypassed connections and refused calls. `node::observed` reads.
//!
//! The ring belongs to the programs that this process has loaded, and only this process reads it: an agent that takes over attaches
//! programs with a ring of its own, and the old one reads the rest of its own.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use agent_common::{Decision, Event as Raw, EventKind, Figures, names};
use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use tokio::io::unix::AsyncFd;

use super::{Error, loader, syscall};

/// Who made a call, for people: a process can hand its sockets on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Number in the PID namespace of the machine.
    pub pid: u32,
    /// Name of the thread that called (`comm`, at most 15 bytes).
    pub name: String,
}

impl Caller {
    /// None: this kernel does not tell.
    pub(super) fn of(process: &agent_common::Process) -> Option<Self> {
        let name = String::from_utf8_lossy(process.name()).into_owned();
        process.id().map(|pid| Self { pid, name })
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A bypassed connection is being opened.
    Opened(Call),
    /// A bypassed connection is over; those that were never told of as opened, too.
    Closed {
        /// How it began.
        call: Call,
        /// From `connect()` to the SYN-ACK; absent: there was none.
        connect_time: Option<Duration>,
        /// From `connect()` to the end.
        duration: Duration,
        /// What it carried.
        figures: Figures,
    },
    /// A call was refused.
    Refused(Call),
}

/// A call of a workload's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub workload: u32,
    /// Name of the decision, as in the counters.
    pub decision: &'static str,
    /// Where it goes; absent for calls that name nothing (`socket()`).
    pub destination: Option<SocketAddr>,
    /// Who called.
    pub caller: Option<Caller>,
    /// When.
    pub at: SystemTime,
    /// What names the socket as long as it lives; 0 of a refused call.
    pub cookie: u64,
}

/// The ring of the programs that this process has loaded.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self, Error> {
        let fail = |why: String| Error::new(format_args!("map {}", names::EVENTS), why);
        let map = programs.take_map(names::EVENTS).ok_or_else(|| fail("it is read already".to_owned()))?;
        let ring = RingBuf::try_from(map).map_err(|error| fail(loader::chain(&error)))?;
        // SAFETY: the map's descriptor is open as long as the map is, which is what is registered.
        let ring = unsafe { AsyncFd::register(ring) };
        Ok(Self { ring: ring.map_err(|error| fail(error.to_string()))? })
    }

    /// Waits until there is something to read.
    pub async fn ready(&mut self) -> io::Result<()> {
        // Ready is what is not empty: whoever asks again before he has read everything waits for the next event.
        self.ring.readable_mut().await?.clear_ready();
        Ok(())
    }

    /// Reads what is there, at most what the ring holds: who writes faster than this reads must not keep it busy.
    pub fn read(&mut self, mut tell: impl FnMut(Event)) -> io::Result<()> {
        let clock = Clock::now()?;
        for _ in 0..names::EVENTS_BYTES / size_of::<Raw>() {
            let Some(item) = self.ring.get_mut().next() else { break };
            if let Some(event) = raw(&item).and_then(|raw| clock.event(&raw)) {
                tell(event);
            }
        }
        Ok(())
    }
}

/// None: not of the size of an event.
fn raw(bytes: &[u8]) -> Option<Raw> {
    // SAFETY: as many bytes as it has, and every pattern is one. Not aligned, maybe.
    (bytes.len() == size_of::<Raw>()).then(|| unsafe { bytes.as_ptr().cast::<Raw>().read_unaligned() })
}

/// What the two clocks showed at the same time.
struct Clock {
    monotonic: Duration,
    wall: SystemTime,
}

impl Clock {
    fn now() -> io::Result<Self> {
        Ok(Self { monotonic: syscall::monotonic()?, wall: SystemTime::now() })
    }

    fn wall(&self, nanoseconds: u64) -> SystemTime {
        self.wall - self.monotonic.saturating_sub(Duration::from_nanos(nanoseconds))
    }

    /// None: this version knows no such event.
    fn event(&self, raw: &Raw) -> Option<Event> {
        let call = Call {
            workload: raw.workload,
            decision: raw.decision().map(Decision::name)?,
            destination: Some(SocketAddr::from(raw.destination))
                .filter(|to| to.port() != 0 || !to.ip().is_unspecified()),
            caller: Caller::of(&raw.process),
            at: self.wall(raw.opened),
            cookie: raw.cookie,
        };
        let since = |at: u64| Duration::from_nanos(at.saturating_sub(raw.opened));
        Some(match raw.kind()? {
            EventKind::Opened => Event::Opened(call),
            EventKind::Refused => Event::Refused(call),
            EventKind::Closed => Event::Closed {
                call,
                connect_time: (raw.established != 0).then(|| since(raw.established)),
                duration: since(raw.at),
                figures: raw.figures,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use agent_common::{Endpoint, Process};

    use super::*;

    const EVENT: Raw = Raw {
        cookie: 9,
        at: 3_000_000,
        opened: 1_000_000,
        established: 1_500_000,
        figures: Figures { sent: 7, ..Figures::NONE },
        kind: EventKind::Closed as u32,
        decision: Decision::BypassedRange as u32,
        workload: 4,
        process: Process::new(42, *b"curl\0\0\0\0\0\0\0\0\0\0\0\0"),
        destination: Endpoint::v4([10, 0, 0, 1], 80),
        reserved: 0,
    };

    fn read(event: Raw) -> Option<Event> {
        let clock = Clock {
            monotonic: Duration::from_millis(5),
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        };
        clock.event(&event)
    }

    #[test]
    fn times_are_those_of_the_wall() {
        let Some(Event::Closed { call, connect_time, duration, figures }) = read(EVENT) else { panic!() };
        assert_eq!(call.at, SystemTime::UNIX_EPOCH + Duration::from_millis(996));
        assert_eq!((connect_time, duration), (Some(Duration::from_micros(500)), Duration::from_millis(2)));
        assert_eq!((call.destination, figures.sent), (Some("10.0.0.1:80".parse().unwrap()), 7));
        assert_eq!(call.caller, Some(Caller { pid: 42, name: "curl".to_owned() }));
        assert_eq!(call.decision, "bypassed_range");
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let Some(Event::Closed { call, connect_time, .. }) = read(Raw {
            established: 0,
            process: Process::UNKNOWN,
            destination: Endpoint::v6([0; 16], 0),
            ..EVENT
        }) else {
            panic!()
        };
        assert_eq!((call.caller, call.destination, connect_time), (None, None, None));
        assert_eq!(read(Raw { kind: 77, ..EVENT }), None);
        assert_eq!(read(Raw { decision: 9999, ..EVENT }), None);
        assert!(raw(&[0; 8]).is_none());
    }
}

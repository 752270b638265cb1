//! Keeps a worker on one CPU as long as it has little to do there and need not wait.
//!
//! A thread that is woken from another CPU costs an interrupt, twice the time of the work it then does for a small request, and cold
//! caches; and the scheduler prefers another CPU, because it is idle. Where agent and gateway are on the same machine their workers wake
//! each other twice per request: on one CPU that costs next to nothing (`agent/ARCHITECTURE.md` has the figures).
//!
//! What the scheduler does well is not taken from it: a worker that has much to do, or that waits for its CPU because somebody else
//! has it, may run anywhere. `workers` runs [`watch`] on each of its threads.

use std::{
    cell::RefCell,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use tokio::time::sleep;

/// Between two looks at what a worker did.
const WINDOW: Duration = Duration::from_millis(200);

/// Who waits so long for a CPU, whenever it could run, waits for somebody else. (Being woken takes 20 µs.)
const LONG: Duration = Duration::from_micros(200);

/// The part of its time that it takes to be felt, if the waits are long; and whatever they are: then there is work for more CPUs than
/// there are. (With 1,000 requests a second on two CPUs a worker waits for a 30th, as fast as it goes for half of its time.)
const FELT: [u32; 2] = [50, 8];

/// The part of its time from which on a worker has much to do, and below which it has little: there are four on a CPU at least.
const MUCH: u32 = 4;
const LITTLE: u32 = 8;

/// For how long a worker may run anywhere after it had to wait: at first, and when it had to wait again and again.
const FREE: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];

/// The CPUs that the calling thread may use, in their order.
pub(super) fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}

/// Lets the calling thread run on these.
pub(super) fn run_on(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().try_for_each(|cpu| set.set(*cpu))?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

thread_local! {
    static KEPT: RefCell<Option<Affinity>> = const { RefCell::new(None) };
}

/// Keeps the calling thread on `cpu`, one of the CPUs it may use. Not where the kernel does not tell how long it waits.
pub(super) fn keep(cpu: usize, allowed: Vec<usize>) -> io::Result<()> {
    let kept = Affinity {
        schedstat: File::open("/proc/thread-self/schedstat")?,
        cpu,
        allowed,
        course: Course::START,
        last: None,
    };
    run_on(&[cpu])?;
    KEPT.set(Some(kept));
    Ok(())
}

/// Looks again and again whether the calling thread should stay where it is, also while it never rests.
pub(super) async fn watch() {
    while KEPT.with_borrow(Option::is_some) {
        sleep(WINDOW).await;
        look();
    }
}

fn look() {
    KEPT.with_borrow_mut(|kept| {
        if let Some(affinity) = kept
            && let Err(error) = affinity.look(Instant::now())
        {
            tracing::debug!(%error, cpu = affinity.cpu, "a worker is not kept on its CPU any more");
            // Nobody would let it go later; what fails here is what failed already.
            let _ = run_on(&affinity.allowed);
            *kept = None;
        }
    });
}

/// Where a thread may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// On the CPU it is kept on.
    Kept,
    /// On any, until then at least.
    Any(Instant),
}

/// What a thread did in a window.
#[derive(Clone, Copy, Debug)]
struct Did {
    ran: Duration,
    /// While it could have run.
    waited: Duration,
    /// How often it ran.
    turns: u32,
    window: Duration,
}

impl Did {
    fn has_to_wait(self) -> bool {
        let [long, any] = FELT.map(|part| self.waited > self.window / part);
        any || long && self.waited > LONG * self.turns
    }
}

/// Where a thread may run, and for how long it will run anywhere should it have to wait.
#[derive(Clone, Copy, Debug)]
struct Course {
    at: At,
    free: Duration,
}

impl Course {
    const START: Self = Self { at: At::Kept, free: FREE[0] };

    fn next(self, now: Instant, did: Did) -> Self {
        match self.at {
            At::Kept if did.has_to_wait() => {
                Self { at: At::Any(now + self.free), free: FREE[1].min(self.free * 2) }
            }
            At::Kept if did.ran > did.window / MUCH => Self { at: At::Any(now), ..self },
            At::Kept => Self { free: FREE[0].max(self.free / 2), ..self },
            At::Any(until) if now >= until && did.ran < did.window / LITTLE && !did.has_to_wait() => {
                Self { at: At::Kept, ..self }
            }
            At::Any(_) => self,
        }
    }
}

/// Where the calling thread is kept.
struct Affinity {
    schedstat: File,
    cpu: usize,
    allowed: Vec<usize>,
    course: Course,
    last: Option<(Instant, Counts)>,
}

impl Affinity {
    fn look(&mut self, now: Instant) -> io::Result<()> {
        let mut text = [0; 64];
        let length = self.schedstat.read_at(&mut text, 0)?;
        let counts = Counts::parse(&text[..length]).ok_or(io::ErrorKind::InvalidData)?;
        let Some((then, before)) = self.last.replace((now, counts)) else { return Ok(()) };
        let next = self.course.next(now, counts.since(before, now - then));
        match (self.course.at, next.at) {
            (At::Kept, At::Any(_)) => run_on(&self.allowed)?,
            (At::Any(_), At::Kept) => run_on(&[self.cpu])?,
            _ => {}
        }
        self.course = next;
        Ok(())
    }
}

/// What `/proc/PID/schedstat` counts since a thread began (the kernel's sched-stats.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    ran: Duration,
    waited: Duration,
    turns: u64,
}

impl Counts {
    /// Nanoseconds on a CPU, nanoseconds waiting for one, number of turns.
    fn parse(text: &[u8]) -> Option<Self> {
        let mut fields = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
        let mut next = || fields.next()?.parse().ok();
        let (ran, waited, turns) = (next()?, next()?, next()?);
        Some(Self { ran: Duration::from_nanos(ran), waited: Duration::from_nanos(waited), turns })
    }

    fn since(self, before: Self, window: Duration) -> Did {
        Did {
            ran: self.ran.saturating_sub(before.ran),
            waited: self.waited.saturating_sub(before.waited),
            turns: u32::try_from(self.turns.saturating_sub(before.turns)).unwrap_or(u32::MAX),
            window,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds in a window, in a hundred turns.
    fn did(ran: u64, waited: u64) -> Did {
        let (ran, waited) = (Duration::from_millis(ran), Duration::from_millis(waited));
        Did { ran, waited, turns: 100, window: WINDOW }
    }

    #[test]
    fn long_waits_count_and_many_short_ones() {
        assert!(did(10, 21).has_to_wait(), "long");
        assert!(!Did { turns: 200, ..did(10, 21) }.has_to_wait(), "as always when it is woken");
        assert!(Did { turns: 10_000, ..did(10, 26) }.has_to_wait(), "an eighth of its time");
        assert!(!Did { turns: 1, ..did(1, 3) }.has_to_wait(), "hardly felt");
    }

    #[test]
    fn a_worker_with_little_to_do_stays_and_others_may_go() {
        let now = Instant::now();
        let at = |course: Course, did| course.next(now, did).at;
        assert_eq!(at(Course::START, did(10, 2)), At::Kept, "woken");
        assert_eq!(at(Course::START, did(60, 10)), At::Any(now), "much to do");
        let busy = Course { at: At::Any(now), ..Course::START };
        assert_eq!(at(busy, did(40, 0)), At::Any(now), "not to and fro");
        assert_eq!(at(busy, did(20, 30)), At::Any(now), "others have much to do");
        assert_eq!(at(busy, did(20, 0)), At::Kept);
    }

    #[test]
    fn who_has_to_wait_again_and_again_comes_back_later_and_later() {
        let mut now = Instant::now();
        let mut course = Course::START;
        for expected in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            course = course.next(now, did(10, 30));
            assert_eq!(course.at, At::Any(now + Duration::from_millis(expected)));
            assert_eq!(course.next(now, did(10, 0)).at, course.at, "not yet");
            now += Duration::from_millis(expected);
            course = course.next(now, did(10, 0));
            assert_eq!(course.at, At::Kept);
        }
        for _ in 0..6 {
            course = course.next(now, did(10, 0));
        }
        assert_eq!(course.free, FREE[0], "forgotten");
    }

    #[test]
    fn a_thread_is_kept_until_it_has_much_to_do() {
        let thread = std::thread::spawn(|| {
            let cpus = allowed().unwrap();
            keep(cpus[0], cpus.clone()).unwrap();
            assert_eq!(allowed().unwrap(), cpus[..1]);
            look();
            let began = Instant::now();
            while began.elapsed() < 2 * WINDOW {
                std::hint::spin_loop();
            }
            look();
            assert_eq!(allowed().unwrap(), cpus);
        });
        thread.join().unwrap();
    }

    #[test]
    fn what_the_kernel_counts_is_understood() {
        let counts = Counts::parse(b"72260 74937 2\n").unwrap();
        let (ran, waited) = (Duration::from_nanos(72_260), Duration::from_nanos(74_937));
        assert_eq!(counts, Counts { ran, waited, turns: 2 });
        assert!(Counts::parse(b"72260 74937").is_none() && Counts::parse(b"").is_none());
    }
}

//! Memory that is not needed any more goes back to the kernel, also when nothing happens.
//!
//! The allocator (mimalloc, chosen in `main`) gives free pages back a little later, when it is called next: a role that has just loaded its
//! programs, or lost ten thousand connections, may not call it for hours. `workers` runs [`give_back`] on each of its threads, `cli` every
//! role beside it, and `node::check` [`give_back_here`] on those that load programs. (To have pages given back as they become free costs a tenth of the processor time of a request, and a fifth in bulk:
//! measured and dropped.)
//!
//! The program itself is 40 MiB, of which a role that has started, or has little to do, needs a few: it lets go of the rest when it comes to rest.

use std::{convert::Infallible, fs, io, ptr::NonNull, time::Duration};

use nix::sys::{
    mman::{MmapAdvise, madvise},
    resource::{UsageWho, getrusage},
};
use tokio::time::sleep;

/// Between two looks for free memory.
const PACE: Duration = Duration::from_secs(4);

/// Between two looks at how much was done.
const SPELL: Duration = Duration::from_secs(5);

/// Microseconds of processor time in a spell, from which on it was a busy one: the checks of a workload took up to 85,000 on a slow machine.
const BUSY: i64 = 250_000;

/// A page, or several where the machine has smaller ones.
const PAGE: usize = 64 << 10;

unsafe extern "C" {
    /// Where the program begins in memory, and where its instructions end; the linker puts nothing that is written to in between.
    static __executable_start: u8;
    static etext: u8;
}

/// Runs a role, on the main thread; meanwhile that thread and the runtime's give back what they have free.
pub async fn kept_low<T>(role: impl Future<Output = T>) -> T {
    tokio::spawn(give_back());
    tokio::spawn(forget_program_at_rest());
    tokio::select! {
        done = role => done,
        never = give_back() => match never {},
    }
}

/// Gives back what this thread has free, again and again.
pub async fn give_back() -> Infallible {
    loop {
        sleep(PACE).await;
        // SAFETY: may be called at any time, on any thread; it takes nothing and touches only what is free.
        unsafe { libmimalloc_sys::mi_collect(true) };
    }
}

/// Gives back what this thread has free: for those of the runtime's pool, one of which has loaded the kernel programs.
pub fn give_back_here() {
    // SAFETY: as above.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Lets go of the program's own pages whenever a busy spell, such as the start, is over: what is still needed comes back from the page
/// cache as it is used. Not between the requests of a role that has a little to do all the time.
async fn forget_program_at_rest() {
    let (mut was_busy, mut before) = (true, processor_time());
    loop {
        sleep(SPELL).await;
        let now = processor_time();
        let is_busy = now - before >= BUSY;
        before = now;
        if was_busy
            && !is_busy
            && !is_written_to()
            && let Err(e) = forget_program()
        {
            tracing::debug!(error = %e, "the program's pages stay in memory");
        }
        was_busy = is_busy;
    }
}

/// Microseconds that this process has had.
fn processor_time() -> i64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| {
        let (user, system) = (usage.user_time(), usage.system_time());
        (user.tv_sec() + system.tv_sec()) * 1_000_000 + user.tv_usec() + system.tv_usec()
    })
}

/// Whether instructions differ from the file's: a debugger's breakpoints, or uprobes, which would be gone with the page. So does what
/// cannot be read.
fn is_written_to() -> bool {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let ours = |range: &str| {
        let (start, end) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        Some((number(start)?..number(end)?).contains(&(forget_program as *const () as usize)))
    };
    let mut lines = maps.lines();
    let mapping = lines.find(|line| line.split(' ').next().and_then(ours).is_some_and(|ours| ours));
    let written = mapping.and_then(|_| lines.find_map(|line| line.strip_prefix("Anonymous:")));
    written.is_none_or(|written| written.trim() != "0 kB")
}

/// Instructions, constants and tables; not what the start has relocated.
fn forget_program() -> io::Result<()> {
    let (start, end) = (&raw const __executable_start, &raw const etext);
    let start = start.cast_mut().map_addr(|start| start.next_multiple_of(PAGE));
    let length = (end.addr() / PAGE * PAGE).saturating_sub(start.addr());
    let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::NotFound)?;
    // SAFETY: whole pages that are mapped from the program's file and were never written to: what is read there next is read from the
    // file again.
    unsafe { madvise(start, length, MmapAdvise::MADV_DONTNEED) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use super::*;

    /// KiB of this program's file that are in this process' memory.
    fn resident() -> u64 {
        let program = env::current_exe().unwrap();
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut ours = false;
        let mut sum = 0;
        for line in maps.lines() {
            if let Some(rss) = line.strip_prefix("Rss:") {
                sum += if ours { rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap() } else { 0 };
            } else if line.contains('/') {
                ours = line.ends_with(program.to_str().unwrap());
            } else if line.split(' ').next().is_some_and(|range| range.contains('-')) {
                ours = false;
            }
        }
        sum
    }

    #[test]
    fn a_program_is_forgotten_and_goes_on() {
        assert!(!is_written_to());
        // Other tests run meanwhile, and need it.
        let fell = (0..20).any(|_| {
            let before = resident();
            forget_program().unwrap();
            resident() * 4 < before * 3
        });
        assert!(fell);
    }
}

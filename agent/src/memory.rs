//! Memory that is not needed any more goes back to the kernel, also when nothing happens.
//!
//! The allocator (mimalloc, chosen in `main`) gives free pages back a little later, when it is called next: a role that has just loaded its
//! programs, or lost ten thousand connections, may not call it for hours. `workers` runs [`give_back`] on each of its threads, `cli` every
//! role beside it. (To have pages given back as they become free costs a tenth of the processor time of a request, and a fifth in bulk:
//! measured and dropped.)
//!
//! Most of the program is there for its beginning: a role has it forgotten once.

use std::{convert::Infallible, io, ptr::NonNull, time::Duration};

use nix::sys::mman::{MmapAdvise, madvise};
use tokio::time::sleep;

/// Between two looks.
const PACE: Duration = Duration::from_secs(10);

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
    tokio::spawn(forget_beginning());
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

/// Lets go of the program's own pages, once, when the beginning is over: what is still needed comes back from the page cache as it is used. Once
/// only, for a debugger's breakpoints would go with them.
async fn forget_beginning() {
    sleep(PACE).await;
    if let Err(e) = forget_program() {
        tracing::debug!(error = %e, "the program's pages stay in memory");
    }
}

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
        let before = resident();
        forget_program().unwrap();
        let after = resident();
        assert!(after < before / 2, "{before} KiB, then {after} KiB");
    }
}

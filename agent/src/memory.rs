//! Memory that is not needed any more goes back to the kernel, also when nothing happens.
//!
//! The allocator (mimalloc, chosen in `main`) gives free pages back a little later, when it is called next: a role that has just loaded its
//! programs, or lost ten thousand connections, may not call it for hours. `workers` and `app` run this on each of their threads. (To have
//! pages given back as they become free costs a tenth of the processor time of a request, and a fifth in bulk: measured and dropped.)

use std::time::Duration;

use tokio::time::sleep;

/// Between two looks.
const PACE: Duration = Duration::from_secs(10);

/// Gives back what this thread has free, again and again.
pub async fn give_back() {
    loop {
        sleep(PACE).await;
        // SAFETY: may be called at any time, on any thread; it takes nothing and touches only what is free.
        unsafe { libmimalloc_sys::mi_collect(true) };
    }
}

//! Original destinations, as the kernel programs publish them before the SYN. Called per accepted connection, and by a
//! periodic sweep for those that nobody took (an agent that was killed leaves its accept queue behind).

use std::{net::SocketAddr, os::fd::OwnedFd, time::Duration};

use agent_common::{Original, OriginalKey, names};
use aya::maps::{HashMap, MapData, MapError};

use super::{Error, events::Caller, pins::Pins, syscall};

/// What the kernel programs know of a captured connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Where the application wanted to go.
    pub destination: SocketAddr,
    /// Who called `connect()`.
    pub caller: Option<Caller>,
}

/// Age at which an entry is nobody's any more: far above the time a connection waits for accept.
pub(super) const MAX_AGE: Duration = Duration::from_mins(1);

/// Takes the entry of a connection out of the map: one system call, no lock of ours.
pub(super) fn take(originals: &OwnedFd, workload: u32, peer: SocketAddr, listener: u16) -> Option<Taken> {
    let key = OriginalKey::new(workload, peer.into(), listener);
    let original: Original = syscall::take(originals, &key).ok()?;
    Some(Taken { destination: original.destination().into(), caller: Caller::of(&original.process()) })
}

/// Removes entries older than `max_age` and returns how many.
pub(super) fn sweep(pins: &Pins, max_age: Duration) -> Result<usize, Error> {
    let fail = |error: MapError| pins.map_error(names::ORIGINAL, error);
    let mut originals: HashMap<MapData, OriginalKey, Original> =
        pins.typed_map(names::ORIGINAL)?.try_into().map_err(fail)?;
    let now = syscall::monotonic().map_err(|error| Error::new("CLOCK_MONOTONIC", error))?;
    // Concurrent changes can end the walk early or show a key twice; the next sweep sees the rest.
    let old: Vec<OriginalKey> = originals
        .iter()
        .filter_map(Result::ok)
        .filter(|(_, original)| now.saturating_sub(Duration::from_nanos(original.published())) >= max_age)
        .map(|(key, _)| key)
        .collect();
    Ok(old.iter().filter(|key| originals.remove(key).is_ok()).count())
}

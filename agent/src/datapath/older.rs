//! What user space has found out about connections that no kernel program saw begin, for the backstop. Called by
//! `node::sockets`. Kept in a pinned map, by the sockets' cookies, so that it outlives the agent: what was looked at once is not
//! judged again by the next one.

use std::{io, os::fd::OwnedFd};

use agent_common::{Older, Standing, names};
use aya::maps::{HashMap, MapData, MapError};
use nix::libc;

use super::{Error, pins::Pins, syscall};

/// Writes the standing of a socket's connection.
pub(super) fn write(map: &OwnedFd, workload: u32, cookie: u64, standing: Standing) -> io::Result<()> {
    syscall::update(map, &cookie, &Older::new(workload, standing)).map_err(|error| {
        match error.raw_os_error() {
            Some(libc::E2BIG) => io::Error::other(format!(
                "{} connections are listed already; older ones that are not pass or not, as the policy says",
                names::OLDER_CAPACITY
            )),
            _ => error,
        }
    })
}

/// What was written for a socket.
pub(super) fn read(map: &OwnedFd, cookie: u64) -> io::Result<Option<Standing>> {
    Ok(syscall::if_any(syscall::lookup::<_, Older>(map, &cookie))?.map(|older| older.standing()))
}

/// Forgets what was written for a workload.
pub(super) fn forget(pins: &Pins, workload: u32) -> Result<(), Error> {
    let fail = |error: MapError| pins.map_error(names::OLDER, error);
    let mut map: HashMap<MapData, u64, Older> = pins.typed_map(names::OLDER)?.try_into().map_err(fail)?;
    let gone: Vec<u64> = map
        .iter()
        .filter_map(Result::ok)
        .filter(|(_, older)| older.workload() == workload)
        .map(|(cookie, _)| cookie)
        .collect();
    for cookie in gone {
        map.remove(&cookie).map_err(fail)?;
    }
    Ok(())
}

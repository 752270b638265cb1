//! One look at the sockets of a workload: what no kernel program saw begin is given its standing, and ended where it may not go
//! on. Called by `watch`, and by tests. Blocks; counts and logs nothing.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    diag,
    judge::{Listening, Rules, Verdict, judge},
    message::{Protocol, Socket},
};
use crate::{
    datapath::{Capture, Standing},
    node::netns,
};

/// Whose sockets.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The workload's number.
    pub workload: u32,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Its own network namespace; None: the caller's.
    pub namespace: Option<PathBuf>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Connections that are older than the enrolment, or than a change that took their permission, and were not known before.
    pub older: Vec<Socket>,
    /// Older connections that go on.
    pub kept: usize,
    /// Connections that go out though neither captured nor permitted.
    pub escaped: Vec<Socket>,
    /// Connections that were ended.
    pub ended: usize,
    /// Why connections were not ended that should have been. They send nothing any more.
    pub not_ended: Vec<io::Error>,
}

/// Looks.
pub fn examine(capture: &Capture, subject: &Subject, rules: &Rules<'_>) -> io::Result<Findings> {
    let cgroups = tree(&subject.cgroup)?;
    netns::inside(subject.namespace.as_deref(), || {
        let sockets = diag::list(Protocol::Tcp, &cgroups, Some(capture.accepted()))?;
        let listening = Listening::of(&sockets);
        let mut findings = Findings::default();
        for socket in sockets {
            act(capture, subject.workload, rules, &listening, socket, &mut findings)?;
        }
        Ok(findings)
    })
}

fn act(
    capture: &Capture,
    workload: u32,
    rules: &Rules<'_>,
    listening: &Listening,
    socket: Socket,
    findings: &mut Findings,
) -> io::Result<()> {
    // Most are captured or marked, and need no look into the map.
    if judge(&socket, None, rules, listening) == Verdict::Regular {
        return Ok(());
    }
    let standing = capture.older(socket.cookie).map_err(io::Error::other)?;
    let say = |standing| capture.judge_older(workload, socket.cookie, standing).map_err(io::Error::other);
    // The standing comes first: should the rest fail, nothing more leaves.
    let mut end = || match say(Standing::Ended).and_then(|()| diag::destroy(&socket)) {
        Ok(ended) => findings.ended += usize::from(ended),
        Err(error) => findings.not_ended.push(error),
    };
    match judge(&socket, standing, rules, listening) {
        Verdict::Regular => {}
        Verdict::FromOutside => say(Standing::FromOutside)?,
        Verdict::Ended => end(),
        Verdict::Escaped => {
            end();
            findings.escaped.push(socket);
        }
        Verdict::Older => {
            if rules.end_older {
                end();
            } else {
                if standing.is_none() {
                    say(Standing::Kept)?;
                }
                findings.kept += 1;
            }
            if standing.is_none() {
                findings.older.push(socket);
            }
        }
    }
    Ok(())
}

/// The ids of a cgroup and of those below.
pub(super) fn tree(cgroup: &Path) -> io::Result<Vec<u64>> {
    let mut ids = vec![fs::metadata(cgroup)?.ino()];
    let mut left = vec![cgroup.to_owned()];
    while let Some(directory) = left.pop() {
        let entries = match fs::read_dir(&directory) {
            // One below, which has just gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound && directory != cgroup => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                // It may go while we look, too.
                ids.extend(entry.metadata().map(|metadata| metadata.ino()).ok());
                left.push(entry.path());
            }
        }
    }
    Ok(ids)
}

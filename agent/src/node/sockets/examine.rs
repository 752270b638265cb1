//! One look at the sockets of a workload: what no kernel program saw begin is given its standing, and ended where it may not go
//! on. Called by `watch`, and by tests. Blocks; counts and logs nothing.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    diag,
    judge::{Listening, Rules, Verdict, judge},
    message::{Protocol, Socket},
};
use crate::{
    datapath::{Capture, Standing},
    node::netns::{self, Namespace},
};

/// Whose sockets.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The workload's number.
    pub workload: u32,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// The network namespaces it is in; None is the caller's.
    pub namespaces: Vec<Option<Arc<Namespace>>>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Connections that are older than the enrolment, or than a change that took their permission, and were not known before.
    pub older: Vec<Socket>,
    /// Older connections that go on.
    pub kept: usize,
    /// Connections that were open to the outside though neither captured nor permitted. They are ended.
    pub escaped: Vec<Socket>,
    /// Older connections that were ended.
    pub older_ended: usize,
    /// Why connections were not ended that should have been. They send nothing any more.
    pub not_ended: Vec<io::Error>,
}

/// Looks.
pub fn examine(capture: &Capture, subject: &Subject, rules: &Rules<'_>) -> io::Result<Findings> {
    let cgroups = Cgroups::below(&subject.cgroup)?;
    let mut findings = Findings::default();
    for namespace in &subject.namespaces {
        netns::inside(namespace.as_deref(), || {
            let sockets = diag::list(Protocol::Tcp, &cgroups.ids, Some(capture.accepted()))?;
            let listening = Listening::of(&sockets);
            for socket in sockets {
                act(capture, subject.workload, rules, &listening, socket, &mut findings)?;
            }
            Ok(())
        })?;
    }
    Ok(findings)
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
    let verdict = judge(&socket, standing, rules, listening);
    match verdict {
        Verdict::Regular => return Ok(()),
        Verdict::FromOutside => return say(Standing::FromOutside),
        Verdict::Older if !rules.end_older => {
            if standing.is_none() {
                say(Standing::Kept)?;
            }
            findings.kept += 1;
        }
        // The standing comes first: should the rest fail, nothing more leaves.
        Verdict::Older | Verdict::Ended | Verdict::Escaped => {
            match say(Standing::Ended).and_then(|()| diag::destroy(&socket)) {
                Ok(ended) => findings.older_ended += usize::from(ended && verdict == Verdict::Older),
                Err(error) => findings.not_ended.push(error),
            }
        }
    }
    match verdict {
        Verdict::Escaped => findings.escaped.push(socket),
        Verdict::Older if standing.is_none() => findings.older.push(socket),
        _ => {}
    }
    Ok(())
}

/// A cgroup and those below.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    /// Their ids.
    pub(super) ids: Vec<u64>,
    /// Their directories.
    pub(super) directories: Vec<PathBuf>,
}

impl Cgroups {
    pub(super) fn below(top: &Path) -> io::Result<Self> {
        let mut found = Self { ids: vec![fs::metadata(top)?.ino()], directories: vec![top.to_owned()] };
        let mut next = 0;
        while let Some(directory) = found.directories.get(next) {
            next += 1;
            // One below may have just gone.
            let Ok(entries) = fs::read_dir(directory) else { continue };
            for entry in entries.filter_map(Result::ok) {
                if let Some(metadata) = entry.metadata().ok().filter(fs::Metadata::is_dir) {
                    found.ids.push(metadata.ino());
                    found.directories.push(entry.path());
                }
            }
        }
        Ok(found)
    }
}

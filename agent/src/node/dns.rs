//! DNS capture: what a workload asks its resolvers comes to listeners of the agent in the workload's network namespace, one
//! per resolver. Names that ServiceEntries register are answered here (`answer`); everything else is forwarded as it is, to
//! the resolver that was asked (`forward`).
//!
//! `node::agent` configures it and has its listeners served, `node::presence` binds them; `node::connection` asks it which host an address stands for. What
//! names mean is decided in `synthetic`.

mod answer;
mod bound;
mod forward;
mod listener;
mod serve;

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;

pub(super) use self::{
    bound::Bound,
    listener::Listeners,
    serve::{room, serve},
};
use super::routes::Families;
use crate::{
    datapath::Numbered,
    mesh::Snapshot,
    reason::{Reason, Refusal},
    synthetic::{self, Allocation, Answer, Meaning},
};

/// What names mean, and whom workloads ask.
pub(super) struct Dns {
    table: RwLock<Arc<Table>>,
    /// Where the allocation is kept for an agent that starts again.
    state: PathBuf,
}

#[derive(Default)]
struct Table {
    snapshot: Arc<Snapshot>,
    allocation: Allocation,
    /// Those that are captured; none when DNS is not.
    resolvers: Option<Arc<Numbered>>,
}

/// What becomes of a query.
pub(super) enum Outcome {
    /// It is answered with this.
    Answered(Vec<u8>),
    /// It is answered with this, which says that something is wrong.
    Failed(Vec<u8>),
    /// It goes to the resolver as it is.
    Foreign,
}

impl Dns {
    /// With the allocation of an earlier agent, which is kept in the file `state`.
    pub(super) fn load(state: PathBuf) -> Self {
        let allocation = read(&state).unwrap_or_else(|e| {
            // Most hosts get the same address again, by their hash.
            tracing::error!("synthetic addresses are given anew, {} cannot be read: {e}", state.display());
            Allocation::default()
        });
        Self { table: RwLock::new(Arc::new(Table { allocation, ..Table::default() })), state }
    }

    /// Puts a configuration in force. Returns whether the listeners of workloads have to be made anew.
    pub(super) fn configure(&self, snapshot: &Arc<Snapshot>, resolvers: &[SocketAddr]) -> bool {
        let old = Arc::clone(&self.table.read());
        let resolvers = snapshot.settings.dns_capture.then(|| Arc::new(Numbered::new(resolvers)));
        let mut allocation = old.allocation.clone();
        if resolvers.is_some() {
            let left_out = allocation.update(&synthetic::hosts(snapshot), synthetic::listed(snapshot));
            for host in left_out {
                tracing::error!(%host, "no synthetic address is left: its name is answered with SERVFAIL");
            }
            if allocation != old.allocation
                && let Err(e) = write(&self.state, &allocation)
            {
                tracing::error!(
                    "synthetic addresses may change when the agent restarts: {}: {e}",
                    self.state.display()
                );
            }
        }
        let changed = resolvers != old.resolvers;
        *self.table.write() = Arc::new(Table { snapshot: Arc::clone(snapshot), allocation, resolvers });
        changed
    }

    /// The resolvers that are captured; none when DNS is not.
    pub(super) fn resolvers(&self) -> Option<Arc<Numbered>> {
        self.table.read().resolvers.clone()
    }

    /// The host that an address stands for, if it is a synthetic one.
    pub(super) fn dialled_host(&self, address: IpAddr) -> Result<Option<Arc<str>>, Refusal> {
        let table = Arc::clone(&self.table.read());
        if table.resolvers.is_none() {
            return Ok(None);
        }
        let why = match table.allocation.meaning(address) {
            Meaning::Address => return Ok(None),
            Meaning::Host(host) => return Ok(Some(host)),
            Meaning::Departed(host) => {
                format!(
                    "{address} is the synthetic address of {host}, which no ServiceEntry registers any more: resolve the name again"
                )
            }
            Meaning::Nobody => {
                format!(
                    "{address} is a synthetic address of DNS capture that stands for no host: resolve the name again"
                )
            }
        };
        Err(Refusal::new(Reason::StaleAddress, why))
    }

    /// Decides about a query of a workload in `namespace`; `datagram`: the answer must fit into one.
    pub(super) fn resolve(
        &self,
        namespace: &str,
        families: Families,
        query: &[u8],
        datagram: bool,
    ) -> Outcome {
        let Some((query, host)) = answer::read(query) else { return Outcome::Foreign };
        let table = Arc::clone(&self.table.read());
        let addresses = match synthetic::answer(&table.snapshot, &host, namespace) {
            None => return Outcome::Foreign,
            Some(Answer::Listed(addresses)) => Some(addresses),
            // Of families that the workload has not, `connect()` would fail.
            Some(Answer::Synthetic) => table.allocation.addresses(&host).map(|(v4, v6)| {
                let v4 = families.v4.then_some(IpAddr::V4(v4));
                v4.into_iter().chain(families.v6.then_some(IpAddr::V6(v6))).collect()
            }),
        };
        match addresses.and_then(|addresses| answer::addresses(&query, &addresses, datagram)) {
            Some(answer) => Outcome::Answered(answer),
            None => answer::failure(&query).map_or(Outcome::Foreign, Outcome::Failed),
        }
    }
}

fn read(state: &Path) -> io::Result<Allocation> {
    match fs::read(state) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Allocation::default()),
        Err(e) => Err(e),
    }
}

fn write(state: &Path, allocation: &Allocation) -> io::Result<()> {
    let fresh = state.with_extension("new");
    fs::write(&fresh, serde_json::to_vec(allocation)?)?;
    fs::rename(fresh, state)
}

#[cfg(test)]
mod tests;

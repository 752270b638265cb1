//! For which resolvers the DNS listeners of one workload are bound, at the same ports in every network namespace that it is in.
//! Called by `node::presence`, which knows the namespaces.

use std::{io, sync::Arc};

use super::Listeners;
use crate::{
    datapath::{DnsListeners, Numbered},
    node::netns::Namespace,
};

/// How often other ports are tried, because those of one namespace are taken in another.
const ATTEMPTS: u32 = 8;

/// What becomes of what a workload sends to its resolvers.
#[derive(Debug, Default)]
pub(in crate::node) enum Bound {
    /// It goes there: DNS is not captured.
    #[default]
    No,
    /// It goes to listeners for these, with these first ports. 0 is none yet, or none.
    For(Arc<Numbered>, DnsListeners),
    /// It is refused: the listeners could not be bound.
    Failed,
}

impl Bound {
    /// For the policy.
    pub(in crate::node) fn ports(&self) -> Option<DnsListeners> {
        match self {
            Self::No => None,
            Self::For(_, ports) => Some(*ports),
            Self::Failed => Some(DnsListeners::default()),
        }
    }

    /// Binds the listeners in a further namespace, or in the agent's.
    pub(in crate::node) fn enter(&mut self, namespace: Option<&Namespace>) -> io::Result<Option<Listeners>> {
        let Self::For(resolvers, ports) = self else { return Ok(None) };
        let listeners = Listeners::bind(namespace, resolvers, *ports)?;
        *ports = listeners.ports;
        Ok(Some(listeners))
    }

    /// Binds them anew in all `namespaces`, if they are not for the resolvers that are `wanted`. None: they are. Nothing: there
    /// are to be none. After a failure it is tried again with the next call.
    pub(in crate::node) fn renew(
        &mut self,
        wanted: Option<Arc<Numbered>>,
        namespaces: &[Option<&Namespace>],
    ) -> io::Result<Option<Vec<Listeners>>> {
        match (&*self, &wanted) {
            (Self::No, None) => return Ok(None),
            (Self::For(resolvers, _), Some(wanted)) if resolvers == wanted => return Ok(None),
            _ => {}
        }
        let Some(resolvers) = wanted else {
            *self = Self::No;
            return Ok(Some(Vec::new()));
        };
        *self = Self::Failed;
        let mut attempts = 1;
        let (listeners, ports) = loop {
            match everywhere(namespaces, &resolvers) {
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && attempts < ATTEMPTS => attempts += 1,
                outcome => break outcome?,
            }
        };
        *self = Self::For(resolvers, ports);
        Ok(Some(listeners))
    }
}

/// The listeners in each namespace, in their order, and their ports.
fn everywhere(
    namespaces: &[Option<&Namespace>],
    resolvers: &Numbered,
) -> io::Result<(Vec<Listeners>, DnsListeners)> {
    let mut ports = DnsListeners::default();
    let listeners = namespaces.iter().map(|namespace| {
        let listeners = Listeners::bind(*namespace, resolvers, ports)?;
        ports = listeners.ports;
        Ok(listeners)
    });
    let listeners = listeners.collect::<io::Result<_>>()?;
    Ok((listeners, ports))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listeners_are_made_anew_when_others_are_wanted_and_only_then() {
        let resolvers = |text: &str| Some(Arc::new(Numbered::new(&[text.parse().unwrap()])));
        let (one, other) = (resolvers("192.0.2.53:53"), resolvers("192.0.2.54:53"));
        let mut bound = Bound::default();
        assert!(bound.renew(None, &[None]).unwrap().is_none() && bound.ports().is_none());
        let first = bound.renew(one.clone(), &[None]).unwrap().unwrap();
        assert_eq!((first.len(), Some(first[0].ports)), (1, bound.ports()));
        assert!(bound.renew(one.clone(), &[None]).unwrap().is_none());
        // The first ones are there until the policy names the second ones.
        let second = bound.renew(other, &[None]).unwrap().unwrap();
        assert_ne!(second[0].ports, first[0].ports);
        // Two namespaces that are one: the same ports are never free in both.
        assert!(bound.renew(one, &[None, None]).is_err());
        assert_eq!(bound.ports(), Some(DnsListeners::default()), "refused");
        assert!(bound.enter(None).unwrap().is_none());
        assert!(bound.renew(None, &[None]).unwrap().unwrap().is_empty() && bound.ports().is_none());
    }
}

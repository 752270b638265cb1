//! A new configuration for workloads that are enrolled already: their listeners are made anew, or taken away, while they run.
//! Called by `app::agent`; a workload that starts gets its listeners from `node::agent`.

use std::{io, net::SocketAddr, sync::Arc};

use super::serve;
use crate::{
    datapath::DnsListeners,
    mesh::Snapshot,
    node::agent::{Agent, Enrolled},
};

impl Agent {
    /// Puts what a configuration says about DNS in force. `resolvers` are those that workloads may ask.
    pub fn configure(self: &Arc<Self>, snapshot: &Arc<Snapshot>, resolvers: &[SocketAddr]) {
        let _configuring = self.configuring.lock();
        if !self.dns.configure(snapshot, resolvers) {
            return;
        }
        let workloads: Vec<_> = self.workloads.lock().enrolled.values().cloned().collect();
        for enrolled in workloads {
            if let Err(e) = self.renew_dns(&enrolled) {
                tracing::error!(workload = %enrolled.workload.identity, "its DNS queries are refused: {e}");
            }
        }
    }

    /// Makes the DNS listeners of a workload anew, or takes them away. Where that fails its queries are refused.
    fn renew_dns(self: &Arc<Self>, enrolled: &Arc<Enrolled>) -> io::Result<()> {
        let listeners = self.dns.listen(enrolled.workload.namespace.as_deref());
        let mut policy = enrolled.policy.lock();
        policy.dns = match &listeners {
            Ok(listeners) => listeners.as_ref().map(|listeners| listeners.ports),
            Err(_) => Some(DnsListeners::default()),
        };
        let cgroup = &enrolled.workload.cgroup;
        self.capture.set_policy(cgroup, &policy).map_err(io::Error::other)?;
        drop(policy);
        let stop = enrolled.stop.child_token();
        if let Some(listeners) = listeners? {
            serve(self, enrolled, enrolled.families, listeners, &stop)?;
        }
        std::mem::replace(&mut *enrolled.dns.lock(), stop).cancel();
        Ok(())
    }
}

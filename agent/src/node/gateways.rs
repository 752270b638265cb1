//! Which gateways the agent's workloads tunnel to: kept current as they come and go, in the kernel and for the pools.
//!
//! `app` starts it with what it finds: EndpointSlices on a cluster, one address on a machine. The order of steps matters: the lock on a
//! workload's link lets frames out only to gateways that the kernel's map has, so an address is in it before it is dialled, and
//! stays as long as a connection goes there.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::watch, time};

use super::agent::Agent;
use crate::{
    datapath,
    hbone::client::GatewayState,
    net::endpoints::{Condition, Endpoints},
};

/// Until what the kernel did not take is tried again.
const RETRY: Duration = Duration::from_secs(1);

impl Agent {
    /// The gateways, for people.
    pub fn gateways(&self) -> Vec<GatewayState> {
        self.gateways.states()
    }

    /// Takes over where the gateways are now. Those that went stay in the kernel's map until [`Agent::forget_gateways`].
    pub fn set_gateways(&self, now: &Endpoints) -> Result<(), datapath::Error> {
        let mut known: BTreeSet<_> = self.capture.gateways()?.into_iter().collect();
        known.extend(now.keys().copied());
        self.write_gateways(known)?;
        self.gateways.set(now.clone());
        Ok(())
    }

    /// Takes gateways out of the kernel's map that are neither listed nor connected.
    pub fn forget_gateways(&self) -> Result<(), datapath::Error> {
        self.write_gateways(self.gateways.in_use())
    }

    fn write_gateways(&self, gateways: BTreeSet<SocketAddr>) -> Result<(), datapath::Error> {
        self.capture.set_gateways(&gateways.into_iter().collect::<Vec<_>>())
    }

    /// Follows what is found, as long as somebody looks.
    pub async fn follow_gateways(self: Arc<Self>, mut found: watch::Receiver<Option<Endpoints>>) {
        while found.changed().await.is_ok() {
            let now = found.borrow_and_update().clone();
            let Some(now) = now else { continue };
            tell(&now);
            while let Err(e) = self.take_gateways(&now).await {
                tracing::error!("gateways stay as they were: {e}");
                time::sleep(RETRY).await;
                if found.has_changed().unwrap_or(true) {
                    break;
                }
            }
        }
    }

    async fn take_gateways(&self, now: &Endpoints) -> Result<(), datapath::Error> {
        if let Some(_acting) = self.acting().await {
            return self.set_gateways(now);
        }
        // Whoever has taken over writes the map; our last connections still have to find a gateway.
        self.gateways.set(now.clone());
        Ok(())
    }
}

/// Logs it.
fn tell(gateways: &Endpoints) {
    let ready = gateways.values().filter(|condition| **condition == Condition::Ready).count();
    if ready == 0 {
        tracing::warn!(
            draining = gateways.len(),
            "no egress gateway is ready: connections of workloads are refused until one is"
        );
    } else {
        tracing::info!(ready, draining = gateways.len() - ready, "egress gateways changed");
    }
}

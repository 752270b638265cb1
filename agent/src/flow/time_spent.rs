//! Where the time of a flow went: the engine that divides it among the legs. Pure; `join` asks it.
//!
//! The agent's time is a row of stretches: set-up, waiting for the workload, waiting for the tunnel. What the agent waits for at the
//! tunnel, the gateway waits for at the server; what the agent waited longer is the way there and back. So the legs add up, and none of
//! it needs the clocks of agent and gateway to agree.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::FlowRecord;

/// A leg of a flow, as one that time is spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leg {
    /// The workload: it sent nothing, or took nothing.
    Workload,
    /// The tunnel between agent and gateway: set-up, round trips, bandwidth.
    Tunnel,
    /// The external server, and the way to it: name, connection, handshake, answer.
    Server,
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Workload => "workload",
            Self::Tunnel => "tunnel",
            Self::Server => "server",
        })
    }
}

/// How the time of a flow is divided, in microseconds. The parts add up to the total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimeSpent {
    /// From its beginning to its end, or to now.
    pub total_us: u64,
    /// Waiting for the workload.
    pub workload_us: u64,
    /// The tunnel.
    pub tunnel_us: u64,
    /// Waiting for the server.
    pub server_us: u64,
    /// Not to be told apart, since one side's record is missing: tunnel or server without the gateway's, workload or tunnel without the
    /// agent's.
    pub undivided_us: u64,
    /// Egret's own work, and what it waited for itself: certificates, the first bytes of a connection that is silent.
    pub egret_us: u64,
}

impl TimeSpent {
    /// Of a flow, by the records that there are.
    pub fn of(agent: Option<&FlowRecord>, gateway: Option<&FlowRecord>) -> Self {
        let Some(agent) = agent else { return gateway.map(Self::at_gateway).unwrap_or_default() };
        let total_us = agent.elapsed_us;
        let mut left = total_us;
        // Later parts get what is left: rounding, and records that were read a moment apart, must not make more of it than there was.
        let mut take = |wanted: u64| {
            let taken = wanted.min(left);
            left -= taken;
            taken
        };
        let workload_us = take(agent.waits.near_us());
        let tunnel = agent.legs.tunnel.as_deref();
        let setup = take(tunnel.and_then(|tunnel| tunnel.setup_us).unwrap_or(0));
        let beyond = take(agent.waits.far_us());
        let (server_us, tunnel_us, undivided_us) = match gateway {
            Some(gateway) => {
                let server = gateway.waits.far_us().min(beyond);
                let undetected = gateway.undetected_us.unwrap_or(0).min(beyond - server);
                (server, beyond - server - undetected + setup, 0)
            }
            None => (0, setup, beyond),
        };
        let egret_us = total_us - workload_us - tunnel_us - server_us - undivided_us;
        Self { total_us, workload_us, tunnel_us, server_us, undivided_us, egret_us }
    }

    fn at_gateway(gateway: &FlowRecord) -> Self {
        let total_us = gateway.elapsed_us;
        let server_us = gateway.waits.far_us().min(total_us);
        let undivided_us = gateway.waits.near_us().min(total_us - server_us);
        let egret_us = total_us - server_us - undivided_us;
        Self { total_us, server_us, undivided_us, egret_us, ..Self::default() }
    }

    /// The leg with most of it, where one has more than the rest of the flow together.
    pub fn slowest(&self) -> Option<Leg> {
        [(Leg::Workload, self.workload_us), (Leg::Tunnel, self.tunnel_us), (Leg::Server, self.server_us)]
            .into_iter()
            .find(|(_, time)| time.saturating_mul(2) > self.total_us)
            .map(|(leg, _)| leg)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::{FlowId, FlowTable, Side, Waits, testing};

    fn record(side: Side, elapsed_us: u64, near: u64, far: u64) -> FlowRecord {
        let table = FlowTable::new(side, 1);
        let workload = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
        drop(table.open(FlowId::random(), workload, "203.0.113.7:80".parse().unwrap()));
        let mut record = table.records().remove(0);
        record.elapsed_us = elapsed_us;
        record.waits = Waits { silent_near_us: near, silent_far_us: far, ..Waits::default() };
        record
    }

    fn agent(elapsed_us: u64, setup_us: u64, near: u64, far: u64) -> FlowRecord {
        let mut record = record(Side::Agent, elapsed_us, near, far);
        record.legs.tunnel = Some(Box::new(testing::tunnel(Some(setup_us))));
        record
    }

    fn of(agent: (u64, u64, u64, u64), gateway: (u64, u64, u64)) -> TimeSpent {
        let (elapsed, setup, near, far) = agent;
        let agent = self::agent(elapsed, setup, near, far);
        TimeSpent::of(Some(&agent), Some(&record(Side::Gateway, gateway.0, gateway.1, gateway.2)))
    }

    #[test]
    fn each_slow_leg_is_found() {
        // A server that thinks for a second, over a tunnel of 2 ms.
        let slow_server = of((1_006_000, 3000, 1000, 1_002_000), (1_003_000, 2000, 1_000_000));
        assert_eq!((slow_server.slowest(), slow_server.server_us), (Some(Leg::Server), 1_000_000));
        assert_eq!(slow_server.tunnel_us, 5000, "set-up and the way there and back");
        // A tunnel of a second, to the gateway idle time of the workload.
        let slow_tunnel = of((1_012_000, 1000, 1000, 1_010_000), (1_010_000, 1_000_000, 10_000));
        assert_eq!((slow_tunnel.slowest(), slow_tunnel.tunnel_us), (Some(Leg::Tunnel), 1_001_000));
        // A workload that reads slowly.
        let slow_client = of((1_012_000, 1000, 1_000_000, 11_000), (1_010_000, 1_000_000, 10_000));
        assert_eq!((slow_client.slowest(), slow_client.workload_us), (Some(Leg::Workload), 1_000_000));
        let none = of((1000, 300, 300, 300), (300, 0, 200));
        assert_eq!(none.slowest(), None);
    }

    #[test]
    fn without_one_record_the_rest_is_not_guessed() {
        let near = agent(100, 10, 20, 60);
        let alone = TimeSpent::of(Some(&near), None);
        assert_eq!((alone.undivided_us, alone.server_us, alone.tunnel_us, alone.egret_us), (60, 0, 10, 10));
        let alone = TimeSpent::of(None, Some(&record(Side::Gateway, 100, 70, 20)));
        assert_eq!((alone.undivided_us, alone.server_us, alone.workload_us), (70, 20, 0));
    }

    #[test]
    fn the_wait_for_first_bytes_is_no_legs() {
        let near = agent(5_010_000, 1000, 0, 5_008_000);
        let mut far = record(Side::Gateway, 5_008_000, 0, 7000);
        far.undetected_us = Some(5_000_000);
        let spent = TimeSpent::of(Some(&near), Some(&far));
        assert_eq!((spent.tunnel_us, spent.egret_us), (2000, 5_001_000));
    }

    proptest! {
        #[test]
        fn the_parts_add_up(
            near in prop::array::uniform4(0_u64..1_000_000),
            far in prop::array::uniform3(0_u64..1_000_000),
            which in 0..3,
        ) {
            let agent = agent(near[0], near[1], near[2], near[3]);
            let gateway = record(Side::Gateway, far[0], far[1], far[2]);
            let spent = match which {
                0 => TimeSpent::of(Some(&agent), Some(&gateway)),
                1 => TimeSpent::of(Some(&agent), None),
                _ => TimeSpent::of(None, Some(&gateway)),
            };
            let TimeSpent { total_us, workload_us, tunnel_us, server_us, undivided_us, egret_us } = spent;
            prop_assert_eq!(workload_us + tunnel_us + server_us + undivided_us + egret_us, total_us);
        }
    }
}

//! Made-up flows: as many as are wanted, of many workloads to many hosts, with all that both sides may know of them.

use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use egret::{
    flow::{
        CertificateName, DecidedBy, FlowId, FlowTable, Part, Side, TlsSession, TunnelConnection, TunnelLeg,
        UpstreamConnection, UpstreamLeg, WorkloadLeg,
    },
    mesh::{Kind, ObjectRef, SpiffeId},
    reason::{Reason, Refusal},
};

/// Between two flows that begin while questions are asked.
const PACE: Duration = Duration::from_millis(2);

/// Both tables of a machine.
pub(crate) struct Made {
    pub(crate) agent: FlowTable,
    pub(crate) gateway: FlowTable,
    /// One in the middle.
    pub(crate) rare: FlowId,
}

impl Made {
    /// Tables that are full with `count` flows.
    pub(crate) fn fill(count: usize) -> Self {
        let (agent, gateway) = (FlowTable::new(Side::Agent, count), FlowTable::new(Side::Gateway, count));
        let mut rare = FlowId::random();
        for number in 0..count {
            let id = FlowId::random();
            if number == count / 2 {
                rare = id;
            }
            flow(&agent, id, number, true);
            // Every fiftieth got no tunnel.
            if number % 50 != 1 {
                flow(&gateway, id, number, false);
            }
        }
        Self { agent, gateway, rare }
    }
}

/// A flow that begins and ends.
fn flow(table: &FlowTable, id: FlowId, number: usize, near: bool) {
    let destination = SocketAddr::from(([203, 0, 113, (number % 250) as u8], 443));
    let flow = table.open(id, workload(number), destination);
    flow.add_sent(100 + (number as u64 * 7919) % 1_000_000 / 10);
    flow.add_received(1);
    let tunnelled = number % 50 != 1;
    flow.update(|record| {
        if near {
            record.pod = Some(format!("sleep-{}", number % 50).into());
            record.legs.workload =
                Some(Box::new(WorkloadLeg { tcp: Some(Box::default()), ..WorkloadLeg::default() }));
        }
        record.legs.tunnel = tunnelled.then(|| Box::new(tunnel(near)));
        if !near {
            let host = format!("host-{}.example.com", number % 100);
            record.protocol = Some("http".into());
            record.requests = 1;
            record.upstream_cluster = Some(format!("outbound|443||{host}").into());
            record.upstream_host = Some(destination);
            record.legs.upstream = Some(Box::new(upstream(destination, &host)));
            record.host = Some(host.into());
            record.decided_by = Some(Arc::new(DecidedBy {
                policy: Some(Part::of(ObjectRef::new(Kind::AuthorizationPolicy, "shop", "egress"), "0")),
                service_entry: Some(Part::whole(ObjectRef::new(Kind::ServiceEntry, "shop", "partners"))),
                ..DecidedBy::default()
            }));
        }
    });
    if !tunnelled {
        flow.fail(&Refusal::new(Reason::GatewayUnreachable, "127.0.0.1:15008: connection refused"));
    } else if number % 50 == 2 && !near {
        flow.fail(&Refusal::new(Reason::PolicyDenied, "denied by rule 0 of AuthorizationPolicy shop/egress"));
    }
}

fn workload(number: usize) -> SpiffeId {
    let id = format!("spiffe://cluster.local/ns/ns-{}/sa/sleep", number % 10);
    id.parse().expect("it is written as identities are")
}

fn session() -> TlsSession {
    TlsSession { tls_version: "TLSv1.3".into(), tls_cipher: "TLS13_AES_128_GCM_SHA256".into() }
}

fn tunnel(near: bool) -> TunnelLeg {
    let connection = TunnelConnection {
        gateway: ([127, 0, 0, 1], 15008).into(),
        established_us: near.then_some(4000),
        tls: Some(session()),
        certificate: Some(CertificateName {
            serial: "601b8eff902f7e97bdbca402deae2c7c".into(),
            not_after: jiff::Timestamp::UNIX_EPOCH,
        }),
    };
    TunnelLeg {
        connection: Arc::new(connection),
        reused: near.then_some(true),
        certificate_us: near.then_some(3),
        setup_us: near.then_some(700),
        tcp: Some(Box::default()),
    }
}

fn upstream(endpoint: SocketAddr, host: &str) -> UpstreamLeg {
    let connection = UpstreamConnection {
        endpoint,
        local: Some(endpoint),
        connect_us: 900,
        tls_us: Some(4000),
        tls: Some(session()),
        sni: Some(host.into()),
        peer: Some(format!("CN={host}").into()),
        certificate: None,
    };
    UpstreamLeg {
        connection: Arc::new(connection),
        reused: false,
        dns_us: Some(100),
        first_byte_us: Some(30_000),
        tcp: Some(Box::default()),
    }
}

/// Flows begin and end until it is over; the longest that one took.
pub(crate) fn begin_and_end(table: &FlowTable, over: impl Fn() -> bool) -> Duration {
    let mut longest = Duration::ZERO;
    let mut number = 0;
    while !over() {
        let workload = workload(number);
        let began = Instant::now();
        drop(table.open(FlowId::random(), workload, ([203, 0, 113, 7], 443).into()));
        longest = longest.max(began.elapsed());
        number += 1;
        thread::park_timeout(PACE);
    }
    longest
}

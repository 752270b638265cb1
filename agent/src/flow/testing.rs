//! Made-up flows.

use std::{net::SocketAddr, sync::Arc};

use super::{
    CertificateName, FlowHandle, FlowId, FlowTable, TlsSession, TunnelConnection, TunnelLeg,
    UpstreamConnection, UpstreamLeg, WorkloadLeg,
};

/// A tunnel that took so many microseconds to open.
pub(crate) fn tunnel(setup_us: Option<u64>) -> TunnelLeg {
    let connection = TunnelConnection {
        gateway: ([127, 0, 0, 1], 15008).into(),
        established_us: Some(4000),
        tls: Some(session()),
        certificate: Some(CertificateName {
            serial: "601b8eff902f7e97bdbca402deae2c7c".into(),
            not_after: jiff::Timestamp::UNIX_EPOCH,
        }),
    };
    TunnelLeg {
        connection: Arc::new(connection),
        reused: Some(true),
        certificate_us: Some(3),
        setup_us,
        tcp: Some(Box::default()),
    }
}

fn session() -> TlsSession {
    TlsSession { tls_version: "TLSv1.3".into(), tls_cipher: "TLS13_AES_128_GCM_SHA256".into() }
}

fn upstream(endpoint: SocketAddr) -> UpstreamLeg {
    let connection = UpstreamConnection {
        endpoint,
        local: Some(endpoint),
        connect_us: 900,
        tls_us: Some(4000),
        tls: Some(session()),
        sni: Some("api.example.com".into()),
        peer: Some("CN=api.example.com".into()),
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

/// A flow to a host with all that a side may know of it, on connections of its own.
pub(crate) fn full(table: &FlowTable, id: FlowId, host: Option<&str>) -> FlowHandle {
    let workload = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
    let destination = "203.0.113.7:443".parse().unwrap();
    let flow = table.open(id, workload, destination);
    flow.update(|record| {
        record.pod = Some("sleep-7c9d8f6b5-x2x4z".into());
        record.host = host.map(Into::into);
        record.protocol = Some("http".into());
        record.upstream_cluster = Some("outbound|443||api.example.com".into());
        record.legs.workload =
            Some(Box::new(WorkloadLeg { tcp: Some(Box::default()), ..WorkloadLeg::default() }));
        record.legs.tunnel = Some(Box::new(tunnel(Some(700))));
        record.legs.upstream = Some(Box::new(upstream(destination)));
    });
    flow.add_sent(100);
    flow
}

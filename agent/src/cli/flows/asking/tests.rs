//! Agent and gateway on real admin sockets.

use std::time::Instant;

use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    admin::{self, flow_routes},
    cli::flows::table,
    flow::{FlowTable, Side, testing},
    mesh::HostPattern,
};

/// Both roles of a machine, with tables to fill.
struct Machine {
    directory: TempDir,
    agent: FlowTable,
    gateway: FlowTable,
}

impl Machine {
    fn start(capacity: usize) -> Self {
        let directory = TempDir::new().unwrap();
        let machine = Self {
            directory,
            agent: FlowTable::new(Side::Agent, capacity),
            gateway: FlowTable::new(Side::Gateway, capacity),
        };
        let run_dir = machine.run_dir();
        for (socket, flows) in
            [(run_dir.agent_socket(), &machine.agent), (run_dir.socket("gateway"), &machine.gateway)]
        {
            let listener = UnixListener::bind(socket).unwrap();
            tokio::spawn(admin::serve(listener, flow_routes(flows.clone()), CancellationToken::new()));
        }
        machine
    }

    fn run_dir(&self) -> RunDir {
        RunDir::new(self.directory.path())
    }

    /// A flow that has ended, as both sides saw it.
    fn flow(&self, host: &str) -> FlowId {
        let id = FlowId::random();
        drop(testing::full(&self.agent, id, None));
        drop(testing::full(&self.gateway, id, Some(host)));
        id
    }

    async fn ask(&self, query: &FlowQuery) -> Vec<PlacedFlow> {
        Roles::Machine(self.run_dir()).flows(query).await.unwrap()
    }
}

fn host(host: &str) -> HostPattern {
    HostPattern::parse(host).unwrap()
}

#[tokio::test]
async fn what_one_side_finds_the_other_one_completes() {
    let machine = Machine::start(3000);
    let rare = machine.flow("rare.test");
    for _ in 0..600 {
        machine.flow("often.test");
    }
    // Among newer ones of the agent that the gateway never heard of, and that the limit would leave.
    let lost = FlowId::random();
    drop(testing::full(&machine.agent, lost, None));
    let pod = Some("sleep-7c9d8f6b5-x2x4z".to_owned());
    for (query, wanted) in [
        (FlowQuery { host: Some(host("rare.test")), limit: Some(2), ..FlowQuery::default() }, vec![rare]),
        (
            FlowQuery {
                host: Some(host("*.test")),
                pod: pod.clone(),
                limit: Some(2),
                ..FlowQuery::of(&[rare])
            },
            vec![rare],
        ),
        (
            FlowQuery { host: Some(host("rare.test")), pod, limit: Some(2), ..FlowQuery::default() },
            vec![rare],
        ),
        (FlowQuery { ids: vec![rare.into()], ..FlowQuery::default() }, vec![rare]),
        (FlowQuery { host: Some(host("none.test")), ..FlowQuery::default() }, vec![]),
    ] {
        let flows = machine.ask(&query).await;
        let ids: Vec<_> = flows.iter().map(|flow| flow.joined.flow.id).collect();
        assert_eq!(ids, wanted, "{query:?}");
        let whole = |flow: &PlacedFlow| flow.joined.agent.is_some() && flow.joined.gateway.is_some();
        assert!(flows.iter().all(whole), "{query:?}");
    }
    let often = machine.ask(&FlowQuery { host: Some(host("often.test")), ..FlowQuery::default() }).await;
    assert_eq!(often.len(), 600);
    assert!(often.iter().all(|flow| flow.joined.agent.is_some()), "in more than one question");
    let newest = machine.ask(&FlowQuery { limit: Some(1), ..FlowQuery::default() }).await;
    let newest = newest.last().unwrap();
    assert_eq!((newest.joined.flow.id, newest.joined.gateway.is_none()), (lost, true));
}

/// `cargo test --release -p egret --lib -- --ignored --nocapture a_hundred_thousand_flows`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints numbers"]
async fn a_hundred_thousand_flows() {
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let machine = Machine::start(100_000);
    let before = resident();
    for n in 0..100_000 {
        machine.flow(&format!("host-{}.example.com", n % 100));
    }
    eprintln!("{} bytes a record", (resident() - before) / 200_000);
    for (what, query) in [
        ("as `egret flows` asks", FlowQuery { limit: Some(1001), ..FlowQuery::default() }),
        (
            "one host of a hundred",
            FlowQuery { host: Some(host("host-7.example.com")), ..FlowQuery::default() },
        ),
        ("the largest ten", FlowQuery { sort: flow::Sort::Bytes, limit: Some(10), ..FlowQuery::default() }),
        ("one flow", FlowQuery { ids: vec!["ffff".parse().unwrap()], ..FlowQuery::default() }),
        ("everything", FlowQuery::default()),
    ] {
        let started = Instant::now();
        let flows = machine.ask(&query).await;
        let rows = table::of(&flows, false, false).lines().count();
        eprintln!("{what}: {:?}, {rows} lines", started.elapsed());
    }
}

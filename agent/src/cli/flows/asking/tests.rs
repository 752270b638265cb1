//! Agent and gateway on real admin sockets.

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

/// More than one page of a table, one piece of an answer and one question by ids.
#[tokio::test(flavor = "multi_thread")]
async fn large_tables_are_answered_for_in_full() {
    const FLOWS: usize = ONE_BY_ONE + 2000;
    let machine = Machine::start(FLOWS);
    for n in 0..FLOWS {
        machine.flow(&format!("host-{}.example.com", n % 10));
    }
    let all_hosts = FlowQuery { host: Some(host("*.example.com")), ..FlowQuery::default() };
    for (query, wanted) in [
        (FlowQuery::default(), FLOWS),
        (all_hosts.clone(), FLOWS),
        (FlowQuery { namespace: Some("default".to_owned()), ..all_hosts }, FLOWS),
        (FlowQuery { host: Some(host("host-7.example.com")), ..FlowQuery::default() }, FLOWS / 10),
        (FlowQuery { namespace: Some("other".to_owned()), ..FlowQuery::default() }, 0),
    ] {
        let flows = machine.ask(&query).await;
        let ids: HashSet<_> = flows.iter().map(|flow| flow.joined.flow.id).collect();
        let whole = |flow: &PlacedFlow| flow.joined.agent.is_some() && flow.joined.gateway.is_some();
        assert_eq!((flows.len(), ids.len()), (wanted, wanted), "{query:?}");
        assert!(flows.iter().all(whole), "{query:?}");
        let rows = table::of(&flows, false, false).lines().count();
        assert_eq!(rows, wanted + 1, "a line each below the header, or a line that says that there are none");
    }
    let few = machine.ask(&FlowQuery { limit: Some(300), ..FlowQuery::default() }).await;
    assert!((300..600).contains(&few.len()), "{}: what either side counts among the newest", few.len());
}

#[tokio::test]
async fn that_no_records_are_kept_is_said() {
    let machine = Machine::start(0);
    machine.flow("a.test");
    let refused = Roles::Machine(machine.run_dir()).flows(&FlowQuery::default()).await.unwrap_err();
    assert!(refused.to_string().starts_with("flow accounting is off here (--flow-capacity 0"), "{refused}");
}

//! `egret flows --follow`: flows as they begin and as they end.

use std::{
    collections::{HashMap, HashSet},
    io::Write as _,
    process::ExitCode,
    time::Duration,
};

use jiff::Timestamp;

use super::{OVERLAP, asking::Roles, table};
use crate::{
    cli::{
        args::{Flows, Format},
        output,
    },
    flow::{FlowId, FlowQuery},
    survey::flows::PlacedFlow,
};

/// Between two questions. On a cluster each is a command in every pod of Egret's.
const MACHINE_PACE: Duration = Duration::from_millis(500);
const CLUSTER_PACE: Duration = Duration::from_secs(2);

/// Asks again and again, until interrupted or until nobody reads.
pub(super) async fn run(roles: &Roles, arguments: &Flows) -> anyhow::Result<ExitCode> {
    let pace = if roles.is_cluster() { CLUSTER_PACE } else { MACHINE_PACE };
    let begin = Timestamp::now();
    let asked = arguments.selection.query(begin);
    let first = asked.since.unwrap_or(begin);
    let mut printer = Printer::new(arguments, roles.is_cluster());
    let (mut known, mut missing, mut from) = (Known::default(), Missing::default(), first);
    loop {
        let now = Timestamp::now();
        let query =
            FlowQuery { changed_since: Some(from.max(first)), since: None, limit: None, ..asked.clone() };
        let told = roles.ask_all(&query).await?;
        missing.news(&told.missing).for_each(output::error);
        for flow in known.news(told.flows) {
            printer.print(&flow)?;
        }
        from = now.checked_sub(OVERLAP).unwrap_or(now);
        tokio::time::sleep(pace).await;
    }
}

/// Who did not answer last time, by the sentences.
#[derive(Default)]
struct Missing(HashSet<String>);

impl Missing {
    /// What was not so last time: who stays away is told of once, and again when he has been back meanwhile.
    fn news<'a>(&mut self, errors: &'a [anyhow::Error]) -> impl Iterator<Item = &'a anyhow::Error> {
        let sentence = |error: &anyhow::Error| format!("{error:#}");
        let before = std::mem::replace(&mut self.0, errors.iter().map(sentence).collect());
        errors.iter().filter(move |error| !before.contains(&sentence(error)))
    }
}

/// What was told already: flows with whether they had ended.
#[derive(Default)]
struct Known(HashMap<FlowId, bool>);

impl Known {
    /// Those of an answer that began or ended since the one before. What an answer does not have is forgotten: it is too old to come again
    /// otherwise than by its end.
    fn news(&mut self, flows: Vec<PlacedFlow>) -> Vec<PlacedFlow> {
        let state = |flow: &PlacedFlow| (flow.joined.flow.id, flow.joined.flow.duration_ms.is_some());
        let now = flows.iter().map(state).collect();
        let before = std::mem::replace(&mut self.0, now);
        let is_new = |flow: &PlacedFlow| {
            let (id, ended) = state(flow);
            before.get(&id) != Some(&ended)
        };
        flows.into_iter().filter(is_new).collect()
    }
}

struct Printer {
    format: Format,
    wide: bool,
    places: bool,
    begun: bool,
}

impl Printer {
    fn new(arguments: &Flows, places: bool) -> Self {
        Self { format: arguments.query.output.format, wide: arguments.wide, places, begun: false }
    }

    fn print(&mut self, flow: &PlacedFlow) -> anyhow::Result<()> {
        match self.format {
            Format::Json => {
                let mut line = serde_json::to_vec(flow)?;
                line.push(b'\n');
                std::io::stdout().lock().write_all(&line)?;
            }
            Format::Table => {
                if !std::mem::replace(&mut self.begun, true) {
                    output::text(table::row(&table::header(self.wide, self.places)))?;
                }
                output::text(table::row(&table::cells(flow, self.wide, self.places)))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{FlowTable, Side, join};

    #[test]
    fn who_does_not_answer_is_told_of_once() {
        let mut missing = Missing::default();
        let away =
            |names: &[&str]| names.iter().map(|name| anyhow::anyhow!("{name} is away")).collect::<Vec<_>>();
        let mut told = |names: &[&str]| missing.news(&away(names)).count();
        assert_eq!([told(&["a"]), told(&["a"]), told(&["a", "b"]), told(&[]), told(&["a"])], [1, 0, 1, 0, 1]);
    }

    #[test]
    fn a_flow_is_told_when_it_begins_and_when_it_ends() {
        let table = FlowTable::new(Side::Agent, 9);
        let answer = || join(table.records(), Vec::new()).into_iter().map(PlacedFlow::from).collect();
        let workload: crate::mesh::SpiffeId = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
        let destination = "203.0.113.7:80".parse().unwrap();
        let flow = table.open(FlowId::random(), workload.clone(), destination);
        let mut known = Known::default();
        assert_eq!(known.news(answer()).len(), 1);
        assert_eq!(known.news(answer()).len(), 0);
        drop(table.open(FlowId::random(), workload, destination));
        assert_eq!(known.news(answer()).len(), 1, "one that was over before anybody asked");
        drop(flow);
        assert_eq!(known.news(answer()).len(), 1);
        assert_eq!(known.news(answer()).len(), 0);
    }
}

//! The columns of `egret flows`.

use jiff::tz::TimeZone;

use crate::{
    cli::output,
    flow::{DecidedBy, FlowRecord},
    survey::flows::PlacedFlow,
};

/// Longer names lose their middle; what tells replicas apart is at their end.
const NAME: usize = 22;

/// How much of an id is shown: enough to tell any two of a table apart.
const ID: usize = 8;

const HEADER: [&str; 11] = [
    "ID",
    "STARTED",
    "WORKLOAD",
    "DESTINATION",
    "HOST",
    "VERDICT",
    "REASON",
    "UPSTREAM",
    "SENT",
    "RECEIVED",
    "DURATION",
];
const PLACES: [&str; 3] = ["POD", "NODE", "GATEWAY"];
const WIDE: [&str; 5] = ["SLOWEST", "FIRST-BYTE", "TUNNEL-RTT", "ENDPOINT", "DECIDED-BY"];

/// The narrowest a column may be that is printed before the widths of later rows are known.
const WIDTHS: [usize; 11] = [ID, 12, 20, 21, 24, 7, 15, 28, 9, 9, 8];

pub(super) fn of(flows: &[PlacedFlow], wide: bool, places: bool) -> String {
    if flows.is_empty() {
        let none = if places {
            "no such flows; label a namespace egret.dev/egress=enabled, and its pods make some"
        } else {
            "no such flows; `egret exec NAMESPACE/SERVICE-ACCOUNT -- COMMAND` makes some"
        };
        return none.to_owned();
    }
    let rows: Vec<_> = flows.iter().map(|flow| cells(flow, wide, places)).collect();
    output::columns(&header(wide, places), &rows)
}

pub(in crate::cli) fn header(wide: bool, places: bool) -> Vec<&'static str> {
    let places = PLACES.into_iter().filter(|_| places);
    HEADER.into_iter().chain(places).chain(WIDE.into_iter().filter(|_| wide)).collect()
}

/// A row of a table that has no end.
pub(super) fn row<T: AsRef<str>>(cells: &[T]) -> String {
    let widths = WIDTHS.into_iter().chain(std::iter::repeat(12));
    let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{:<width$}", cell.as_ref()));
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

pub(in crate::cli) fn cells(flow: &PlacedFlow, wide: bool, places: bool) -> Vec<String> {
    let PlacedFlow { joined, node, gateway_pod, .. } = flow;
    let mut cells = narrow(&joined.flow);
    if places {
        let names = [joined.flow.pod.as_deref(), node.as_deref(), gateway_pod.as_deref()];
        cells.extend(names.map(|name| name.map_or_else(dash, |name| output::short(name, NAME))));
    }
    if wide {
        let FlowRecord { legs, first_byte_us, upstream_host, decided_by, .. } = &joined.flow;
        let rtt = legs.tunnel.as_ref().and_then(|leg| leg.tcp.as_deref()).map(|tcp| tcp.rtt_us.into());
        cells.extend([
            joined.time.slowest().map_or_else(dash, |leg| leg.to_string()),
            first_byte_us.map_or_else(dash, output::microseconds),
            rtt.map_or_else(dash, output::microseconds),
            upstream_host.map_or_else(dash, |address| address.to_string()),
            decided_by.as_deref().and_then(DecidedBy::last_word).map_or_else(dash, ToString::to_string),
        ]);
    }
    cells
}

fn dash() -> String {
    "-".to_owned()
}

fn narrow(flow: &FlowRecord) -> Vec<String> {
    let or_dash = |text: Option<&str>| text.map_or_else(dash, str::to_owned);
    vec![
        flow.id.to_string()[..ID].to_owned(),
        flow.started.to_zoned(TimeZone::system()).strftime("%H:%M:%S%.3f").to_string(),
        format!("{}/{}", flow.workload.namespace(), flow.workload.service_account()),
        flow.original_destination.to_string(),
        or_dash(flow.host.as_deref()),
        flow.verdict.to_string(),
        flow.reason.to_string(),
        or_dash(flow.upstream_cluster.as_deref()),
        output::bytes(flow.sent),
        output::bytes(flow.received),
        flow.duration_ms.map_or_else(|| "open".to_owned(), output::milliseconds),
    ]
}

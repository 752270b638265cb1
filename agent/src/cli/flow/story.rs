//! How one flow is told: what became of it, where the time went, and each of its legs.

use std::fmt::Write as _;

use jiff::tz::TimeZone;

use crate::{
    cli::output::{self, bytes, microseconds},
    flow::{
        CertificateName, FlowRecord, Leg, TcpFigures, TimeSpent, TlsSession, TunnelLeg, UpstreamLeg, Verdict,
        Waits, WorkloadLeg,
    },
    survey::flows::PlacedFlow,
};

/// Cells of the longest bar.
const BAR: u64 = 30;

/// The column where values begin.
const INDENT: usize = 18;

/// All of it.
pub(in crate::cli) fn tell(flow: &PlacedFlow) -> String {
    let mut story = Story::default();
    what(&mut story, flow);
    match flow.joined.flow.verdict {
        Verdict::Bypassed => {
            story.heading("connection");
            bypassed(&mut story, &flow.joined.flow);
        }
        _ if flow.joined.flow.attempts.is_some() => {}
        _ => {
            story.heading("where the time went");
            time(&mut story, flow);
            story.heading("legs");
            legs(&mut story, flow);
        }
    }
    story.0.trim_end().to_owned()
}

#[derive(Default)]
struct Story(String);

impl Story {
    fn line(&mut self, label: &str, value: impl AsRef<str>) {
        self.0.push_str(&output::wrapped(&format!("{label:<INDENT$}"), value.as_ref()));
        self.0.push('\n');
    }

    fn heading(&mut self, text: &str) {
        // A String takes everything.
        let _ = write!(self.0, "\n{}\n", text.to_uppercase());
    }
}

fn what(story: &mut Story, placed: &PlacedFlow) {
    let PlacedFlow { joined, node, agent_pod, gateway_pod } = placed;
    let flow = &joined.flow;
    story.line("flow", flow.id.to_string());
    let state = match flow.duration_ms {
        Some(_) => format!("ended after {}", microseconds(flow.elapsed_us)),
        None => format!("open for {}", microseconds(flow.elapsed_us)),
    };
    let started = flow.started.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string();
    story.line("state", format!("{state}, since {started}"));
    story.line("verdict", format!("{}: {}", flow.verdict, flow.reason));
    if let Some(detail) = &flow.detail {
        story.line("", detail);
    }
    let pod = flow.pod.as_deref().map(|pod| format!(", pod {pod}")).unwrap_or_default();
    let node = node.as_deref().map(|node| format!(" on {node}")).unwrap_or_default();
    story.line("workload", format!("{}{pod}{node}", flow.workload.principal()));
    if let Some(process) = &flow.process {
        story.line("process", process.to_string());
    }
    story.line("dialled", flow.original_destination.to_string());
    if let Some(attempts) = flow.attempts {
        story.line("attempts", attempts.to_string());
        return;
    }
    let protocol = flow.protocol.as_deref().unwrap_or("unknown protocol");
    story.line("host", format!("{} ({protocol})", flow.host.as_deref().unwrap_or("-")));
    let endpoint = flow.upstream_host.map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
    story.line("upstream", format!("{}{endpoint}", flow.upstream_cluster.as_deref().unwrap_or("-")));
    if let Some(by) = flow.decided_by.as_deref() {
        for (label, part) in [
            ("authorization", &by.policy),
            ("mesh route", &by.mesh_route),
            ("gateway", &by.gateway),
            ("gateway route", &by.gateway_route),
            ("service entry", &by.service_entry),
            ("destination rule", &by.destination_rule),
        ] {
            if let Some(part) = part {
                story.line(label, part.to_string());
            }
        }
    }
    let requests = match flow.requests {
        0 => String::new(),
        number => format!(", {}", output::count(usize::try_from(number).unwrap_or(usize::MAX), "request")),
    };
    story.line("moved", format!("{} sent, {} received{requests}", bytes(flow.sent), bytes(flow.received)));
    if let Some(first) = flow.first_byte_us {
        story.line("first byte", format!("{} after it was accepted", microseconds(first)));
    }
    let sides = [("agent", &joined.agent, agent_pod), ("gateway", &joined.gateway, gateway_pod)];
    let recorded = sides.map(|(side, record, pod)| match (record, pod) {
        (None, _) => format!("nothing by the {side}"),
        (Some(_), None) => format!("by the {side}"),
        (Some(_), Some(pod)) => format!("by the {side} {pod}"),
    });
    story.line("recorded", recorded.join(", "));
}

/// What the kernel knows of a connection that nobody else saw.
fn bypassed(story: &mut Story, flow: &FlowRecord) {
    let Some(leg) = flow.legs.workload.as_deref() else {
        return story.line("workload → server", "open: the kernel tells the rest when it ends");
    };
    let made = leg.connect_us.map(|us| format!("connected in {}", microseconds(us)));
    story.line("workload → server", made.unwrap_or_else(|| "never connected".to_owned()));
    if let Some(tcp) = &leg.tcp {
        story.line(
            "",
            format!(
                "rtt {}, {} of {} segments sent again, {} received",
                microseconds(tcp.rtt_us.into()),
                tcp.retransmits,
                tcp.segments_sent,
                tcp.segments_received
            ),
        );
    }
}

fn time(story: &mut Story, placed: &PlacedFlow) {
    let joined = &placed.joined;
    let TimeSpent { total_us, workload_us, tunnel_us, server_us, undivided_us, egret_us } = joined.time;
    let waits = |record: &Option<FlowRecord>| record.as_ref().map(|record| record.waits).unwrap_or_default();
    let (agent, gateway) = (waits(&joined.agent), waits(&joined.gateway));
    let mut part = |label: &str, us: u64, how: String| {
        let share = |whole: u64| us.saturating_mul(whole).checked_div(total_us).unwrap_or(0);
        let bar = "█".repeat(usize::try_from(share(BAR)).unwrap_or(0));
        let width = usize::try_from(BAR).unwrap_or(0);
        let line = format!("{:>8} {:>3} %  {bar:<width$}  {how}", microseconds(us), share(100));
        // The bar may be spaces, which wrapping would swallow.
        let _ = writeln!(story.0, "{label:<INDENT$}{}", line.trim_end());
    };
    part("workload", workload_us, sides(agent.silent_near_us, agent.blocked_near_us));
    part("tunnel", tunnel_us, tunnel(joined.flow.legs.tunnel.as_deref()));
    if undivided_us > 0 {
        let which = if joined.agent.is_some() { "tunnel or server" } else { "workload or tunnel" };
        part(which, undivided_us, "not to be told apart without the other record".to_owned());
    }
    part("server", server_us, server(&gateway, joined.flow.legs.upstream.as_deref()));
    part("egret", egret_us, own(&joined.flow));
    let verdict = match joined.time.slowest() {
        Some(Leg::Workload) => {
            "most of it was spent waiting for the workload: it sent nothing, or took nothing"
        }
        Some(Leg::Tunnel) => "most of it was spent in the tunnel between agent and gateway",
        Some(Leg::Server) => "most of it was spent waiting for the external server",
        None => "no leg took more than half of it",
    };
    story.line("", verdict);
}

fn sides(silent: u64, blocked: u64) -> String {
    format!("sent nothing {}, took nothing {}", microseconds(silent), microseconds(blocked))
}

fn tunnel(leg: Option<&TunnelLeg>) -> String {
    let Some(setup) = leg.and_then(|leg| leg.setup_us) else { return String::new() };
    format!("set-up {}, the rest is the way there and back", microseconds(setup))
}

fn server(waits: &Waits, leg: Option<&UpstreamLeg>) -> String {
    let mut parts = vec![sides(waits.silent_far_us, waits.blocked_far_us)];
    if let Some(first) = leg.and_then(|leg| leg.first_byte_us) {
        parts.push(format!("first byte {}", microseconds(first)));
    }
    parts.join(", ")
}

fn own(flow: &FlowRecord) -> String {
    let certificate = flow.legs.tunnel.as_ref().and_then(|leg| leg.certificate_us).filter(|us| *us > 1000);
    let certificate = certificate.map(|us| format!("certificate {}", microseconds(us)));
    let undetected = flow.undetected_us.map(|us| format!("waited {} for first bytes", microseconds(us)));
    certificate.into_iter().chain(undetected).collect::<Vec<_>>().join(", ")
}

fn legs(story: &mut Story, placed: &PlacedFlow) {
    let joined = &placed.joined;
    let legs = &joined.flow.legs;
    if let Some(WorkloadLeg { tcp: Some(tcp), .. }) = legs.workload.as_deref() {
        story.line("workload → agent", kernel(tcp));
    }
    if let Some(leg) = legs.tunnel.as_deref() {
        story.line("agent → gateway", tunnel_connection(leg));
        let theirs = joined.agent.is_some().then_some(joined.gateway.as_ref()).flatten();
        let theirs = theirs.and_then(|record| record.legs.tunnel.as_ref()?.tcp.as_deref());
        for (end, tcp) in [("", leg.tcp.as_deref()), ("gateway's end", theirs)] {
            if let Some(tcp) = tcp {
                story.line(end, format!("{} (all its tunnels together)", kernel(tcp)));
            }
        }
    }
    match legs.upstream.as_deref() {
        Some(leg) => {
            story.line("gateway → server", upstream_connection(leg));
            if let Some(tcp) = &leg.tcp {
                story.line("", kernel(tcp));
            }
        }
        None => story.line("gateway → server", "no connection was made"),
    }
}

fn tunnel_connection(leg: &TunnelLeg) -> String {
    let mut parts = vec![leg.connection.gateway.to_string()];
    parts.push(match (leg.reused, leg.connection.established_us) {
        (Some(true), _) => "over a connection that was there".to_owned(),
        (Some(false), Some(us)) => format!("over a new connection, made in {}", microseconds(us)),
        (Some(false), None) => "over a new connection".to_owned(),
        (None, _) => "as the gateway saw it".to_owned(),
    });
    parts.extend(leg.connection.tls.as_ref().map(session));
    parts.extend(leg.connection.certificate.as_ref().map(|name| certificate("workload's", name)));
    parts.join(", ")
}

fn upstream_connection(leg: &UpstreamLeg) -> String {
    let connection = &leg.connection;
    let mut parts = vec![connection.endpoint.to_string()];
    parts.extend(leg.dns_us.map(|us| format!("name resolved in {}", microseconds(us))));
    let made = [Some(("TCP", connection.connect_us)), connection.tls_us.map(|us| ("TLS", us))];
    let made = made.into_iter().flatten().map(|(what, us)| format!("{what} in {}", microseconds(us)));
    let made = made.collect::<Vec<_>>().join(" and ");
    parts.push(if leg.reused { format!("a pooled connection (once made: {made})") } else { made });
    parts.extend(connection.tls.as_ref().map(session));
    parts.extend(connection.sni.as_ref().map(|name| format!("SNI {name}")));
    parts.extend(connection.peer.as_ref().map(|subject| format!("server {subject}")));
    parts.extend(connection.certificate.as_ref().map(|name| certificate("client", name)));
    parts.join(", ")
}

fn session(tls: &TlsSession) -> String {
    format!("{} {}", tls.tls_version, tls.tls_cipher)
}

fn certificate(whose: &str, name: &CertificateName) -> String {
    format!("{whose} certificate {} (until {})", name.serial, name.not_after)
}

fn kernel(tcp: &TcpFigures) -> String {
    let mut text = format!(
        "rtt {} ± {}, {} of {} segments sent again",
        microseconds(tcp.rtt_us.into()),
        microseconds(tcp.rtt_variation_us.into()),
        tcp.retransmits,
        tcp.segments_sent
    );
    if tcp.peer_window_limited_us > 0 {
        let _ = write!(text, ", {} without room at the other end", microseconds(tcp.peer_window_limited_us));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::tell;
    use crate::{
        flow::{FlowId, FlowTable, Side, Wait, join, testing},
        reason::{Reason, Refusal},
        survey::flows::PlacedFlow,
    };

    #[test]
    fn a_flow_is_told_with_what_is_known_of_it() {
        let (agent, gateway) = (FlowTable::new(Side::Agent, 9), FlowTable::new(Side::Gateway, 9));
        let workload: crate::mesh::SpiffeId = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
        let (id, destination) = (FlowId::random(), "203.0.113.7:80".parse().unwrap());
        let near = agent.open(id, workload.clone(), destination);
        near.update(|record| record.legs.tunnel = Some(Box::new(testing::tunnel(Some(1500)))));
        near.add_sent(100);
        let far = gateway.open(id, workload, destination);
        far.waited(Wait::SilentFar, std::time::Duration::from_secs(2));
        far.fail(&Refusal::new(Reason::PolicyDenied, "rule 0 of a policy"));
        let story = |agent, gateway| tell(&PlacedFlow::from(join(agent, gateway).remove(0)));
        let both = story(agent.records(), gateway.records());
        for expected in [
            &id.to_string(),
            "denied: policy_denied",
            "rule 0 of a policy",
            "sent nothing 2.00 s",
            "set-up 1.50 ms",
            "TLS13_AES_128_GCM_SHA256",
            "by the agent, by the gateway",
            "no connection was made",
        ] {
            assert!(both.contains(expected), "{expected:?} in\n{both}");
        }
        let alone = story(Vec::new(), gateway.records());
        assert!(alone.contains("nothing by the agent"), "{alone}");
    }
}

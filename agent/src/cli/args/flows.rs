//! The arguments of `egret flows` and `egret flow`.

use super::{ClusterAccess, Query};
use crate::{flow::FlowIdPrefix, survey::selection::Selection};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Flows {
    #[command(flatten)]
    pub(in crate::cli) query: Query,
    #[command(flatten)]
    pub(in crate::cli) access: ClusterAccess,
    #[command(flatten)]
    pub(in crate::cli) selection: Selection,
    /// More columns: where most of the time went, first byte, round trip of the tunnel, who decided
    #[arg(short = 'w', long)]
    pub(in crate::cli) wide: bool,
    /// Go on: flows as they begin and as they end, until interrupted; with -o json one object a line (NDJSON)
    #[arg(long, conflicts_with = "sort")]
    pub(in crate::cli) follow: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Flow {
    #[command(flatten)]
    pub(in crate::cli) query: Query,
    #[command(flatten)]
    pub(in crate::cli) access: ClusterAccess,
    /// Its id, or as much of the beginning as no other flow has
    pub(in crate::cli) id: FlowIdPrefix,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use jiff::Timestamp;

    use super::{
        super::{Args, Command},
        *,
    };
    use crate::{
        flow::{FlowQuery, Sort, Verdict},
        reason::Reason,
    };

    fn flows(arguments: &[&str]) -> Result<Flows, clap::Error> {
        match Args::try_parse_from(["egret", "flows"].iter().chain(arguments))?.command {
            Command::Flows(flows) => Ok(flows),
            _ => unreachable!("it was flows"),
        }
    }

    #[test]
    fn filters_become_a_query() {
        let now: Timestamp = "2026-11-27T10:00:00Z".parse().unwrap();
        let all = flows(&[]).unwrap().selection.query(now);
        assert_eq!(all, FlowQuery { limit: Some(1000), ..FlowQuery::default() });
        let query = flows(&[
            "-n",
            "shop",
            "--host",
            "*.Example.com",
            "--verdict",
            "denied",
            "--reason",
            "policy_denied",
            "--min-bytes",
            "64K",
            "--since",
            "5m",
            "--sort",
            "bytes",
            "--limit",
            "0",
        ]);
        let query = query.unwrap().selection.query(now);
        assert_eq!(query.host.unwrap().to_string(), "*.example.com");
        assert_eq!((query.verdict, query.reason), (Some(Verdict::Denied), Some(Reason::PolicyDenied)));
        assert_eq!((query.min_bytes, query.sort, query.limit), (Some(65536), Sort::Bytes, None));
        assert_eq!(query.since.unwrap().to_string(), "2026-11-27T09:55:00Z");
    }

    #[test]
    fn the_query_of_a_url_has_the_same_filters() {
        let now: Timestamp = "2026-11-27T10:00:00Z".parse().unwrap();
        let line = flows(&["-n", "a b", "--host", "*.example.com", "--since", "5m", "--min-bytes", "1K"]);
        let url = Selection::from_url("namespace=a+b&host=*.example.com&since=5m&min-bytes=1K&verdict=&pod=");
        assert_eq!(url.unwrap().query(now), line.unwrap().selection.query(now));
        let option = Selection::from_url("namespace=--help&pod=-x").unwrap().query(now);
        assert_eq!((option.namespace.as_deref(), option.pod.as_deref()), (Some("--help"), Some("-x")));
        for wrong in
            ["run-dir=/tmp", "kubeconfig=/x", "verdict=maybe", "since=soon", "help=1", "=1", "follow=1"]
        {
            let said = Selection::from_url(wrong).unwrap_err();
            assert!(!said.is_empty() && !said.contains('\n'), "{wrong}: {said}");
        }
    }

    #[test]
    fn what_no_flow_can_have_is_refused() {
        for wrong in [
            ["--verdict", "maybe"],
            ["--reason", "bad luck"],
            ["--min-bytes", "much"],
            ["--min-bytes", "99999999999G"],
            ["--since", "yesterday"],
            ["--host", "a b"],
        ] {
            assert!(flows(&wrong).is_err(), "{wrong:?}");
        }
    }
}

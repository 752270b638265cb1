//! The arguments of `egret flows` and `egret flow`, and the filters they share with `egret top`.

use std::str::FromStr as _;

use clap::{
    Parser as _,
    builder::{PossibleValuesParser, TypedValueParser},
};
use jiff::{SignedDuration, Timestamp};
use serde::de::{
    DeserializeOwned, IntoDeserializer as _,
    value::{Error, StrDeserializer},
};

use super::{ClusterAccess, Query};
use crate::{
    flow::{FlowIdPrefix, FlowQuery, Sort, Verdict},
    mesh::HostPattern,
    reason::Reason,
};

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

/// Which flows, in which order, and how many: also what the page of `egret ui` asks for.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Selection {
    #[command(flatten)]
    filter: Filter,
    /// Those only that were open within this time, such as 5m or 2h
    #[arg(long, value_name = "TIME", value_parser = SignedDuration::from_str)]
    since: Option<SignedDuration>,
    /// What a limit leaves: the newest (started), those with most bytes, or those that took longest (duration); also the order of the
    /// table, the first of them last
    #[arg(long, value_name = "BY", default_value = "started", value_parser = one_of::<Sort>(["started", "bytes", "duration"]))]
    sort: Sort,
    /// So many at most; 0 for all
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    pub(in crate::cli) limit: usize,
}

#[derive(Debug, clap::Args)]
pub(super) struct Filter {
    /// Of workloads in this namespace only
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Of the pods of this name only; what is left is what their nodes' agents know
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// To this host only, or to those below `*.example.com`
    #[arg(long, value_name = "HOST", value_parser = HostPattern::parse)]
    host: Option<HostPattern>,
    /// Connections that go directly, too: to bypassed ranges, such as those of the cluster, and to resolvers
    #[arg(long)]
    bypassed: bool,
    /// With this verdict only
    #[arg(long, value_name = "VERDICT", value_parser = one_of::<Verdict>(["allowed", "denied", "failed", "bypassed"]))]
    verdict: Option<Verdict>,
    /// With this reason only, such as policy_denied
    #[arg(long, value_name = "REASON", hide_possible_values = true, value_parser = one_of::<Reason>(Reason::ALL.map(Reason::as_str)))]
    reason: Option<Reason>,
    /// With so many bytes or more, both ways together, such as 4096, 64K or 10M
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    min_bytes: Option<u64>,
}

impl Filter {
    /// As a query for all that passes.
    pub(super) fn query(&self) -> FlowQuery {
        let Self { namespace, pod, host, bypassed, verdict, reason, min_bytes } = self;
        FlowQuery {
            namespace: namespace.clone(),
            pod: pod.clone(),
            host: host.clone(),
            bypassed: *bypassed,
            verdict: *verdict,
            reason: *reason,
            min_bytes: *min_bytes,
            ..FlowQuery::default()
        }
    }
}

/// The same from elsewhere than a command line.
#[derive(Debug, clap::Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Alone {
    #[command(flatten)]
    selection: Selection,
}

impl Selection {
    /// Of the query of a URL, whose fields are the options of `egret flows` by their long names; empty ones do not count.
    pub(in crate::cli) fn from_url(query: &str) -> Result<Self, String> {
        let fields: Vec<(String, String)> = serde_urlencoded::from_str(query).map_err(|e| e.to_string())?;
        let filled = fields.iter().filter(|(_, value)| !value.is_empty());
        let parsed = Alone::try_parse_from(filled.map(|(name, value)| format!("--{name}={value}")));
        parsed.map(|alone| alone.selection).map_err(|e| {
            let text = e.to_string();
            text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        })
    }

    /// From when on they were open, if that is said.
    pub(in crate::cli) fn since(&self) -> Option<SignedDuration> {
        self.since
    }

    /// What is asked for, at a moment.
    pub(in crate::cli) fn query(&self, now: Timestamp) -> FlowQuery {
        FlowQuery {
            since: self.since.and_then(|since| now.checked_sub(since).ok()),
            sort: self.sort,
            limit: Some(self.limit).filter(|limit| *limit > 0),
            ..self.filter.query()
        }
    }
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

/// One of these words, as JSON has them.
pub(super) fn one_of<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    words: impl IntoIterator<Item = &'static str>,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words).try_map(|word| {
        let word: StrDeserializer<'_, Error> = word.as_str().into_deserializer();
        T::deserialize(word)
    })
}

/// A number of bytes, also in units of 1024.
fn bytes(text: &str) -> Result<u64, String> {
    let unit = text.trim_end_matches(['B', 'b']).trim_end_matches('i');
    let (number, shift) = match unit.char_indices().next_back() {
        Some((at, 'K' | 'k')) => (&unit[..at], 10),
        Some((at, 'M' | 'm')) => (&unit[..at], 20),
        Some((at, 'G' | 'g')) => (&unit[..at], 30),
        _ => (unit, 0),
    };
    let number: Option<u64> = number.parse().ok();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "write it as 4096, 64K, 10M or 1G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Args, Command},
        *,
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

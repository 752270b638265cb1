//! Which flows: the options of `egret flows` and `egret top`, and the same words in the address of the page.

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

use crate::{
    flow::{FlowQuery, Sort, Verdict},
    mesh::HostPattern,
    reason::Reason,
};

/// Which flows, in which order, and how many: also what the page asks for.
#[derive(Debug, clap::Args)]
pub(crate) struct Selection {
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
    pub(crate) limit: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Filter {
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
    pub(crate) fn query(&self) -> FlowQuery {
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
    pub(crate) fn from_url(query: &str) -> Result<Self, String> {
        let fields: Vec<(String, String)> = serde_urlencoded::from_str(query).map_err(|e| e.to_string())?;
        let filled = fields.iter().filter(|(_, value)| !value.is_empty());
        let parsed = Alone::try_parse_from(filled.map(|(name, value)| format!("--{name}={value}")));
        parsed.map(|alone| alone.selection).map_err(|e| {
            let text = e.to_string();
            text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        })
    }

    /// From when on they were open, if that is said.
    pub(crate) fn since(&self) -> Option<SignedDuration> {
        self.since
    }

    /// What is asked for, at a moment.
    pub(crate) fn query(&self, now: Timestamp) -> FlowQuery {
        FlowQuery {
            since: self.since.and_then(|since| now.checked_sub(since).ok()),
            sort: self.sort,
            limit: Some(self.limit).filter(|limit| *limit > 0),
            ..self.filter.query()
        }
    }
}

/// One of these words, as JSON has them.
pub(crate) fn one_of<T: DeserializeOwned + Clone + Send + Sync + 'static>(
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

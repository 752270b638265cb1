//! The arguments of `egret top`.

use std::str::FromStr as _;

use anyhow::ensure;
use jiff::SignedDuration;

use super::{ClusterAccess, Query};
use crate::{
    flow::FlowQuery,
    survey::{
        activity::{GroupBy, Rank},
        selection::{Filter, one_of},
    },
};

/// Nobody reads faster, and a question has to be answered in it.
const SHORTEST: SignedDuration = SignedDuration::from_millis(200);

/// Whoever looks less often wants metrics.
const LONGEST: SignedDuration = SignedDuration::from_hours(1);

/// What a window is made of is remembered, so that there is a limit to it.
const MOST_INTERVALS: i32 = 60;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Top {
    #[command(flatten)]
    pub(in crate::cli) query: Query,
    #[command(flatten)]
    pub(in crate::cli) access: ClusterAccess,
    #[command(flatten)]
    filter: Filter,
    /// One row for each host, workload, or rule (a reason with the object behind it)
    #[arg(long, value_name = "WHAT", default_value = "host", value_parser = one_of::<GroupBy>(["host", "workload", "rule"]))]
    pub(in crate::cli) by: GroupBy,
    /// What comes first: most flows, requests or bytes a second, the slowest first bytes or the longest (95th percentiles), most denials
    /// and failures (refused), or A (name)
    #[arg(long, value_name = "BY", default_value = "flows", value_parser = one_of::<Rank>(["flows", "requests", "bytes", "first_byte", "duration", "refused", "name"]))]
    pub(in crate::cli) sort: Rank,
    /// How often to look, such as 500ms or 5s [default: 1s; of a cluster 2s]
    #[arg(long, value_name = "TIME", value_parser = SignedDuration::from_str)]
    interval: Option<SignedDuration>,
    /// Rates and latencies are those of this time before; at least one interval, at most 60
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = SignedDuration::from_str)]
    pub(in crate::cli) window: SignedDuration,
    /// So many rows at most where it is no live view; 0 for all
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    pub(in crate::cli) limit: usize,
}

impl Top {
    /// What passes the filters.
    pub(in crate::cli) fn query(&self) -> FlowQuery {
        self.filter.query()
    }

    /// Time between two questions, checked against the window.
    pub(in crate::cli) fn interval(&self, cluster: bool) -> anyhow::Result<SignedDuration> {
        let usual = SignedDuration::from_secs(if cluster { 2 } else { 1 });
        let interval = self.interval.unwrap_or(usual);
        ensure!((SHORTEST..=LONGEST).contains(&interval), "--interval is {SHORTEST:#} to {LONGEST:#}");
        ensure!(
            self.window <= interval * MOST_INTERVALS,
            "--window is at most {MOST_INTERVALS} times --interval, which is {interval:#}"
        );
        Ok(interval)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{
        super::{Args, Command},
        *,
    };

    fn top(arguments: &[&str]) -> Result<Top, clap::Error> {
        match Args::try_parse_from(["egret", "top"].iter().chain(arguments))?.command {
            Command::Top(top) => Ok(top),
            _ => unreachable!("it was top"),
        }
    }

    #[test]
    fn filters_and_order_are_read() {
        let top = top(&["-n", "shop", "--by", "rule", "--sort", "first_byte"]).unwrap();
        assert_eq!(top.query(), FlowQuery { namespace: Some("shop".to_owned()), ..FlowQuery::default() });
        assert_eq!((top.by, top.sort), (GroupBy::Rule, Rank::FirstByte));
    }

    #[test]
    fn intervals_are_within_reason() {
        let interval = |arguments: &[&str], cluster| top(arguments).unwrap().interval(cluster);
        assert_eq!(interval(&[], false).unwrap(), SignedDuration::from_secs(1));
        assert_eq!(interval(&[], true).unwrap(), SignedDuration::from_secs(2));
        assert_eq!(interval(&["--interval", "500ms"], true).unwrap(), SignedDuration::from_millis(500));
        assert!(interval(&["--interval", "199ms"], false).is_err());
        assert!(interval(&["--interval", "0s"], false).is_err());
        assert!(interval(&["--interval", "61m"], false).is_err());
        assert!(interval(&["--window", "61s"], false).is_err());
        assert!(interval(&["--window", "61s", "--interval", "2s"], false).is_ok());
        assert!(top(&["--since", "5m"]).is_err() && top(&["--interval", "soon"]).is_err());
    }
}

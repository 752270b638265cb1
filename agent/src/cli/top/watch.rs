//! What is asked from one moment to the next, and what became of the answers.

use jiff::{SignedDuration, Timestamp};

use crate::{
    cli::flows::OVERLAP,
    flow::FlowQuery,
    survey::{activity::Activity, flows::PlacedFlow},
};

/// Flows that are remembered at the same time, about 2 KB each.
const CAPACITY: usize = 10_000;

/// One activity, with the questions it takes.
pub(super) struct Watch {
    filter: FlowQuery,
    window: SignedDuration,
    answered: Option<Timestamp>,
    pub(super) activity: Activity,
}

impl Watch {
    pub(super) fn new(filter: FlowQuery, window: SignedDuration) -> Self {
        Self { filter, window, answered: None, activity: Activity::new(window, CAPACITY) }
    }

    /// The question of this moment: what is open, and what ended since the last one that was answered. The first one reaches back as far as
    /// the second: what ended before that is no news then.
    pub(super) fn question(&self, now: Timestamp) -> FlowQuery {
        let last = self.answered.unwrap_or(now);
        let since = last.checked_sub(OVERLAP).unwrap_or(last);
        // One more than is remembered, to know whether there are more.
        FlowQuery { since: Some(since), limit: Some(CAPACITY + 1), ..self.filter.clone() }
    }

    /// Takes the answer to the question of that moment.
    pub(super) fn answer(&mut self, asked: Timestamp, flows: Vec<PlacedFlow>) {
        self.activity.observe(asked, flows);
        self.answered = Some(asked);
    }

    /// Begins anew: nobody watched for a while.
    pub(super) fn restart(&mut self) {
        *self = Self::new(self.filter.clone(), self.window);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_reach_back_to_the_last_answer() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let filter = FlowQuery { namespace: Some("shop".to_owned()), ..FlowQuery::default() };
        let mut watch = Watch::new(filter, SignedDuration::from_secs(10));
        let since = |watch: &Watch, second| watch.question(at(second)).since;
        assert_eq!(since(&watch, 100), Some(at(95)));
        watch.answer(at(100), Vec::new());
        assert_eq!(since(&watch, 101), Some(at(95)));
        assert_eq!(since(&watch, 130), Some(at(95)), "those between were not answered");
        assert_eq!(watch.question(at(130)).namespace.as_deref(), Some("shop"));
        watch.restart();
        assert_eq!(since(&watch, 200), Some(at(195)));
    }
}

//! How often denials are told: of each pod, reason and host at once, and then once a minute with their count; and of all together not
//! more than some.
//!
//! Pure: time is told. Bounded whatever comes: workloads can make up hosts.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::Denial;
use crate::{hbone::baggage::PodName, reason::Reason};

/// Kinds of denials that are remembered at the same time.
const MOST: usize = 1000;
/// Between two words about the same.
const AGAIN: Duration = Duration::from_mins(1);
/// What was quiet for this long begins anew. Events are kept for an hour by default.
const FORGOTTEN: Duration = Duration::from_mins(30);
/// Words at once, and a second, whatever they are about.
const BURST: u32 = 30;
const RATE: f64 = 1.0;

/// What denials have in common that one event tells of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    pod: PodName,
    reason: Reason,
    host: String,
}

#[derive(Debug)]
struct Entry {
    /// The first.
    denial: Denial,
    /// Tells it from others of the same pod, also from those before it that are forgotten.
    id: u64,
    /// All, and those that were told.
    count: u64,
    told: u64,
    /// When something was told last, or could not be.
    spoke: Option<Instant>,
    seen: Instant,
}

impl Entry {
    fn is_due(&self, now: Instant) -> bool {
        self.count > self.told && self.spoke.is_none_or(|spoke| now.duration_since(spoke) >= AGAIN)
    }
}

/// To be told: what `id` is about was denied so often by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The first of these denials.
    pub denial: Denial,
    /// The same in all that is told of them.
    pub id: u64,
    /// How often.
    pub count: u64,
    /// How many of them were not told before.
    pub news: u64,
}

/// What was told of, and what is still to be.
#[derive(Debug)]
pub struct Limiter {
    entries: HashMap<Key, Entry>,
    tokens: f64,
    refilled: Instant,
    lost: u64,
    next_id: u64,
}

impl Limiter {
    /// Nothing was denied yet. `first_id` is another one in every process that tells of the same pods.
    pub fn new(now: Instant, first_id: u64) -> Self {
        Self { entries: HashMap::new(), tokens: BURST.into(), refilled: now, lost: 0, next_id: first_id }
    }

    /// One more denial: what is to be told at once.
    pub fn offer(&mut self, now: Instant, denial: Denial) -> Option<Told> {
        let key = Key { pod: denial.pod.clone(), reason: denial.reason, host: denial.host.clone() };
        if !self.entries.contains_key(&key) && !self.has_room() {
            self.lost += 1;
            return None;
        }
        let id = self.next_id;
        let entry = self.entries.entry(key).or_insert_with(|| {
            self.next_id = self.next_id.wrapping_add(1);
            Entry { denial, id, count: 0, told: 0, spoke: None, seen: now }
        });
        entry.count += 1;
        entry.seen = now;
        refill(&mut self.tokens, &mut self.refilled, now);
        tell(entry, &mut self.tokens, now)
    }

    /// What is to be told by now, those first that wait longest; asked now and then. Forgets what was quiet for long.
    pub fn due(&mut self, now: Instant) -> Vec<Told> {
        refill(&mut self.tokens, &mut self.refilled, now);
        self.entries.retain(|_, entry| {
            let is_remembered = now.duration_since(entry.seen) < FORGOTTEN;
            if !is_remembered {
                // None, where they could be told.
                self.lost += entry.count - entry.told;
            }
            is_remembered
        });
        let mut due: Vec<&mut Entry> = self.entries.values_mut().filter(|entry| entry.is_due(now)).collect();
        due.sort_by_key(|entry| (entry.spoke, entry.id));
        due.into_iter().map_while(|entry| tell(entry, &mut self.tokens, now)).collect()
    }

    /// It could not be told, and is due again after a while.
    pub fn failed(&mut self, told: &Told) {
        if let Some(entry) = self.entries.values_mut().find(|entry| entry.id == told.id) {
            entry.told = told.count - told.news;
        }
    }

    /// How many denials since the last question are in nothing that is told.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Makes room for one more: what was told and is quiet for the longest time goes. Whether there is room.
    fn has_room(&mut self) -> bool {
        if self.entries.len() < MOST {
            return true;
        }
        let told = self.entries.iter().filter(|(_, entry)| entry.count == entry.told);
        let quiet = told.min_by_key(|(_, entry)| entry.seen).map(|(key, _)| key.clone());
        quiet.is_some_and(|key| self.entries.remove(&key).is_some())
    }
}

fn refill(tokens: &mut f64, refilled: &mut Instant, now: Instant) {
    *tokens = (*tokens + now.duration_since(*refilled).as_secs_f64() * RATE).min(BURST.into());
    *refilled = now;
}

fn tell(entry: &mut Entry, tokens: &mut f64, now: Instant) -> Option<Told> {
    if !entry.is_due(now) || *tokens < 1.0 {
        return None;
    }
    *tokens -= 1.0;
    let news = entry.count - entry.told;
    (entry.told, entry.spoke) = (entry.count, Some(now));
    Some(Told { denial: entry.denial.clone(), id: entry.id, count: entry.count, news })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::{super::testing::denial, *};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_is_told_at_once_and_the_others_once_a_minute_with_their_count() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start, 7);
        let first = limiter.offer(start, denial("web-1", "test.com")).unwrap();
        assert_eq!((first.id, first.count), (7, 1));
        for second in 1..=24 {
            assert_eq!(limiter.offer(start + SECOND * second, denial("web-1", "test.com")), None);
        }
        // Other pods and hosts are told of by themselves.
        for (pod, host) in [("web-2", "test.com"), ("web-1", "other.test")] {
            assert_eq!(limiter.offer(start + SECOND * 30, denial(pod, host)).unwrap().count, 1);
        }
        assert_eq!(limiter.due(start + SECOND * 59), []);
        let second = limiter.due(start + SECOND * 60);
        assert_eq!(second, [Told { count: 25, news: 24, ..first }]);
        assert_eq!(limiter.due(start + SECOND * 300), []);
    }

    #[test]
    fn what_was_quiet_for_long_begins_anew() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start, 0);
        let first = limiter.offer(start, denial("web-1", "test.com")).unwrap();
        assert_eq!(limiter.due(start + FORGOTTEN), []);
        let again = limiter.offer(start + FORGOTTEN, denial("web-1", "test.com")).unwrap();
        assert_eq!((again.id, again.count), (first.id + 1, 1));
    }

    #[test]
    fn what_could_not_be_told_is_tried_again() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start, 0);
        let first = limiter.offer(start, denial("web-1", "test.com")).unwrap();
        limiter.failed(&first);
        assert_eq!(limiter.due(start + SECOND), []);
        assert_eq!(limiter.due(start + AGAIN), [first]);
    }

    #[test]
    fn made_up_hosts_cost_neither_memory_nor_words() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start, 0);
        let told =
            (0..5000).filter_map(|host| limiter.offer(start, denial("web-1", &format!("{host}.test"))));
        assert_eq!(told.count() as u64, u64::from(BURST));
        assert_eq!(limiter.entries.len(), MOST);
        // What was told made room for others; what could not be is counted.
        assert_eq!(limiter.take_lost(), 5000 - MOST as u64 - u64::from(BURST));
        assert_eq!(limiter.take_lost(), 0);
    }

    proptest! {
        #[test]
        fn never_more_than_is_allowed_and_nothing_uncounted(
            steps in vec((0_u64..40_000, 0_usize..9, any::<bool>()), 1..400)
        ) {
            let start = Instant::now();
            let (mut now, mut offered) = (start, 0_u64);
            let mut limiter = Limiter::new(start, 0);
            let mut spoke: Vec<(Instant, u64)> = Vec::new();
            let mut told: BTreeMap<u64, u64> = BTreeMap::new();
            for (milliseconds, host, asked) in steps {
                now += Duration::from_millis(milliseconds);
                let said = if asked {
                    limiter.due(now)
                } else {
                    offered += 1;
                    limiter.offer(now, denial("web-1", &format!("{host}.test"))).into_iter().collect()
                };
                for one in said {
                    spoke.push((now, one.id));
                    if milliseconds % 7 == 0 {
                        limiter.failed(&one);
                    } else {
                        let before = told.insert(one.id, one.count).unwrap_or_default();
                        prop_assert_eq!(one.count, before + one.news);
                    }
                }
            }
            for (at, (from, id)) in spoke.iter().enumerate() {
                // In the window that begins here, of all, and of the same.
                let window = spoke[at..].iter().take_while(|(then, _)| then.duration_since(*from) < AGAIN);
                prop_assert!(window.clone().count() as f64 <= f64::from(BURST) + RATE * AGAIN.as_secs_f64());
                prop_assert_eq!(window.filter(|(_, other)| other == id).count(), 1);
            }
            // In the end each denial was told, or is known to be lost.
            told.extend(limiter.due(now + AGAIN).into_iter().map(|one| (one.id, one.count)));
            prop_assert_eq!(told.values().sum::<u64>() + limiter.take_lost(), offered);
        }
    }
}

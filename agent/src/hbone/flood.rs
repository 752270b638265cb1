//! Notices a peer that sends far more control frames than its traffic explains (H2-03, H2-05, H2-06: floods of PING, SETTINGS,
//! PRIORITY and WINDOW_UPDATE, which h2 answers or ignores for ever).
//!
//! A token bucket: control frames cost, time and traffic in either direction earn. `gather` feeds it with what it reads on
//! the gateway's side; it looks at frame headers only (RFC 9113 §4.1) and leaves what they mean to h2.

use tokio::time::Instant;

/// Control frames that are free at once.
const BURST: u64 = 10_000;
/// Control frames earned per second.
const PER_SECOND: u64 = 1_000;
/// Bytes of traffic that earn one control frame; some peers open the window after every small read.
const BYTES_PER_FRAME: u64 = 1_024;
/// The connection preface that a client sends before its first frame (RFC 9113 §3.4).
const PREFACE: usize = 24;
const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// Counts the frames of one direction of one connection.
#[derive(Debug)]
pub(super) struct FrameMeter {
    /// The frame header that is being read, and how much of it is there.
    header: [u8; HEADER],
    have: usize,
    /// Bytes until the next frame header.
    skip: usize,
    budget: u64,
    /// Bytes that earned no frame yet.
    earning: u64,
    refilled: Instant,
}

impl FrameMeter {
    /// For what a client sends, from its first byte on.
    pub(super) fn for_client() -> Self {
        Self {
            header: [0; HEADER],
            have: 0,
            skip: PREFACE,
            budget: BURST,
            earning: 0,
            refilled: Instant::now(),
        }
    }

    /// Counts `bytes` that were received; false when there are too many control frames.
    #[must_use]
    pub(super) fn received(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have < HEADER {
                return true;
            }
            self.have = 0;
            let [high, middle, low, kind, ..] = self.header;
            self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            match kind {
                DATA => self.earn(self.skip),
                // Streams have limits of their own.
                HEADERS => {}
                _ if !self.spend() => return false,
                _ => {}
            }
        }
        true
    }

    /// Counts bytes that were sent: the peer answers those with WINDOW_UPDATE.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.earn(bytes);
    }

    fn earn(&mut self, bytes: usize) {
        self.earning += bytes as u64;
        self.budget = (self.budget + self.earning / BYTES_PER_FRAME).min(BURST);
        self.earning %= BYTES_PER_FRAME;
    }

    fn spend(&mut self) -> bool {
        if self.budget == 0 {
            let earned = self.refilled.elapsed().as_millis() * u128::from(PER_SECOND) / 1000;
            self.budget = u64::try_from(earned).unwrap_or(BURST).min(BURST);
            self.refilled = Instant::now();
        }
        match self.budget.checked_sub(1) {
            Some(left) => self.budget = left,
            None => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, length: u16) -> Vec<u8> {
        let [high, low] = length.to_be_bytes();
        let mut frame = vec![0, high, low, kind, 0, 0, 0, 0, 0];
        frame.resize(HEADER + usize::from(length), 0);
        frame
    }

    fn meter() -> FrameMeter {
        let mut meter = FrameMeter::for_client();
        assert!(meter.received(&[0; PREFACE]));
        meter
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_noticed_and_a_steady_peer_is_not() {
        let (mut flood, mut steady) = (meter(), meter());
        let ping = frame(PING, 8);
        assert!(flood.received(&ping.repeat(10_000)));
        assert!(!flood.received(&ping.repeat(100)));
        for _ in 0..3600 {
            assert!(steady.received(&ping.repeat(900)));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn traffic_either_way_explains_control_frames() {
        let (mut up, mut down) = (meter(), meter());
        let update = frame(8, 4);
        for _ in 0..100_000 {
            assert!(up.received(&frame(DATA, 4096)) && up.received(&update));
            down.sent(4096);
            assert!(down.received(&update));
        }
        // Empty DATA frames explain nothing.
        let mut empty = meter();
        let both = [frame(DATA, 0), update].concat();
        assert!((0..20_000).any(|_| !empty.received(&both)));
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_does_not_matter(
            kinds in prop::collection::vec((0_u8..12, 0_u16..50), 0..40),
            piece in 1_usize..30,
        ) {
            let bytes: Vec<u8> = kinds.iter().flat_map(|&(kind, length)| frame(kind, length)).collect();
            let (mut whole, mut cut) = (meter(), meter());
            prop_assert!(whole.received(&bytes));
            for piece in bytes.chunks(piece) {
                prop_assert!(cut.received(piece));
            }
            prop_assert_eq!((whole.budget, whole.have, whole.skip), (cut.budget, cut.have, cut.skip));
        }
    }
}

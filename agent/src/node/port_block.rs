//! Where in a network namespace a block of consecutive ports is likely to be free. Called by `node::listener`; binds nothing.
//!
//! Preferably outside the ephemeral range: inside it, a busy workload has a connection in TIME_WAIT on nearly every port, and a
//! restarted agent would find none. That is also where other programs' fixed ports rarely are, at the upper end.

use std::fs;

/// The kernel's default.
const DEFAULT: Ephemeral = Ephemeral { first: 32_768, last: 60_999 };
/// Ports below take a privilege, and belong to known services.
const LOWEST: u16 = 1024;
/// How many blocks inside the ephemeral range are tried.
const INSIDE: usize = 64;

/// The ports that the kernel gives to connections, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ephemeral {
    pub(super) first: u16,
    pub(super) last: u16,
}

/// The range of the network namespace that the calling thread is in. It decides only what is tried first, so the default
/// does where it cannot be read.
pub(super) fn ephemeral() -> Ephemeral {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    text.ok().and_then(|text| parse(&text)).unwrap_or(DEFAULT)
}

fn parse(text: &str) -> Option<Ephemeral> {
    let mut words = text.split_whitespace();
    let range = Ephemeral { first: words.next()?.parse().ok()?, last: words.next()?.parse().ok()? };
    (range.first <= range.last).then_some(range)
}

/// First ports of blocks of `ports`, in the order in which they should be tried: above the range, below it, inside. `random`
/// says where to begin, so that the workloads of one namespace do not all try the same.
pub(super) fn bases(range: Ephemeral, ports: u8, random: u16) -> impl Iterator<Item = u16> {
    let above = blocks(u32::from(range.last) + 1, 1 << 16, ports);
    let below = blocks(u32::from(LOWEST), u32::from(range.first), ports);
    let inside = blocks(u32::from(range.first), u32::from(range.last) + 1, ports);
    rotated(above, random)
        .chain(rotated(below, random))
        // Spread over the range: a stretch of it may be full.
        .chain(rotated(inside.clone(), random).step_by((inside.len() / INSIDE).max(1)))
        .map(|base| base as u16)
}

/// First ports of the blocks between `from` and `to` (excluded).
fn blocks(from: u32, to: u32, ports: u8) -> Vec<u32> {
    let ports = u32::from(ports);
    (from..to).step_by(ports as usize).filter(|base| base + ports <= to).collect()
}

fn rotated(blocks: Vec<u32>, random: u16) -> impl Iterator<Item = u32> {
    let count = blocks.len();
    (0..count).map(move |index| blocks[(index + usize::from(random)) % count])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(first: u16, last: u16, ports: u8, random: u16) -> Vec<u16> {
        bases(Ephemeral { first, last }, ports, random).collect()
    }

    #[test]
    fn blocks_above_the_range_come_first() {
        let tried = tried(32_768, 60_999, 8, 0);
        // 4,536 ports above, 31,744 below.
        assert_eq!((tried[0], tried[566], tried[567]), (61_000, 65_528, 1024));
        assert_eq!(tried[567 + 3968], 32_768);
        assert!((INSIDE..=2 * INSIDE).contains(&(tried.len() - 567 - 3968)), "{}", tried.len());
    }

    #[test]
    fn no_block_leaves_the_ports_there_are_or_its_part() {
        for (first, last) in [(32_768, 60_999), (1024, 65_535), (2000, 65_530), (15_000, 15_003)] {
            for base in tried(first, last, 8, 12_345) {
                assert!(base >= LOWEST && base.checked_add(7).is_some(), "{base}");
                let inside = |port| (first..=last).contains(&port);
                assert_eq!(inside(base), inside(base + 7), "{base}");
            }
        }
    }

    #[test]
    fn where_the_range_is_everything_blocks_inside_are_tried() {
        assert!(tried(1024, 65_535, 8, 7).len() >= INSIDE);
    }

    #[test]
    fn workloads_begin_at_different_blocks() {
        assert_ne!(tried(32_768, 60_999, 8, 1)[0], tried(32_768, 60_999, 8, 2)[0]);
    }

    #[test]
    fn the_range_is_read_as_the_kernel_writes_it() {
        assert_eq!(parse("32768\t60999\n"), Some(DEFAULT));
        assert_eq!(parse("9 8\n"), None);
        assert_eq!(parse(""), None);
    }
}

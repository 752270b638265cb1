//! When a bypassed connection is over, and how much it carried, from what the hooks see of it: its FINs and resets, and that
//! its last process has closed it. Called by `bypassed`; pure.
//!
//! The hooks of one socket may run on several CPUs at once, and this target has no atomic "or". So each mark has a byte of its own: none
//! is lost. Two FINs at the same instant may miss each other; the last process's close, which comes later, finds both.
//! A reset that meets another end at the same instant may be told twice.

use crate::backstop::{TCP_CLOSE, TCP_LISTEN, TCP_SYN_SENT};

/// This side has sent all that it had.
pub const FIN_SENT: u64 = 1;
/// The other side has sent all that it had.
pub const FIN_RECEIVED: u64 = 1 << 8;
/// One side has reset it.
pub const RESET: u64 = 1 << 16;
/// The last process has closed it; a FIN or a reset is still to be sent, or has been.
pub const RELEASED: u64 = 1 << 24;
/// The last process has closed it, and no packet follows.
pub const GONE: u64 = 1 << 32;

/// What it means that the last process closes a socket in this state.
#[inline(always)]
pub const fn release(state: u32) -> u64 {
    match state {
        // Never opened, given up, or ended by an error.
        TCP_CLOSE | TCP_SYN_SENT | TCP_LISTEN => GONE,
        _ => RELEASED,
    }
}

/// The index of a mark's byte.
#[inline(always)]
pub const fn byte_of(mark: u64) -> usize {
    mark.trailing_zeros() as usize / 8
}

/// Whether a connection is over with these marks. What the other side sends after the last process has gone is read by nobody: the
/// kernel takes it for TIME_WAIT at most, where no hook sees it.
#[inline(always)]
const fn is_over(marks: u64) -> bool {
    marks & (RESET | GONE) != 0 || (marks & FIN_SENT != 0 && marks & (FIN_RECEIVED | RELEASED) != 0)
}

/// Whether it is this mark, added to those before, that made it over.
#[inline(always)]
pub const fn ends(before: u64, mark: u64) -> bool {
    !is_over(before) && is_over(before | mark)
}

/// How long a stream is that ends at the sequence number `end`, when `counted` bytes of it are known, up to `next`. An `end` before
/// `next` is of a segment that was sent again.
#[inline(always)]
pub const fn length(counted: u64, next: u32, end: u32) -> u64 {
    let more = end.wrapping_sub(next).cast_signed();
    if more > 0 { counted + more.cast_unsigned() as u64 } else { counted }
}

/// Bytes of the application's among those acknowledged: the kernel counts the SYN of who opens a connection as one.
#[inline(always)]
pub const fn without_syn(acknowledged: u64) -> u64 {
    acknowledged.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ESTABLISHED: u32 = 1;
    const CLOSE_WAIT: u32 = 8;

    /// After which of these marks it is over; none: never.
    fn over_after(order: &[u64]) -> Option<usize> {
        let mut marks = 0;
        let mut found = None;
        for (index, mark) in order.iter().enumerate() {
            if ends(marks, *mark) {
                assert_eq!(found, None, "only once");
                found = Some(index);
            }
            marks |= mark;
        }
        found
    }

    #[test]
    fn it_is_over_when_nobody_reads_any_more() {
        for (order, at) in [
            (&[FIN_RECEIVED, RELEASED, FIN_SENT][..], Some(2)),
            (&[RELEASED, FIN_SENT, FIN_RECEIVED], Some(1)),
            (&[FIN_SENT, FIN_RECEIVED, RELEASED], Some(1)),
            (&[FIN_SENT, RELEASED], Some(1)),
            (&[RELEASED, RESET, FIN_RECEIVED], Some(1)),
            (&[RESET, GONE], Some(0)),
            (&[GONE], Some(0)),
            (&[FIN_SENT, FIN_SENT], None),
            (&[FIN_RECEIVED], None),
            (&[RELEASED], None),
        ] {
            assert_eq!(over_after(order), at, "{order:x?}");
        }
    }

    #[test]
    fn every_mark_has_its_byte() {
        for (index, mark) in [FIN_SENT, FIN_RECEIVED, RESET, RELEASED, GONE].into_iter().enumerate() {
            let mut bytes = [0; 8];
            bytes[byte_of(mark)] = 1;
            assert_eq!((byte_of(mark), u64::from_le_bytes(bytes)), (index, mark));
        }
    }

    #[test]
    fn a_packet_follows_the_close_of_what_is_open() {
        assert_eq!([ESTABLISHED, CLOSE_WAIT].map(release), [RELEASED; 2]);
        assert_eq!([TCP_CLOSE, TCP_SYN_SENT].map(release), [GONE; 2]);
    }

    #[test]
    fn lengths_survive_the_wrap_of_sequence_numbers() {
        assert_eq!(length(0, 1001, 1001), 0);
        assert_eq!(length(5_000_000_000, 4_294_967_290, 10), 5_000_000_016);
        assert_eq!(length(7, 1001, 1000), 7, "sent again");
        assert_eq!((without_syn(0), without_syn(1), without_syn(101)), (0, 0, 100));
    }
}

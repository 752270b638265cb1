//! Texts that many flows have in common, such as the host of the last thousand of them: one allocation for all.
//!
//! Records live long, and beside much that does not: every piece that they are made of costs the allocator more than its own making.

use std::{
    array,
    cell::RefCell,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

/// Texts that a thread remembers.
const REMEMBERED: usize = 64;

struct Texts {
    hasher: RandomState,
    slots: [Option<Arc<str>>; REMEMBERED],
}

thread_local! {
    static TEXTS: RefCell<Texts> =
        RefCell::new(Texts { hasher: RandomState::new(), slots: array::from_fn(|_| None) });
}

/// The text, in the allocation that it had before on this thread, if it is among the last ones.
pub(crate) fn shared(text: &str) -> Arc<str> {
    TEXTS.with_borrow_mut(|Texts { hasher, slots }| {
        let slot = &mut slots[hasher.hash_one(text) as usize % REMEMBERED];
        match slot {
            Some(known) if **known == *text => Arc::clone(known),
            _ => Arc::clone(slot.insert(text.into())),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_is_shared_and_what_was_not_is_as_it_was_said() {
        assert!(Arc::ptr_eq(&shared("a.test"), &shared("a.test")));
        for number in 0..1000 {
            let text = format!("host-{number}.test");
            assert_eq!(*shared(&text), *text);
        }
    }
}

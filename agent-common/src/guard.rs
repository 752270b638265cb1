//! What the guard programs know of the parent that they are attached to: the value of its cgroup storage. Written by
//! `agent::datapath`.

/// The levels of the cgroup tree (the root's is 0) at which children of a guarded parent are classified. The kernel hands out
/// zeros until user space has written it: then nothing is guarded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Guard {
    /// Host order; 0: the guard is not in force yet.
    first: u32,
    /// Host order; 0: there is no second one.
    second: u32,
    /// Room for a later version: the size of the value must not change under a link that stays.
    reserved: [u8; 8],
}

impl Guard {
    /// Of children that are classified at the first level or, where there is one, the second.
    pub const fn new(first: u32, second: u32) -> Self {
        Self { first, second, reserved: [0; 8] }
    }

    /// The first level; 0: the guard is not in force yet.
    #[inline(always)]
    pub const fn first(&self) -> u32 {
        self.first
    }

    /// The second level; 0: there is none.
    #[inline(always)]
    pub const fn second(&self) -> u32 {
        self.second
    }
}

//! What user space has found out about a connection that carries no mark: it is older than the programs' attachment, so no
//! program saw it begin. The value of [`crate::names::OLDER`], under the cookie of the socket.

/// How the backstop treats such a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Standing {
    /// It came in: what leaves on it is an answer.
    FromOutside = 1,
    /// It goes out, and may go on.
    Kept = 2,
    /// It goes out, and may not.
    Ended = 3,
}

/// An unmarked connection of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Older {
    /// Host order.
    workload: u32,
    /// Number of a [`Standing`], host order.
    standing: u32,
}

impl Older {
    /// A connection of `workload`.
    pub const fn new(workload: u32, standing: Standing) -> Self {
        Self { workload, standing: standing as u32 }
    }

    /// Whose it is.
    pub const fn workload(&self) -> u32 {
        self.workload
    }

    /// How it is treated. What this version does not know does not leave.
    #[inline(always)]
    pub const fn standing(&self) -> Standing {
        match self.standing {
            1 => Standing::FromOutside,
            2 => Standing::Kept,
            _ => Standing::Ended,
        }
    }
}

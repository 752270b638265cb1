//! Who called: of the current task, for people only. Never an identity: whoever has a socket can hand it on.

/// A process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Process {
    /// In the PID namespace of the machine, host order; 0: not known.
    id: u32,
    /// `comm` of the thread, padded with zeros.
    name: [u8; Self::NAME_LENGTH],
}

impl Process {
    /// `TASK_COMM_LEN`, with the zero at its end.
    pub const NAME_LENGTH: usize = 16;

    /// What is said where the kernel does not tell.
    pub const UNKNOWN: Self = Self { id: 0, name: [0; Self::NAME_LENGTH] };

    /// The process with this number, and the name of the thread that called.
    #[inline(always)]
    pub const fn new(id: u32, name: [u8; Self::NAME_LENGTH]) -> Self {
        Self { id, name }
    }

    /// Its number in the PID namespace of the machine, if it is known.
    pub const fn id(&self) -> Option<u32> {
        if self.id == 0 { None } else { Some(self.id) }
    }

    /// The bytes of its name.
    pub fn name(&self) -> &[u8] {
        let length = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        &self.name[..length]
    }
}

//! What the kernel's verifier had to do for a program that it took. Called by `probe`.
//!
//! aya asks for the verifier's log only after a refusal. So the instructions are loaded a second time here, with the
//! statistics asked for, on the maps that aya has made.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::maps::{MapFd, MapInfo};
use aya_obj::Object;

use super::syscall;

/// The verifier's statistics of one program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Instructions of the program.
    pub instructions: usize,
    /// Instructions that the verifier went through, on all paths. It gives up at 1,000,000.
    pub processed: u64,
    /// States that it remembered.
    pub states: u64,
    /// The most of them at one time.
    pub peak_states: u64,
}

/// The instructions of an object, ready to be loaded once more.
pub(super) struct Instructions {
    object: Object,
    /// The instructions name these by number.
    _maps: Vec<(String, MapFd)>,
}

impl Instructions {
    /// `maps` are the ids of all maps that programs of the object use.
    pub(super) fn of(object: &[u8], maps: impl IntoIterator<Item = u32>) -> io::Result<Self> {
        let mut object = Object::parse(object).map_err(io::Error::other)?;
        let open = |id| {
            let info = MapInfo::from_id(id).map_err(io::Error::other)?;
            let name = info.name_as_str().unwrap_or_default().to_owned();
            Ok((name, info.fd().map_err(io::Error::other)?))
        };
        let opened: Vec<(String, MapFd)> = maps.into_iter().map(open).collect::<io::Result<_>>()?;
        let shapes = std::mem::take(&mut object.maps);
        let made = shapes.iter().filter_map(|(name, shape)| {
            let (_, fd) = opened.iter().find(|(opened, _)| opened == name)?;
            Some((name.as_str(), fd.as_fd().as_raw_fd(), shape))
        });
        let sections = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(made, &sections).map_err(io::Error::other)?;
        object.relocate_calls(&sections).map_err(io::Error::other)?;
        Ok(Self { object, _maps: opened })
    }

    /// Loads a program, of this type and for this attach type, and throws it away.
    pub(super) fn statistics(&self, program: &str, kind: u32, attach_type: u32) -> io::Result<Statistics> {
        let program = self.object.programs.get(program);
        let found = program.and_then(|program| {
            Some((self.object.functions.get(&program.function_key())?, program.license.as_c_str()))
        });
        let (function, license) = found.ok_or_else(|| io::Error::other("not in the object"))?;
        let log = syscall::program_log(&function.instructions, license, kind, attach_type)?;
        let read = || {
            let processed = number(&log, "processed")?;
            let (states, peak_states) = (number(&log, "total_states")?, number(&log, "peak_states")?);
            Some(Statistics { instructions: function.instructions.len(), processed, states, peak_states })
        };
        read().ok_or_else(|| io::Error::other(format!("the verifier's log has no statistics: {log:?}")))
    }
}

/// The number after a word.
fn number(log: &str, word: &str) -> Option<u64> {
    let mut words = log.split_whitespace().skip_while(|found| *found != word);
    words.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn the_log_of_the_kernel_is_understood() {
        let log = "verification time 85 usec\nstack depth 96\nprocessed 301 insns (limit 1000000) \
                   max_states_per_insn 1 total_states 19 peak_states 18 mark_read 5\n";
        assert_eq!(number(log, "processed"), Some(301));
        assert_eq!(number(log, "peak_states"), Some(18));
        assert_eq!(number(log, "mark_read"), Some(5));
        assert_eq!(number("", "processed"), None);
    }
}

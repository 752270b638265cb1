//! `egret completions SHELL`: the script with which a shell completes this command line.

use std::io::{self, Write as _};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::args::Args;

/// Prints it.
pub(super) fn run(shell: Shell) -> io::Result<()> {
    io::stdout().lock().write_all(&script(shell))
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "egret", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    #[test]
    fn every_shell_knows_every_verb() {
        for shell in super::Shell::value_variants() {
            let script = String::from_utf8(super::script(*shell)).unwrap();
            for word in ["verify-bypass", "flows", "--min-bytes"] {
                // The one of fish has options without their dashes.
                assert!(script.contains(word.trim_start_matches('-')), "{word} for {shell}");
            }
        }
    }
}

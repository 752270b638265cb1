//! `kubectl egret`: the same program under the name `kubectl-egret`, which always means a cluster.

use std::{ffi::OsStr, path::Path};

use anyhow::bail;
use clap::{CommandFactory as _, FromArgMatches as _, Parser as _};

use super::args::{Args, Command};

/// By this name kubectl finds it; some systems add an ending.
const NAME: &str = "kubectl-egret";

/// Whether this process was started as the plugin.
pub(super) fn is_plugin() -> bool {
    std::env::args_os().next().is_some_and(|program| is_name(&program))
}

fn is_name(program: &OsStr) -> bool {
    Path::new(program).file_stem().is_some_and(|name| name == NAME)
}

/// The command line of this process. Exits when it is wrong, or asks for help.
pub(super) fn parse() -> anyhow::Result<Command> {
    if !is_plugin() {
        return Ok(Args::parse().command);
    }
    let matches = of_plugin().get_matches();
    let Args { command } = Args::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    if let Some(verb) = command.of_a_machine() {
        bail!(
            "kubectl egret {verb} makes no sense: {verb} is for the machine it runs on; use `egret {verb}` there"
        );
    }
    Ok(command)
}

/// Help shows what makes sense on a cluster.
fn of_plugin() -> clap::Command {
    let mut command = Args::command().bin_name("kubectl egret");
    for verb in ["up", "exec", "enroll", "release", "verify-bypass", "agent", "gateway", "ca"] {
        command = command.mut_subcommand(verb, |found| found.hide(true));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::{is_name, of_plugin};

    #[test]
    fn the_name_decides() {
        assert!(is_name("/usr/local/bin/kubectl-egret".as_ref()) && is_name("kubectl-egret.exe".as_ref()));
        assert!(!is_name("/usr/local/bin/egret".as_ref()) && !is_name("kubectl".as_ref()));
    }

    #[test]
    fn help_shows_what_makes_sense_on_a_cluster() {
        let help = of_plugin().render_help().to_string();
        assert!(help.contains("Usage: kubectl egret") && help.contains("  status"), "{help}");
        assert!(!help.contains("  enroll") && !help.contains("  gateway"), "{help}");
    }
}

//! The `egret` binary: parses the command line, runs one verb, gives its exit status.

use std::process::ExitCode;

use egret::cli;

fn main() -> ExitCode {
    cli::main()
}

//! The `egret` binary: parses the command line, runs one verb, gives its exit status.

use std::process::ExitCode;

use egret::cli;
use mimalloc::MiMalloc;

// Records of flows live long among what lives as long as a request; glibc's allocator looks for room between them.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cli::main()
}

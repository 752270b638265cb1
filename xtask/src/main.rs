//! Egret's tasks: `cargo xtask <task>`. One file per task; this one only lists them.

mod clippy;
mod command;
mod ebpf;
mod toolchain;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Egret's tasks")]
enum Task {
    /// Find or install what the kernel programs are built with.
    Toolchain,
    /// Build the kernel programs alone and print where the object is.
    BuildEbpf,
    /// Lint everything, the kernel programs on their own target.
    Clippy,
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Toolchain => toolchain::ensure(),
        Task::BuildEbpf => ebpf::run(),
        Task::Clippy => clippy::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

#[expect(clippy::print_stderr, reason = "addressed to whoever runs the task")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

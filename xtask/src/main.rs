//! Egret's tasks: `cargo xtask <task>`. One file per task; this one only lists them.

mod bench;
mod clippy;
mod cluster;
mod command;
mod demo;
mod ebpf;
mod image;
mod instructions;
mod manifests;
mod observability;
mod packages;
mod profile;
mod soak;
mod terminal;
mod test;
mod tidy;
mod toolchain;

use std::process::ExitCode;

use clap::Parser;

/// Egret's tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Start everything on this machine and walk through the scenario with a real curl
    Demo(demo::Options),
    /// A real Kubernetes of two nodes on this machine
    #[command(subcommand)]
    Cluster(cluster::Task),
    /// Run every test that this machine can run, and say what was left out
    Test,
    /// Five minutes of 1,000 new connections a second by one workload
    Soak,
    /// What a request, a connection and a byte cost through Egret, and through its peers, on this machine
    Bench(bench::Options),
    /// Instructions per decision of the engines, in a small and in a large configuration, under valgrind
    Instructions,
    /// Count which code runs under load, for releases to be optimised by
    Profile,
    /// Find or install what the kernel programs are built with
    Toolchain,
    /// Build the kernel programs alone and print where the object is
    BuildEbpf,
    /// Write the container image as an archive, without any container engine
    Image(image::Options),
    /// Make the chart's definitions and the plain manifests, or check that they are current and conform
    Manifests(manifests::Options),
    /// Check and try the Prometheus rules in deploy/observability
    Observability,
    /// Lint everything, the kernel programs on their own target
    Clippy,
    /// Check the rules of this code base that no compiler knows
    Tidy,
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Demo(options) => demo::run(&options),
        Task::Cluster(task) => cluster::run(&task),
        Task::Test => test::run(),
        Task::Soak => soak::run(),
        Task::Bench(options) => bench::run(&options),
        Task::Instructions => instructions::run(),
        Task::Profile => profile::run(),
        Task::Toolchain => toolchain::ensure(),
        Task::BuildEbpf => ebpf::run(),
        Task::Image(options) => image::run(&options),
        Task::Manifests(options) => manifests::run(&options),
        Task::Observability => observability::run(&mut terminal::Terminal::new()),
        Task::Clippy => clippy::run(),
        Task::Tidy => tidy::run(),
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

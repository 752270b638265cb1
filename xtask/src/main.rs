//! Egret's tasks. `cargo xtask help` lists them.

mod demo;
mod toolchain;

use clap::Parser;

/// Egret's tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Start everything on this machine and walk through the scenario with a real curl
    Demo(demo::Options),
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Demo(options) => demo::run(&options),
    }
}

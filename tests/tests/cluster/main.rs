//! Tests on a real Kubernetes of two nodes. One cluster for all of them, which is started by the first and removed at the end.
//!
//! Need root, and what `cargo xtask cluster tools` builds. Run by `cargo xtask cluster test`; they are left out of a plain
//! `cargo test`, because they take programs that cargo does not build.

mod cli;
mod configuration;
mod itself;

use std::path::{Path, PathBuf};

use anyhow::Result;
use egret_tests::{
    cluster::{Cluster, Options, tools},
    privileges,
};

/// A cluster of these tests; none where the machine does not allow it, and that is allowed.
fn cluster(name: &str) -> Result<Option<Cluster>> {
    if !privileges::kernel_or_skip("the cluster") {
        return Ok(None);
    }
    let tools = match tools::Tools::built() {
        Ok(tools) => tools,
        Err(error) => {
            privileges::skip("the cluster", format!("{error:#}"));
            return Ok(None);
        }
    };
    let options = Options { name: name.to_owned(), tools, files: tools::files() };
    Cluster::start(&options, &mut |_| Ok(())).map(Some)
}

/// The external service.
fn external_binary() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_egret-external")).to_owned()
}

//! Tests of the harness itself, without the product: the proofs the end-to-end tests rest on must be able to fail.
//!
//! Need root (network namespaces, packet capture).

mod bpf;
mod capture;
mod external;
mod process;

use std::path::{Path, PathBuf};

use anyhow::Result;
use egret_tests::{external::External, netns::Namespace, privileges};
use tempfile::TempDir;

/// The external service in its namespace; the directory goes last.
struct Outside {
    external: External,
    _directory: TempDir,
}

/// Nothing where the machine does not allow it, and that is allowed.
fn outside() -> Result<Option<Outside>> {
    if !privileges::kernel_or_skip("the harness") {
        return Ok(None);
    }
    let directory = TempDir::with_prefix("egret-harness")?;
    let namespace = Namespace::create("egt", &locks())?;
    let external = External::start(&service_binary(), namespace, &directory.path().join("pki"))?;
    Ok(Some(Outside { external, _directory: directory }))
}

/// Where test runs agree on who uses which range.
fn locks() -> PathBuf {
    Path::new("/run/lock").join("egret-tests")
}

fn service_binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_egret-external"))
}

//! `cargo xtask build-ebpf`: the kernel programs alone, for packagers, who pass the object on in `EGRET_EBPF_OBJECT`. The
//! building itself is `agent/build.rs`.

use std::{io::BufRead as _, path::Path, process::Stdio};

use anyhow::{Context as _, bail};

use crate::{command, toolchain};

pub(crate) fn run() -> anyhow::Result<()> {
    toolchain::ensure()?;
    let mut cargo = command::cargo();
    cargo.args(["check", "--package", "egret", "--lib", "--message-format=json"]).stdout(Stdio::piped());
    let mut child = cargo.spawn().context("cannot run cargo")?;
    let stdout = child.stdout.take().context("no output of cargo")?;
    let mut object = None;
    for line in std::io::BufReader::new(stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(&line?).unwrap_or_default();
        let ours =
            message["package_id"].as_str().is_some_and(|id| id.contains("egret@") || id.contains("/agent#"));
        if message["reason"] == "build-script-executed" && ours {
            object = message["out_dir"].as_str().map(|directory| Path::new(directory).join("egret-ebpf"));
        }
        if let Some(error) = message["message"]["rendered"].as_str() {
            report(error);
        }
    }
    if !child.wait()?.success() {
        bail!("the kernel programs were not built; cargo's messages are above");
    }
    let object = object.context("cargo did not run agent/build.rs")?;
    report(&format!("{}\n", object.display()));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the task's result")]
fn report(text: &str) {
    print!("{text}");
}

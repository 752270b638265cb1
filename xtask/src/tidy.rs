//! `cargo xtask tidy`: the rules of this code base that no compiler knows. Run by `cargo xtask test`.

mod pitfalls;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::command;

/// Longest Rust file, tests included: past it there is a seam to split at.
const MAX_LINES: usize = 600;

/// A crate that may be named only below certain paths.
struct Layer {
    name: &'static str,
    /// What naming it looks like in source.
    marks: &'static [&'static str],
    /// Files that may.
    allowed: &'static [&'static str],
    /// Files the rule is about.
    within: &'static [&'static str],
}

const PURE: &[&str] = &[
    "agent/src/mesh",
    "agent/src/route",
    "agent/src/authz",
    "agent/src/balance",
    "agent/src/synthetic",
    "agent/src/explain",
    "agent/src/reason.rs",
];

const LAYERS: [Layer; 3] = [
    Layer {
        name: "aya belongs to datapath",
        marks: &["aya::"],
        allowed: &["agent/src/datapath"],
        within: &["agent/src"],
    },
    Layer {
        name: "the cryptography crate belongs to tls::provider",
        marks: &["aws_lc_rs::"],
        allowed: &["agent/src/tls/provider.rs"],
        within: &["agent/src"],
    },
    Layer {
        name: "the engines are pure",
        marks: &[
            "tokio::",
            "hyper::",
            "hyper_util::",
            "kube::",
            "aya::",
            "std::fs",
            "std::time::Instant",
            "SystemTime",
        ],
        allowed: &[],
        within: PURE,
    },
];

/// Checks every rule, reports every breach.
pub(crate) fn run() -> anyhow::Result<()> {
    let root = command::workspace().canonicalize()?;
    let (mut breaches, mut sources) = (Vec::new(), Vec::new());
    for file in tracked(&root)? {
        let name = file.to_string_lossy().into_owned();
        if file.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(root.join(&file)).with_context(|| name.clone())?;
            check_source(&name, &text, &mut breaches);
            sources.push(text);
        } else if name.ends_with("/Cargo.toml") {
            let text = fs::read_to_string(root.join(&file)).with_context(|| name.clone())?;
            if !text.contains("[lints]\nworkspace = true") {
                breaches.push(format!(
                    "{name}: does not inherit the workspace's lints; add `[lints] workspace = true`"
                ));
            }
        }
    }
    let table = fs::read_to_string(root.join(pitfalls::FILE)).context(pitfalls::FILE)?;
    pitfalls::check(&table, &sources, &mut breaches);
    if breaches.is_empty() {
        return Ok(());
    }
    bail!("{} breaches of the rules:\n{}", breaches.len(), breaches.join("\n"))
}

fn check_source(name: &str, text: &str, breaches: &mut Vec<String>) {
    if !text.starts_with("//!") {
        breaches
            .push(format!("{name}:1: does not open with //!: what it is, who calls it, what it does not do"));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        breaches.push(format!("{name}: {lines} lines, more than {MAX_LINES}; split it"));
    }
    if name.ends_with("/mod.rs") {
        breaches.push(format!("{name}: modules are self-named here (foo.rs beside foo/)"));
    }
    for layer in LAYERS.iter().filter(|layer| below(name, layer.within) && !below(name, layer.allowed)) {
        for (index, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if layer.marks.iter().any(|mark| code.contains(mark)) {
                breaches.push(format!("{name}:{}: {}: {}", index + 1, layer.name, line.trim()));
            }
        }
    }
}

/// Whether a file is one of `paths`, or below one of them, or the module file beside it.
fn below(name: &str, paths: &[&str]) -> bool {
    paths.iter().any(|path| {
        name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest == ".rs")
    })
}

/// The files git knows.
fn tracked(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = std::process::Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("git ls-files")?;
    if !output.status.success() {
        bail!("git ls-files failed: tidy needs a git checkout");
    }
    let names = String::from_utf8(output.stdout)?;
    Ok(names
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|file| root.join(file).exists())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::check_source;

    fn breaches(name: &str, text: &str) -> usize {
        let mut found = Vec::new();
        check_source(name, text, &mut found);
        found.len()
    }

    #[test]
    fn finds_each_kind_of_breach() {
        assert_eq!(breaches("agent/src/route/http.rs", "//! Routes.\nuse http::Method;\n"), 0);
        assert_eq!(breaches("agent/src/route/http.rs", "//! Routes.\nuse tokio::net::TcpStream;\n"), 1);
        assert_eq!(breaches("agent/src/route.rs", "//! Routes.\nuse tokio::net::TcpStream;\n"), 1);
        assert_eq!(breaches("agent/src/router.rs", "//! Not an engine.\nuse tokio::net::TcpStream;\n"), 0);
        assert_eq!(breaches("agent/src/node/x.rs", "//! X.\nuse aya::Ebpf;\n"), 1);
        assert_eq!(breaches("agent/src/datapath/x.rs", "//! X.\nuse aya::Ebpf;\n"), 0);
        assert_eq!(breaches("agent/src/node/x.rs", "use std::io;\n"), 1);
        assert_eq!(breaches("agent/src/node/x.rs", &"//! X.\n".repeat(601)), 1);
    }
}

//! `cargo xtask toolchain`: finds or installs what `agent/build.rs` needs to build the kernel programs, a compiler with
//! library sources and bpf-linker. The other tasks call [`ensure`] first. It does nothing when all is there.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, bail};

use crate::command;

/// Debian's packages, each with a file by which it is known to be there.
const PACKAGES: [(&str, &str); 4] = [
    ("rustc-web", "/usr/bin/rustc"),
    ("cargo-web", "/usr/bin/cargo"),
    ("rust-web-src", "/usr/lib/rustlib/src/rust/library/core"),
    ("llvm-22-dev", "/usr/lib/llvm-22/bin/llvm-config"),
];
/// The linter for the same compiler; wanted, not needed.
const CLIPPY: (&str, &str) = ("rust-web-clippy", "/usr/bin/clippy-driver");
/// Where they put it.
pub(crate) const LLVM: &str = "/usr/lib/llvm-22";
/// The linker reads the output of compilers with this LLVM and older ones.
const LINKER_LLVM: u32 = 22;
const LINKER: &str = "bpf-linker";
const LINKER_VERSION: &str = "0.13.0";

/// Makes sure that the kernel programs can be built. Needs root and apt only for what is missing.
pub(crate) fn ensure() -> anyhow::Result<()> {
    if env::var_os("EGRET_EBPF_OBJECT").is_some() {
        return Ok(());
    }
    let compiler = nightly_fits() || PACKAGES[..3].iter().all(|(_, file)| Path::new(file).exists());
    if compiler && linker().is_some() {
        return Ok(());
    }
    let steps = Steps { began: Instant::now() };
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(package, _)| *package).collect();
    if !missing.is_empty() {
        install(&missing, &steps)?;
    }
    if linker().is_none() {
        build_linker(&steps)?;
    }
    steps.say("the kernel programs can be built");
    Ok(())
}

/// Installs packages, or says in one line who has to.
fn install(missing: &[&str], steps: &Steps) -> anyhow::Result<()> {
    let by_hand = format!(
        "run `apt-get update && apt-get install {}` as root, or name a ready object in EGRET_EBPF_OBJECT",
        missing.join(" ")
    );
    if !nix::unistd::geteuid().is_root() {
        bail!("missing Debian packages, and not root: {by_hand}");
    }
    if !in_path("apt-get") {
        bail!(
            "no apt-get here: install rustup's nightly with rust-src and bpf-linker, or name a ready object in EGRET_EBPF_OBJECT"
        );
    }
    steps.say("apt-get update");
    command::run_quietly(apt().arg("update")).with_context(|| by_hand.clone())?;
    // The linter comes along where a package of it exists; builds do without.
    let mut packages = missing.to_vec();
    if !Path::new(CLIPPY.1).exists() && known(CLIPPY.0) {
        packages.push(CLIPPY.0);
    }
    steps.say(&format!("apt-get install {}", packages.join(" ")));
    command::run_quietly(apt().args(["install", "--yes", "--no-install-recommends"]).args(&packages))
        .context(by_hand)
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
    apt
}

/// Whether apt knows a package.
fn known(package: &str) -> bool {
    command::run_quietly(Command::new("apt-cache").args(["show", package])).is_ok()
}

/// Builds bpf-linker into `target/tools`, against the LLVM that the compiler's output asks for.
fn build_linker(steps: &Steps) -> anyhow::Result<()> {
    let llvm = Path::new(LLVM);
    if !llvm.exists() {
        bail!("no LLVM 22 in {LLVM}: run `apt-get install llvm-22-dev` as root");
    }
    steps.say(&format!("cargo install {LINKER} {LINKER_VERSION} (about a minute)"));
    let mut cargo = command::cargo();
    cargo
        .args(["install", LINKER, "--version", LINKER_VERSION, "--locked"])
        .args(["--no-default-features", "--features", "llvm-22", "--root", "target/tools"])
        .env("LLVM_PREFIX", LLVM);
    command::run_quietly(&mut cargo)
        .with_context(|| format!("{LINKER} was not built; put one that is built against LLVM 22 into PATH"))
}

/// bpf-linker in PATH, or built by us.
fn linker() -> Option<PathBuf> {
    let own = command::workspace().join("target/tools/bin").join(LINKER);
    directories().map(|directory| directory.join(LINKER)).chain([own]).find(|path| path.is_file())
}

/// Whether rustup's nightly would do: library sources (looked for as files: asking rustup costs a tenth of a second), and an
/// LLVM whose output the linker can read. `agent/build.rs` asks the same.
fn nightly_fits() -> bool {
    let home = env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(|| {
        let home = env::var_os("HOME")?;
        Some(Path::new(&home).join(".rustup"))
    });
    let Some(entries) = home.and_then(|home| home.join("toolchains").read_dir().ok()) else { return false };
    entries.flatten().any(|entry| {
        entry.file_name().to_string_lossy().starts_with("nightly-")
            && entry.path().join("lib/rustlib/src/rust/library/core").exists()
            && llvm_major(&entry.path().join("bin/rustc")).is_some_and(|major| major <= LINKER_LLVM)
    })
}

/// The LLVM of a compiler.
fn llvm_major(rustc: &Path) -> Option<u32> {
    let output = Command::new(rustc).arg("-vV").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.parse().ok()
}

fn in_path(program: &str) -> bool {
    directories().any(|directory| directory.join(program).is_file())
}

fn directories() -> impl Iterator<Item = PathBuf> {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>().into_iter()
}

/// Progress: a line per step, with the time since the start.
struct Steps {
    began: Instant,
}

impl Steps {
    #[expect(clippy::print_stderr, reason = "progress of the task")]
    fn say(&self, step: &str) {
        eprintln!("[{:>5.1}s] {step}", self.began.elapsed().as_secs_f32());
    }
}

//! Builds the kernel programs (`agent-ebpf`) from source, so that `agent::datapath` can embed them.
//!
//! Run by cargo. It chooses, in this order:
//! 1. the object that `EGRET_EBPF_OBJECT` names: for packagers, who build it once;
//! 2. rustup's nightly, where it has the library sources and its LLVM is not newer than the linker's;
//! 3. the distribution's compiler with its library sources.
//!
//! It installs nothing: where all three are missing it says in one line what to run.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const OBJECT: &str = "EGRET_EBPF_OBJECT";
const LINKER: &str = "bpf-linker";
/// LLVM that `cargo xtask toolchain` builds the linker against; a linker reads the output of this version and older.
const LINKER_LLVM: u32 = 22;

type Result<T, E = String> = std::result::Result<T, E>;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OBJECT}");
    println!("cargo::rerun-if-changed=../agent-ebpf");
    println!("cargo::rerun-if-changed=../agent-common");
    if let Err(why) = embed() {
        println!("cargo::error={why}");
        std::process::exit(1);
    }
}

fn embed() -> Result<()> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let object = match env::var_os(OBJECT) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", Path::new(&path).display());
            PathBuf::from(path)
        }
        None => build(&out)?,
    };
    let embedded = out.join("egret-ebpf");
    fs::copy(&object, embedded)
        .map(drop)
        .map_err(|error| format!("the kernel programs' object {} cannot be read: {error}", object.display()))
}

/// Compiles the programs and returns the path of the object.
fn build(out: &Path) -> Result<PathBuf> {
    let workspace = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    let linker = linker(&workspace)?;
    println!("cargo::rerun-if-changed={}", linker.display());
    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };

    // One directory for all profiles of this build (OUT_DIR is <target>/<profile>/build/<package>/out), never the one
    // that the calling cargo has locked.
    let target_dir = out.ancestors().nth(4).unwrap_or(out).join("ebpf");
    let mut command = compiler()?;
    command
        .current_dir(&workspace)
        .args(["build", "--quiet", "--package", "agent-ebpf", "--release", "-Z", "build-std=core"])
        .args(["--target", target, "--target-dir"])
        .arg(&target_dir)
        // The programs' maps are described by BTF, which the linker makes from debug information.
        .env("CARGO_ENCODED_RUSTFLAGS", "-Cdebuginfo=2\x1f-Clink-arg=--btf")
        .env(format!("CARGO_TARGET_{}_LINKER", target.replace('-', "_").to_uppercase()), &linker)
        // The linker optimises the whole program itself.
        .env("CARGO_PROFILE_RELEASE_LTO", "off");
    let output = command
        .output()
        .map_err(|error| format!("{} cannot be run: {error}", display(command.get_program())))?;
    if !output.status.success() {
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            println!("cargo::warning={line}");
        }
        return Err(
            "the kernel programs (agent-ebpf) do not compile; the compiler's messages are above".into()
        );
    }
    Ok(target_dir.join(target).join("release/egret-ebpf"))
}

/// The linker in PATH, else the one that `cargo xtask toolchain` built.
fn linker(workspace: &Path) -> Result<PathBuf> {
    let own = workspace.join("target/tools/bin");
    env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .chain([own])
        .map(|directory| directory.join(LINKER))
        .find(|path| path.is_file())
        .ok_or_else(|| missing("bpf-linker is not installed"))
}

/// The cargo that can compile for the BPF target, with the environment it needs.
fn compiler() -> Result<Command> {
    let command = if nightly_fits() {
        let mut command = clean("rustup");
        command.args(["run", "nightly", "cargo"]);
        command
    } else if Path::new("/usr/bin/cargo").exists() && has_library_sources(&mut clean("/usr/bin/rustc")) {
        let mut command = clean("/usr/bin/cargo");
        // Building the library from source is a nightly feature; a release compiler allows it for its own version.
        command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
        command
    } else {
        return Err(missing("no compiler with library sources (rustup nightly + rust-src, or Debian's)"));
    };
    Ok(command)
}

/// Whether rustup's nightly has the library sources and an LLVM whose output the linker can read.
fn nightly_fits() -> bool {
    let nightly = || {
        let mut command = clean("rustup");
        command.args(["run", "nightly", "rustc"]);
        command
    };
    has_library_sources(&mut nightly())
        && stdout(nightly().arg("-vV"))
            .and_then(|text| llvm_major(&text))
            .is_some_and(|major| major <= LINKER_LLVM)
}

/// The number in `LLVM version: 22.1.8` of `rustc -vV`.
fn llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

fn has_library_sources(rustc: &mut Command) -> bool {
    stdout(rustc.args(["--print", "sysroot"]))
        .is_some_and(|root| Path::new(root.trim()).join("lib/rustlib/src/rust/library/core").exists())
}

fn stdout(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// A command without what the calling cargo set for *this* build: its compiler, wrappers, flags and package.
fn clean(program: &str) -> Command {
    const NAMES: [&str; 8] = [
        "CARGO",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ];
    const PREFIXES: [&str; 6] =
        ["CARGO_BUILD_", "CARGO_CFG_", "CARGO_FEATURE_", "CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_PROFILE_"];
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if NAMES.contains(&text.as_ref()) || PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

fn missing(what: &str) -> String {
    format!("{what}: run `cargo xtask toolchain`, or name a ready object in {OBJECT}")
}

fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

fn display(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

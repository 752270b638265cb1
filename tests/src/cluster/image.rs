//! Container images made of files of this machine: no engine, no registry. Pods name them with `imagePullPolicy: Never`.
//!
//! An image is one archive in docker's format (what `docker save` writes, and containerd imports) with one layer.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{hex, process};

/// What holds a pod's namespaces.
pub const PAUSE: &str = "docker.io/library/egret-pause:1";
/// A shell and the usual small programs.
pub const BUSYBOX: &str = "docker.io/library/busybox:latest";
/// The same with a real curl: the scenario's client.
pub const SLEEP: &str = "docker.io/library/sleep:test";
/// The cluster's DNS server.
pub const COREDNS: &str = "docker.io/library/coredns:test";

/// Waits for nothing, and reaps what pods that share their processes leave behind.
const PAUSE_SCRIPT: &str = "trap 'exit 0' TERM INT; while :; do sleep 86400 & wait; done";

/// What a container of an image runs, and how.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `CMD`.
    pub command: Vec<String>,
    /// `USER`.
    pub user: String,
}

/// The files of an image's layer while they are put together.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Default for Layer {
    fn default() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
}

impl Layer {
    /// Adds a directory.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        Ok(self.0.append_data(&mut header, path, &[][..])?)
    }

    /// Adds a file with these contents.
    pub fn contents(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<()> {
        let mut header = header(tar::EntryType::Regular, mode, contents.len() as u64);
        Ok(self.0.append_data(&mut header, path, contents)?)
    }

    /// Adds a file of this machine, with its permissions.
    pub fn file(&mut self, path: &str, source: &Path) -> Result<()> {
        let contents = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        let mode = fs::metadata(source)?.permissions().mode() & 0o777;
        self.contents(path, mode, &contents)
    }

    /// Adds a program of this machine with the shared libraries that it needs.
    pub fn program(&mut self, path: &str, source: &Path) -> Result<()> {
        self.file(path, source)?;
        for library in libraries(&process::run("ldd", &[&source.to_string_lossy()])?) {
            self.file(library.trim_start_matches('/'), Path::new(library))?;
        }
        Ok(())
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        Ok(self.0.append_link(&mut header, path, target)?)
    }

    /// Writes the image `name` (with its registry and tag, as in [`BUSYBOX`]) as an archive.
    pub fn write(self, name: &str, settings: &Settings, archive: &Path) -> Result<()> {
        let layer = self.0.into_inner()?;
        let digest = hex::encode(&Sha256::digest(&layer));
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": settings.entrypoint,
                "Cmd": settings.command,
                "User": settings.user,
                "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        });
        let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
        let mut image = Self::default();
        image.contents("config.json", 0o644, config.to_string().as_bytes())?;
        image.contents("layer.tar", 0o644, &layer)?;
        image.contents("manifest.json", 0o644, manifest.to_string().as_bytes())?;
        // By rename: whoever finds an archive finds a whole one.
        let new = archive.with_extension("new");
        fs::write(&new, image.0.into_inner()?)
            .and_then(|()| fs::rename(&new, archive))
            .with_context(|| format!("cannot write {}", archive.display()))
    }
}

/// Writes the images that every cluster has into `directory`; their archives.
pub(super) fn write_all(directory: &Path, coredns: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let place = |name: &str| directory.join(format!("{name}.tar"));
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let command = |list: &[&str]| Settings { command: words(list), ..Settings::default() };

    let pause = Settings { entrypoint: words(&["/bin/sh", "-c", PAUSE_SCRIPT]), ..Settings::default() };
    busybox()?.write(PAUSE, &pause, &place("pause"))?;
    busybox()?.write(BUSYBOX, &command(&["sh"]), &place("busybox"))?;

    let mut sleep = busybox()?;
    sleep.program("usr/bin/curl", &which("curl")?)?;
    sleep.write(SLEEP, &command(&["sleep", "infinity"]), &place("sleep"))?;

    let archive = place("coredns");
    if !newer(&archive, coredns) {
        let mut layer = Layer::default();
        layer.file("coredns", coredns)?;
        let settings = Settings { entrypoint: words(&["/coredns"]), ..Settings::default() };
        layer.write(COREDNS, &settings, &archive)?;
    }
    Ok(["pause", "busybox", "sleep", "coredns"].map(place).to_vec())
}

/// A root directory with busybox for everything.
fn busybox() -> Result<Layer> {
    let binary = which("busybox")?;
    let mut layer = Layer::default();
    for directory in ["bin/", "etc/", "home/", "root/", "usr/bin/", "usr/lib/", "var/"] {
        layer.directory(directory, 0o755)?;
    }
    layer.directory("tmp/", 0o1777)?;
    layer.file("bin/busybox", &binary)?;
    for applet in process::run(&binary.to_string_lossy(), &["--list"])?.lines() {
        if applet != "busybox" {
            layer.link(&format!("bin/{applet}"), "busybox")?;
        }
    }
    layer.contents(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    )?;
    layer.contents("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    layer.contents("etc/nsswitch.conf", 0o644, b"hosts: files dns\n")?;
    Ok(layer)
}

/// The files that `ldd` names.
fn libraries(listing: &str) -> Vec<&str> {
    let files = listing.lines().filter_map(|line| line.split(" => ").last()?.trim().split(' ').next());
    files.filter(|path| path.starts_with('/')).collect()
}

/// Where a program is.
fn which(program: &str) -> Result<PathBuf> {
    let places = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];
    let found = places.iter().map(|place| Path::new(place).join(program)).find(|path| path.is_file());
    found.with_context(|| format!("no {program} on this machine: install it first"))
}

/// Whether a file is newer than another one.
fn newer(file: &Path, than: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    matches!((modified(file), modified(than)), (Ok(file), Ok(than)) if file > than)
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}

/// The architecture, as images call it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_a_listing() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffc)\n\
            \tlibcurl.so.4 => /lib/x86_64-linux-gnu/libcurl.so.4 (0x00007f0a)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f0b)\n";
        let expected = ["/lib/x86_64-linux-gnu/libcurl.so.4", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(listing), expected);
    }

    #[test]
    fn an_archive_has_what_containerd_looks_for() {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("x.tar");
        let mut layer = Layer::default();
        layer.contents("hello", 0o600, b"world").unwrap();
        layer.write("docker.io/library/x:1", &Settings::default(), &archive).unwrap();
        let listed = process::run("tar", &["-tf", &archive.to_string_lossy()]).unwrap();
        assert_eq!(listed, "config.json\nlayer.tar\nmanifest.json\n");
        let manifest = process::run("tar", &["-xOf", &archive.to_string_lossy(), "manifest.json"]).unwrap();
        assert!(manifest.contains(r#""RepoTags":["docker.io/library/x:1"]"#), "{manifest}");
    }
}

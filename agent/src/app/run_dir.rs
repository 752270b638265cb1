//! The run directory: where one Egret instance on a machine keeps its sockets, pids and state. Every role and the CLI find
//! each other through it.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

/// The default directory.
pub const DEFAULT: &str = "/run/egret";

/// A run directory. The paths in it are part of what operators may rely on.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// The directory at `path`, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Makes it, for root's eyes only: its sockets enrol workloads and sign certificates.
    pub fn create(&self) -> io::Result<()> {
        for directory in [self.path.clone(), self.workloads(), self.namespaces()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o700))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A name for this instance that is safe in paths: cgroups and bpffs pins are kept under it. No two directories have the
    /// same: one instance would take the other's workloads for its own.
    pub fn instance(&self) -> String {
        let text = self.path.to_string_lossy();
        let mut name = String::new();
        for byte in text.trim_matches('/').bytes() {
            match byte {
                b'/' => name.push('-'),
                byte if byte.is_ascii_alphanumeric() => name.push(byte.into()),
                byte => name.extend(["_".to_owned(), format!("{byte:02x}")]),
            }
        }
        // 255 is the longest file name; the end is what tells instances apart.
        name[name.len().saturating_sub(200)..].to_owned()
    }

    /// The admin socket of a role.
    pub fn socket(&self, role: &str) -> PathBuf {
        self.path.join(format!("{role}.sock"))
    }

    /// The admin socket of the agent that is this pod: of two that share the directory, each has one, from its first moment on.
    /// [`Self::socket`] of the agent is that of the one that acts.
    pub fn socket_of_pod(&self, uid: &str) -> PathBuf {
        self.socket(&format!("agent-{uid}"))
    }

    /// The admin socket of the agent that is meant by who asks: in an agent's pod that pod's, else the one that acts.
    pub fn agent_socket(&self) -> PathBuf {
        std::env::var("POD_UID").map_or_else(|_| self.socket("agent"), |uid| self.socket_of_pod(&uid))
    }

    /// Removes admin sockets of pods that nobody serves any more: they were killed.
    pub fn forget_killed_pods(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let of_pod = name.starts_with("agent-") && name.ends_with(".sock");
            let refused = |e: &io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
            if of_pod && UnixStream::connect(&path).is_err_and(|e| refused(&e)) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// The socket on which the CA issues certificates.
    pub fn issuer_socket(&self) -> PathBuf {
        self.path.join("issuer.sock")
    }

    /// The pid file of a role.
    pub fn pid_file(&self, role: &str) -> PathBuf {
        self.path.join(format!("{role}.pid"))
    }

    /// Root key and certificate of the built-in CA.
    pub fn authority(&self) -> PathBuf {
        self.path.join("ca")
    }

    /// One file per enrolled workload, for an agent that starts again.
    pub fn workloads(&self) -> PathBuf {
        self.path.join("workloads")
    }

    /// Network namespaces made for workloads.
    pub fn namespaces(&self) -> PathBuf {
        self.path.join("netns")
    }

    /// Which host has which synthetic address.
    pub fn synthetic(&self) -> PathBuf {
        self.path.join("synthetic.json")
    }

    /// The gateway's access log.
    pub fn access_log(&self) -> PathBuf {
        self.path.join("gateway-access.log")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::RunDir;

    #[test]
    fn only_sockets_that_nobody_serves_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(directory.path());
        drop(UnixListener::bind(run_dir.socket_of_pod("killed")).unwrap());
        drop(UnixListener::bind(run_dir.socket("agent")).unwrap());
        let _served = UnixListener::bind(run_dir.socket_of_pod("alive")).unwrap();
        run_dir.forget_killed_pods().unwrap();
        assert!(!run_dir.socket_of_pod("killed").exists());
        assert!(run_dir.socket_of_pod("alive").exists() && run_dir.socket("agent").exists());
    }

    #[test]
    fn instances_are_told_apart_by_directory() {
        assert_eq!(RunDir::new("/run/egret").instance(), "run-egret");
        let names = ["/run/egret/qa", "/run/egret-qa", "/run/egret_2dqa", "/run/egret.qa", "/run/\u{e9}"];
        let names = names.map(|path| RunDir::new(path).instance());
        assert!(names.iter().enumerate().all(|(i, name)| !names[..i].contains(name)), "{names:?}");
        // bpffs refuses names with a dot.
        assert!(
            names
                .iter()
                .flat_map(|name| name.bytes())
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        );
    }
}

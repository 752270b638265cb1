//! What is in the image: the program, who its users are, the CA roots, and an empty directory for temporary files.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result};

/// Where this machine keeps its CA roots, and where `rustls-native-certs` looks for them in the image.
const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The user of every role but the agent, also named in the image's configuration.
pub(super) const USER: u32 = 65_532;

/// Something in the image, owned by root.
pub(super) enum File {
    /// A directory.
    Directory {
        /// Below the root.
        path: &'static str,
        /// Permissions.
        mode: u32,
    },
    /// A file.
    Regular {
        /// Below the root.
        path: &'static str,
        /// Permissions.
        mode: u32,
        /// Bytes.
        content: Vec<u8>,
    },
}

/// All of it, parents first.
pub(super) fn files(program: Vec<u8>) -> Result<Vec<File>> {
    let roots = fs::read(Path::new(ROOTS)).with_context(|| {
        format!("{ROOTS} (the CA roots by which the gateway verifies servers): install ca-certificates")
    })?;
    let directory = |path, mode| File::Directory { path, mode };
    let regular = |path, mode, content| File::Regular { path, mode, content };
    let passwd =
        format!("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:{USER}:{USER}:nonroot:/:/sbin/nologin\n");
    let group = format!("root:x:0:\nnonroot:x:{USER}:\n");
    Ok(vec![
        regular("egret", 0o755, program),
        directory("etc/", 0o755),
        regular("etc/group", 0o644, group.into_bytes()),
        regular("etc/passwd", 0o644, passwd.into_bytes()),
        directory("etc/ssl/", 0o755),
        directory("etc/ssl/certs/", 0o755),
        regular("etc/ssl/certs/ca-certificates.crt", 0o644, roots),
        directory("tmp/", 0o1777),
    ])
}

/// Puts them below `root`.
pub(super) fn unpack(files: &[File], root: &Path) -> Result<()> {
    fs::create_dir_all(root)?;
    for file in files {
        let (path, mode) = match file {
            File::Directory { path, mode } => {
                fs::create_dir_all(root.join(path))?;
                (path, mode)
            }
            File::Regular { path, mode, content } => {
                fs::write(root.join(path), content).with_context(|| root.join(path).display().to_string())?;
                (path, mode)
            }
        };
        // Whatever the umask is.
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(*mode))?;
    }
    Ok(())
}

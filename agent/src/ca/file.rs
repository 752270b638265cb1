//! The authority of one machine, kept in one file, so that a CA that was killed stays trusted when it is back.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{Authority, Error, Keys};

/// Key and certificate in one file: there is no moment at which one exists without the other.
const FILE: &str = "root.pem";

impl Authority {
    /// The authority kept in `directory`, made if there is none. The file is `root.pem`, mode 0600, the directory 0700.
    pub fn load_or_create(directory: &Path, trust_domain: &str) -> Result<Self, Error> {
        let path = directory.join(FILE);
        match fs::read_to_string(&path) {
            Ok(pem) => return Self::load(&path, &pem, trust_domain),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(Error::new(format!("{} cannot be read: {e}", path.display()))),
        }
        let keys = Self::generate(trust_domain)?.keys();
        store(directory, &path, &format!("{}{}", keys.key, keys.certificates))?;
        // Another process may have been faster; what is in the file counts.
        let pem = fs::read_to_string(&path)
            .map_err(|e| Error::new(format!("{} cannot be read: {e}", path.display())))?;
        Self::load(&path, &pem, trust_domain)
    }

    fn load(path: &Path, pem: &str, trust_domain: &str) -> Result<Self, Error> {
        let metadata = fs::metadata(path);
        let path = path.display();
        let mode =
            metadata.map_err(|e| Error::new(format!("{path} cannot be read: {e}")))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Error::new(format!(
                "{path} has mode {:o}, so others can read the CA's key: set it to 600, or remove the file if the \
                 key may have leaked, and a new root is made",
                mode & 0o777
            )));
        }
        let keys = Keys { certificates: pem.to_owned(), key: pem.to_owned(), roots: None };
        Self::of_keys(&keys, trust_domain).map_err(|why| {
            Error::new(format!(
                "{path} is unusable: {why}. Restore it, or remove it to make a new root (every workload then gets a new \
                 certificate)"
            ))
        })
    }
}

/// Writes the file so that it is there as a whole or not at all, and never over one that is there.
fn store(directory: &Path, path: &Path, pem: &str) -> Result<(), Error> {
    let fail =
        |what: &Path, e: std::io::Error| Error::new(format!("{} cannot be written: {e}", what.display()));
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|e| fail(directory, e))?;
    let temporary: PathBuf = directory.join(format!(".{FILE}.{}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let result = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()?;
        match fs::hard_link(&temporary, path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    })();
    let _ = fs::remove_file(&temporary);
    result.map_err(|e| fail(path, e))
}

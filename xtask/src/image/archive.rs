//! Files → one archive that is an OCI layout (`index.json`) and a docker-archive (`manifest.json`) at once, both over the same
//! blobs. Pure.

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::contents::{File, USER};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The same for every build, so that equal contents are equal images.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// What the image says about itself.
pub(super) struct Description<'a> {
    /// Egret's version, and the image's tag.
    pub(super) version: &'a str,
    /// As Go and OCI name it.
    pub(super) architecture: &'a str,
}

struct Blob {
    digest: String,
    content: Vec<u8>,
}

impl Blob {
    fn new(content: Vec<u8>) -> Self {
        let digest = digest(&content);
        Self { digest, content }
    }

    fn json(value: &Value) -> Self {
        // serde_json keeps keys sorted, so that the same value is the same bytes.
        Self::new(value.to_string().into_bytes())
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.content.len()})
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }
}

/// SHA-256 in hexadecimal.
fn digest(content: &[u8]) -> String {
    let digits =
        |byte: u8| [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]));
    Sha256::digest(content).into_iter().flat_map(digits).collect()
}

/// The archive.
pub(super) fn write(files: &[File], description: &Description<'_>) -> Result<Vec<u8>> {
    let Description { version, architecture } = description;
    let layer = Blob::new(layer(files)?);
    let labels = json!({
        "org.opencontainers.image.title": "egret",
        "org.opencontainers.image.description":
            "Kubernetes egress, secured by eBPF capture and mutual TLS, without sidecars.",
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
    });
    let config = Blob::json(&json!({
        "created": CREATED,
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Entrypoint": ["/egret"],
            "User": format!("{USER}:{USER}"),
            "WorkingDir": "/",
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)]},
        "history": [{"created": CREATED, "created_by": "cargo xtask image"}],
    }));
    let manifest = Blob::json(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(CONFIG),
        "layers": [layer.descriptor(LAYER)],
    }));
    let mut entry = manifest.descriptor(MANIFEST);
    entry["platform"] = json!({"architecture": architecture, "os": "linux"});
    entry["annotations"] = json!({
        "io.containerd.image.name": format!("docker.io/library/egret:{version}"),
        "org.opencontainers.image.ref.name": version,
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });
    let docker = json!([{
        "Config": config.path(),
        "RepoTags": [format!("egret:{version}")],
        "Layers": [layer.path()],
    }]);

    let mut builder = Builder::new(Vec::new());
    directory(&mut builder, "blobs/", 0o755)?;
    directory(&mut builder, "blobs/sha256/", 0o755)?;
    let mut blobs = [layer, config, manifest];
    blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
    for blob in &blobs {
        regular(&mut builder, &blob.path(), 0o644, &blob.content)?;
    }
    regular(&mut builder, "index.json", 0o644, index.to_string().as_bytes())?;
    regular(&mut builder, "manifest.json", 0o644, docker.to_string().as_bytes())?;
    let layout = json!({"imageLayoutVersion": "1.0.0"});
    regular(&mut builder, "oci-layout", 0o644, layout.to_string().as_bytes())?;
    Ok(builder.into_inner()?)
}

fn layer(files: &[File]) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for file in files {
        match file {
            File::Directory { path, mode } => directory(&mut builder, path, *mode)?,
            File::Regular { path, mode, content } => regular(&mut builder, path, *mode, content)?,
        }
    }
    Ok(builder.into_inner()?)
}

fn directory(builder: &mut Builder<Vec<u8>>, path: &str, mode: u32) -> Result<()> {
    Ok(builder.append_data(&mut header(EntryType::Directory, mode, 0), path, std::io::empty())?)
}

fn regular(builder: &mut Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    Ok(builder.append_data(&mut header(EntryType::Regular, mode, content.len() as u64), path, content)?)
}

/// Root's, and of no time.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _};

    use serde_json::Value;

    use super::{Description, File, write};

    fn image() -> Vec<u8> {
        let files = [
            File::Regular { path: "egret", mode: 0o755, content: b"program".to_vec() },
            File::Directory { path: "tmp/", mode: 0o1777 },
        ];
        write(&files, &Description { version: "1.2.3", architecture: "amd64" }).unwrap()
    }

    fn entries(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        });
        entries.collect()
    }

    #[test]
    fn both_ways_in_lead_to_the_same_layer_by_digests_that_are_right() {
        let files = entries(&image());
        let json = |name: &str| -> Value { serde_json::from_slice(&files[name]).unwrap() };
        let blob = |digest: &Value| {
            let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
            let content = &files[&format!("blobs/sha256/{hex}")];
            assert_eq!(super::digest(content), hex);
            content
        };
        let manifest = blob(&json("index.json")["manifests"][0]["digest"]);
        let manifest: Value = serde_json::from_slice(manifest).unwrap();
        let layer = blob(&manifest["layers"][0]["digest"]);
        assert_eq!(entries(layer)["egret"], b"program");
        let config: Value = serde_json::from_slice(blob(&manifest["config"]["digest"])).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(config["config"]["Entrypoint"][0], "/egret");
        assert_eq!(config["config"]["User"], "65532:65532");
        let docker = &json("manifest.json")[0];
        assert_eq!(&files[docker["Layers"][0].as_str().unwrap()], layer);
        assert_eq!(docker["RepoTags"][0], "egret:1.2.3");
    }

    #[test]
    fn digests_are_those_of_sha_256() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(super::digest(b""), empty);
    }

    #[test]
    fn the_same_files_are_the_same_image() {
        assert_eq!(image(), image());
    }
}

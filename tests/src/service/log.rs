//! The request log: one JSON object a line, written before the answer goes out, so that a client that has its answer
//! finds its line.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    net::SocketAddr,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use hyper::Request;
use serde_json::{Map, Value, json};

use super::tls::Client;

/// The open log.
pub(super) struct RequestLog(Mutex<File>);

impl RequestLog {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot open the request log {}", path.display()))?;
        Ok(Self(Mutex::new(file)))
    }

    /// Writes a request that has arrived.
    pub(super) fn request<B>(
        &self,
        request: &Request<B>,
        peer: SocketAddr,
        client: Option<&Client>,
        refused: bool,
    ) {
        let mut headers = Map::new();
        for (name, value) in request.headers() {
            headers.insert(name.to_string(), Value::from(String::from_utf8_lossy(value.as_bytes())));
        }
        // HTTP/2 has the host in `:authority`.
        let host = request
            .uri()
            .authority()
            .map(ToString::to_string)
            .or_else(|| headers.get("host").and_then(Value::as_str).map(str::to_owned));
        let milliseconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.write(&json!({
            "event": "request",
            "time_ms": u64::try_from(milliseconds).unwrap_or(u64::MAX),
            "peer": peer.to_string(),
            "tls": client.is_some(),
            "client": client.map(|client| client.common_name.as_str()),
            "method": request.method().as_str(),
            "host": host,
            "path": request.uri().path_and_query().map_or("/", |path| path.as_str()),
            "refused": refused,
            "headers": headers,
        }));
    }

    /// Writes one line.
    pub(super) fn write(&self, line: &Value) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One write per line: readers never see half of one. A full disk shows as a missing proof, in a test.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

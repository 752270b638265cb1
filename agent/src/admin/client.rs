//! The client half: one request per connection, for the CLI and the supervisor.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};

/// For one answer. Enrolling hundreds of workloads at once takes seconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// Before a role is asked again that is just passing to another process.
const MOVED_PAUSE: Duration = Duration::from_millis(10);

/// Why a role could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not run.
    #[error("nothing answers on {socket} (is `egret up` running, and with the same --run-dir?)")]
    Connect {
        /// The admin socket.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is somebody else's: root's, normally.
    #[error("{socket} may not be used by this user; run it with sudo")]
    Forbidden {
        /// The admin socket.
        socket: PathBuf,
    },
    /// It runs, and does not answer.
    #[error("{socket}: no answer within {DEADLINE:?}; the process behind it hangs or is stopped")]
    Timeout {
        /// The admin socket.
        socket: PathBuf,
    },
    /// The exchange broke.
    #[error("the exchange over {socket} broke")]
    Http {
        /// The admin socket.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: hyper::Error,
    },
    /// Another process has taken its role over, and is to be asked.
    #[error("another process is just taking over")]
    Moved,
    /// It refused.
    #[error("{0}")]
    Refused(String),
    /// It answered something else than expected: the versions differ.
    #[error("{socket} answered in a form this version of egret does not know")]
    Answer {
        /// The admin socket.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
}

/// GET.
pub async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, Error> {
    parse(socket, &get_raw(socket, path).await?)
}

/// GET; the answer as it comes.
pub async fn get_raw(socket: &Path, path: &str) -> Result<Bytes, Error> {
    request(socket, Method::GET, path, Bytes::new()).await
}

/// POST with a JSON body.
pub async fn post<T: DeserializeOwned>(socket: &Path, path: &str, body: &impl Serialize) -> Result<T, Error> {
    let body =
        serde_json::to_vec(body).map_err(|source| Error::Answer { socket: socket.to_owned(), source })?;
    parse(socket, &request(socket, Method::POST, path, body.into()).await?)
}

/// DELETE.
pub async fn delete<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, Error> {
    parse(socket, &request(socket, Method::DELETE, path, Bytes::new()).await?)
}

fn parse<T: DeserializeOwned>(socket: &Path, answer: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(answer).map_err(|source| Error::Answer { socket: socket.to_owned(), source })
}

async fn request(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Bytes, Error> {
    let answered = async {
        loop {
            match exchange(socket, method.clone(), path, body.clone()).await {
                // Whoever has taken over from the one that answered is about to listen here.
                Err(Error::Moved) => sleep(MOVED_PAUSE).await,
                answer => return answer,
            }
        }
    };
    timeout(DEADLINE, answered).await.unwrap_or_else(|_| Err(Error::Timeout { socket: socket.to_owned() }))
}

async fn exchange(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Bytes, Error> {
    let http = |source| Error::Http { socket: socket.to_owned(), source };
    let stream = UnixStream::connect(socket).await.map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => Error::Forbidden { socket: socket.to_owned() },
        _ => Error::Connect { socket: socket.to_owned(), source },
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|e: http::uri::InvalidUri| Error::Refused(e.to_string()))?;
    request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("egret"));
    request.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
    };
    // The connection is driven here, beside the exchange, and ends with it.
    let (status, body) = tokio::select! {
        exchanged = exchange => exchanged.map_err(http)?,
        Err(e) = connection => return Err(http(e)),
    };
    if status == StatusCode::MISDIRECTED_REQUEST {
        return Err(Error::Moved);
    }
    if !status.is_success() {
        return Err(Error::Refused(String::from_utf8_lossy(&body).into_owned()));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::{Error, get};

    #[tokio::test(start_paused = true)]
    async fn a_role_that_hangs_is_told_from_one_that_is_down() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        assert!(matches!(get::<bool>(&socket, "/ready").await, Err(Error::Connect { .. })));
        let _hangs = tokio::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(get::<bool>(&socket, "/ready").await, Err(Error::Timeout { .. })));
    }
}

//! The part of httpbin that the scenario and the tests use.
//!
//! `/status/N`, `/headers`, `/ip`, `/anything/…`, `/bytes/N` (at most 64 MiB), `/delay/N` (at most 10 seconds).

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Incoming};
use serde_json::{Map, Value, json};

/// What the service answers with.
pub type Response = hyper::Response<Full<Bytes>>;

/// httpbin's answer to `/status/418`.
pub const TEAPOT: &str = r#"
    -=[ teapot ]=-

       _...._
     .'  _ _ `.
    | ."` ^ `". _,
    \_;`"---"`|//
      |       ;/
      \_     _/
        `"""`
"#;

const MAX_BYTES: usize = 64 * 1024 * 1024;
const MAX_DELAY_SECONDS: u64 = 10;

/// Answers a request.
pub(super) async fn answer(request: Request<Incoming>, peer: SocketAddr) -> Response {
    let path = request.uri().path().to_owned();
    let mut segments = path.trim_start_matches('/').split('/');
    let endpoint = segments.next().unwrap_or_default();
    let argument = segments.next();
    match (endpoint, argument) {
        ("status", Some(code)) => status(code),
        ("headers", None) => json_response(&json!({ "headers": headers(request.headers()) })),
        ("ip", None) => json_response(&json!({ "origin": peer.ip().to_string() })),
        ("anything", _) => anything(request, peer).await,
        ("bytes", Some(n)) => match n.parse() {
            Ok(n) if n <= MAX_BYTES => response(StatusCode::OK, vec![b'x'; n]),
            _ => response(StatusCode::BAD_REQUEST, "at most 64 MiB\n"),
        },
        ("delay", Some(n)) => match n.parse() {
            Ok(n) if n <= MAX_DELAY_SECONDS => {
                tokio::time::sleep(Duration::from_secs(n)).await;
                anything(request, peer).await
            }
            _ => response(StatusCode::BAD_REQUEST, "at most 10 seconds\n"),
        },
        _ => response(StatusCode::NOT_FOUND, "no such endpoint\n"),
    }
}

fn status(code: &str) -> Response {
    match code.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()) {
        Some(StatusCode::IM_A_TEAPOT) => response(StatusCode::IM_A_TEAPOT, TEAPOT),
        Some(code) if !code.is_informational() => {
            let mut response = response(code, "");
            let html = HeaderValue::from_static("text/html; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, html);
            response
        }
        _ => response(StatusCode::BAD_REQUEST, "Invalid status code\n"),
    }
}

async fn anything(request: Request<Incoming>, peer: SocketAddr) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return response(StatusCode::BAD_REQUEST, "the body ended early\n");
    };
    let body = body.to_bytes();
    let mut sha256 = String::new();
    for byte in digest::digest(&digest::SHA256, &body).as_ref() {
        let _ = write!(sha256, "{byte:02x}");
    }
    json_response(&json!({
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map_or("/", |path| path.as_str()),
        "origin": peer.ip().to_string(),
        "headers": headers(&head.headers),
        "body": { "length": body.len(), "sha256": sha256 },
    }))
}

fn headers(map: &HeaderMap) -> Map<String, Value> {
    map.iter()
        .map(|(name, value)| (name.to_string(), Value::from(String::from_utf8_lossy(value.as_bytes()))))
        .collect()
}

fn json_response(value: &Value) -> Response {
    let mut response = response(StatusCode::OK, format!("{value:#}\n"));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer with the headers that all of them have.
pub(super) fn response(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("httpbin"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    response
}

//! The external gateway's own AuthorizationPolicy, as the tutorial's prerequisite sets it up: the client certificate
//! `test.client` must not reach `/status/418`.

use http::{StatusCode, header};

use super::{httpbin, tls::Client};
use crate::pki::CLIENT;

/// Whether a client may have the path.
pub(super) fn allows(client: &Client, path: &str) -> bool {
    client.common_name != CLIENT || path != "/status/418"
}

/// Envoy's words for a request that RBAC refuses.
pub(super) fn refusal() -> httpbin::Response {
    let mut response = httpbin::response(StatusCode::FORBIDDEN, "RBAC: access denied");
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    response
}

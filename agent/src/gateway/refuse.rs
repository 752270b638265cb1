//! How a client learns that it was refused: an HTTP answer, or a TLS alert. Everything else is reset.
//!
//! The only place that turns a [`Refusal`] into bytes for the workload.

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, LOCATION},
};

use crate::{
    reason::{Reason, Refusal},
    route::Action,
};

/// The header that names the reason.
const REASON_HEADER: HeaderName = HeaderName::from_static("egret-reason");
/// Envoy's body for a request that RBAC denied, to the letter: people grep for it.
const DENIED: &str = "RBAC: access denied";

/// The answer to a refused request; `status` where the protocol asks for another than the reason's own.
pub(super) fn http(refusal: &Refusal, status: Option<u16>) -> Response<Bytes> {
    let body = if refusal.reason == Reason::PolicyDenied {
        Bytes::from_static(DENIED.as_bytes())
    } else {
        let by = refusal.object.as_ref().map(|object| format!(" ({object})")).unwrap_or_default();
        format!("egret: {}: {}{by}\n", refusal.reason, refusal.detail).into()
    };
    let status = status.unwrap_or_else(|| refusal.reason.http_status());
    let mut response = plain(status, body);
    response.headers_mut().insert(REASON_HEADER, HeaderValue::from_static(refusal.reason.as_str()));
    response
}

/// The answer that a route itself gives, if `action` is one.
pub(super) fn local(action: &Action) -> Option<Response<Bytes>> {
    match action {
        Action::Forward(_) => None,
        Action::Redirect { status, location } => {
            let mut response = plain(*status, Bytes::new());
            match HeaderValue::from_str(location) {
                Ok(location) => {
                    response.headers_mut().remove(CONTENT_TYPE);
                    response.headers_mut().insert(LOCATION, location);
                    Some(response)
                }
                Err(_) => {
                    Some(http(&Refusal::new(Reason::Internal, "the redirect is no header value"), None))
                }
            }
        }
        Action::Respond { status, body } => Some(plain(*status, Bytes::copy_from_slice(body.as_bytes()))),
    }
}

fn plain(status: u16, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// A fatal TLS alert (RFC 8446 §6) for a client that has sent its ClientHello.
pub(super) fn tls_alert(refusal: &Refusal) -> [u8; 7] {
    let description = match refusal.reason {
        Reason::PolicyDenied => 49,                     // access_denied
        Reason::NotRegistered | Reason::NoRoute => 112, // unrecognized_name
        _ => 80,                                        // internal_error
    };
    [21, 3, 3, 0, 2, 2, description]
}

#[cfg(test)]
mod tests {
    use super::{http, tls_alert};
    use crate::{
        mesh::{Kind, ObjectRef},
        reason::{Reason, Refusal},
    };

    #[test]
    fn a_denied_request_reads_like_envoys() {
        let policy = ObjectRef::new(Kind::AuthorizationPolicy, "istio-system", "deny");
        let response = http(&Refusal::new(Reason::PolicyDenied, "secret detail").by(policy), None);
        assert_eq!(response.status(), 403);
        assert_eq!(response.headers()["egret-reason"], "policy_denied");
        assert_eq!(&response.body()[..], b"RBAC: access denied");
    }

    #[test]
    fn other_refusals_say_what_to_do() {
        let response = http(&Refusal::new(Reason::NotRegistered, "add a ServiceEntry"), None);
        assert_eq!(response.status(), 502);
        assert_eq!(&response.body()[..], b"egret: not_registered: add a ServiceEntry\n");
        assert_eq!(http(&Refusal::new(Reason::BadRequest, "x"), Some(426)).status(), 426);
    }

    #[test]
    fn alerts_are_fatal_and_fit_the_reason() {
        assert_eq!(tls_alert(&Refusal::new(Reason::PolicyDenied, "")), [21, 3, 3, 0, 2, 2, 49]);
    }
}

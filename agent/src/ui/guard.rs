//! Who may ask: browsers of this machine that came here on purpose, and were told the token.
//!
//! A port on loopback is reached by every user of the machine, by captured workloads in its network namespace, and by every web page
//! that is open in a browser there. So the API wants a token, which is made at the start and printed once; the name in `Host` has to be
//! that of this machine, so that no page's own name can be bound to it (DNS rebinding); and the page runs no script but its own.

use std::{fmt, net::IpAddr, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{
            AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderMap, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
        uri::Authority,
    },
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use subtle::ConstantTimeEq as _;

/// On every answer.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Whoever knows it may read. 128 random bits, hexadecimal.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl Token {
    /// A new one.
    pub fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()).into())
    }

    fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        given.is_some_and(|given| given.ct_eq(self.0.as_bytes()).into())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lets those in who know the token.
pub(super) fn for_who_knows(router: Router, token: &Token) -> Router {
    router.route_layer(middleware::from_fn_with_state(token.clone(), knows))
}

async fn knows(State(token): State<Token>, request: Request, next: Next) -> Response {
    if token.is_in(request.headers()) {
        return next.run(request).await;
    }
    let why = "open the address that `egret ui` printed (`egret ui --gateway`, where a gateway serves it): it has a token, which is another one \
               after every start";
    (StatusCode::UNAUTHORIZED, why).into_response()
}

/// Lets those in who call this machine by its own name, and says to browsers what the page may do.
pub(super) fn for_this_machine(router: Router) -> Router {
    router.layer(middleware::from_fn(called_by_name))
}

async fn called_by_name(request: Request, next: Next) -> Response {
    let mut response = if is_called_by_name(request.headers()) {
        next.run(request).await
    } else {
        let why =
            "this is served to browsers of this machine, under the name localhost or an address of loopback";
        (StatusCode::FORBIDDEN, why).into_response()
    };
    let headers = HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value)));
    response.headers_mut().extend(headers);
    response
}

/// Any port will do: `ssh -L` may have another one at its end.
fn is_called_by_name(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

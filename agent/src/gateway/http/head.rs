//! A request's head in the one spelling that authorization, routing and the upstream see.
//!
//! `exchange` reads it once per request. `http1` has checked the framing; this checks what the fields say.

use std::borrow::Cow;

use ::http::{HeaderMap, Method, Version, header::HOST, request::Parts, uri::Scheme};

use super::{
    http1::request::{Violation, known_method},
    normalise::{self, Authority, PathNormalisation},
};
use crate::route::HttpRequest;

/// A request head, normalised.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// As it was sent.
    pub(super) authority: String,
    /// In one spelling.
    pub(super) host: Authority,
    /// Normalised, without query.
    pub(super) path: String,
    pub(super) query: Option<String>,
}

impl Head {
    /// Reads and checks a head.
    pub(super) fn read(parts: &Parts, mode: PathNormalisation) -> Result<Self, Violation> {
        let bad = |why| Violation { status: 400, why };
        if parts.method == Method::CONNECT {
            // A tunnel inside a tunnel would carry bytes that nobody authorized (TUN-04).
            return Err(Violation { status: 405, why: "CONNECT is not served" });
        }
        if !known_method(parts.method.as_str()) {
            return Err(bad("the method is unknown; methods are case-sensitive"));
        }
        if parts.uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP) {
            return Err(bad("the scheme of the request target is not http"));
        }
        if parts.uri.scheme().is_none() && parts.uri.authority().is_some() {
            // `GET admin`: to http::Uri, a bare word is the authority that only CONNECT may send.
            return Err(bad("the request target is neither a path nor an absolute URI"));
        }
        let authority = Self::authority(parts)?;
        let host = normalise::authority(&authority).map_err(bad)?;
        let path = match parts.uri.path() {
            // The only target without a path; `OPTIONS *` asks about the server as a whole.
            "*" if parts.method == Method::OPTIONS => Cow::Borrowed("*"),
            // `http://test.com` and `http://test.com?x`.
            "" if parts.uri.authority().is_some() => Cow::Borrowed("/"),
            path => normalise::path(path, mode).map_err(bad)?,
        };
        Ok(Self { authority, host, path: path.into_owned(), query: parts.uri.query().map(str::to_owned) })
    }

    /// The authority that counts: the target's, else the `Host` field (RFC 9112 §3.2.2, RFC 9113 §8.3.1).
    fn authority(parts: &Parts) -> Result<String, Violation> {
        let bad = |why| Violation { status: 400, why };
        let mut hosts = parts.headers.get_all(HOST).iter();
        let (host, more) = (hosts.next(), hosts.next());
        if more.is_some() {
            return Err(bad("a request has exactly one Host field"));
        }
        let host = host.map(|host| host.to_str().map_err(|_| bad("the host is not ASCII"))).transpose()?;
        match (parts.uri.authority(), host) {
            (Some(target), Some(host))
                if parts.version == Version::HTTP_2 && !target.as_str().eq_ignore_ascii_case(host) =>
            {
                Err(bad("Host and :authority disagree"))
            }
            (Some(target), _) => Ok(target.as_str().to_owned()),
            (None, Some(host)) => Ok(host.to_owned()),
            (None, None) => Err(bad("the request names no host")),
        }
    }

    /// The request as the engines see it.
    pub(super) fn request<'a>(&'a self, method: &'a Method, headers: &'a HeaderMap) -> HttpRequest<'a> {
        HttpRequest {
            method: method.as_str(),
            host: &self.host.host,
            authority: &self.authority,
            path: &self.path,
            query: self.query.as_deref(),
            headers,
        }
    }

    /// Path and query as they go upstream.
    pub(super) fn path_and_query(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

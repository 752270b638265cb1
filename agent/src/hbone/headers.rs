//! What a CONNECT request says about the connection it carries.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, request::Parts};

use crate::{
    flow::FlowId,
    mesh::{HostPattern, looks_like_address},
};

/// Joins the flow records of both ends.
pub const FLOW_ID: HeaderName = HeaderName::from_static("egret-flow-id");
/// The address that was dialled, where the authority is a name.
pub const ORIGINAL_DESTINATION: HeaderName = HeaderName::from_static("egret-original-destination");
/// The sentence behind a refusal.
pub const REASON: HeaderName = HeaderName::from_static("egret-reason");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// Longest `baggage` (W3C Baggage §3.3.2 lets us drop what is longer).
const MAX_BAGGAGE: usize = 8192;
/// Longest sentence in `egret-reason`.
const MAX_REASON: usize = 1024;

/// The request of one tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// `:authority`, or `egret-original-destination`: the original destination. Where a name was dialled it describes, and
    /// decides nothing but by its port; unspecified where the peer does not say it.
    pub original_destination: SocketAddr,
    /// `:authority` where it is a name, lower case: the host that the address dialled is synthetic for.
    pub dialled_host: Option<Arc<str>>,
    /// `egret-flow-id`; foreign peers send none.
    pub flow_id: Option<FlowId>,
    /// W3C `traceparent`, passed on as it is.
    pub traceparent: Option<String>,
    /// `baggage`, which [`Baggage`](super::baggage::Baggage) reads: describes the workload.
    pub baggage: Option<Arc<str>>,
}

/// Why a request is no tunnel's; the sentence of a 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadConnect {
    /// Another method.
    #[error("this port serves HBONE only: the method must be CONNECT")]
    Method,
    /// No port, port 0, or something else that is no destination.
    #[error("the authority of CONNECT must be an IP address or a host name, and a port")]
    Authority,
}

impl Connect {
    /// The CONNECT request. Values that are no valid header are left out.
    pub fn to_request(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        let mut uri = http::uri::Parts::default();
        let dialled = self.original_destination.to_string();
        let named =
            self.dialled_host.as_ref().map(|host| format!("{host}:{}", self.original_destination.port()));
        uri.authority = named.as_ref().unwrap_or(&dialled).parse().ok();
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        let headers = request.headers_mut();
        let flow_id = self.flow_id.map(|id| id.to_string());
        for (name, value) in [
            (FLOW_ID, flow_id.as_deref()),
            (ORIGINAL_DESTINATION, named.is_some().then_some(&*dialled)),
            (TRACEPARENT, self.traceparent.as_deref().filter(|v| is_traceparent(v))),
            (BAGGAGE, self.baggage.as_deref().filter(|v| v.len() <= MAX_BAGGAGE)),
        ] {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                headers.insert(name, value);
            }
        }
        request
    }

    /// Reads a request. Optional headers that are malformed count as absent: they describe, and decide nothing.
    pub fn from_request(request: &Parts) -> Result<Self, BadConnect> {
        if request.method != Method::CONNECT {
            return Err(BadConnect::Method);
        }
        let authority = request.uri.authority().ok_or(BadConnect::Authority)?;
        let (original_destination, dialled_host) =
            if let Some(address) = parse_destination(authority.as_str()) {
                (address, None)
            } else {
                let (host, port) = parse_host(authority.as_str()).ok_or(BadConnect::Authority)?;
                let described = single(&request.headers, &ORIGINAL_DESTINATION)
                    .and_then(parse_destination)
                    .filter(|address| address.port() == port);
                (described.unwrap_or((Ipv4Addr::UNSPECIFIED, port).into()), Some(host))
            };
        Ok(Self {
            original_destination,
            dialled_host,
            flow_id: single(&request.headers, &FLOW_ID).and_then(|value| value.parse().ok()),
            traceparent: single(&request.headers, &TRACEPARENT)
                .filter(|value| is_traceparent(value))
                .map(str::to_owned),
            baggage: single(&request.headers, &BAGGAGE)
                .filter(|value| value.len() <= MAX_BAGGAGE)
                .map(Arc::from),
        })
    }
}

/// `192.0.2.1:443` or `[2001:db8::1]:443`. An IPv4-mapped address is the IPv4 address it maps, so that it cannot slip past
/// rules for that.
fn parse_destination(authority: &str) -> Option<SocketAddr> {
    let address: SocketAddr = authority.parse().ok()?;
    let scoped = matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
    let ip: IpAddr = address.ip().to_canonical();
    (address.port() != 0 && !scoped && !ip.is_unspecified()).then(|| SocketAddr::new(ip, address.port()))
}

/// `test.com:443`, in lower case and without a trailing dot.
fn parse_host(authority: &str) -> Option<(Arc<str>, u16)> {
    let (host, port) = authority.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    match HostPattern::parse(host) {
        Ok(HostPattern::Exact(host)) if !looks_like_address(&host) => Some((host, port)),
        _ => None,
    }
}

/// A header that occurs once, in visible ASCII.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// W3C Trace Context §3.2, version 00: `00-<32 hex>-<16 hex>-<2 hex>`, lower case.
fn is_traceparent(value: &str) -> bool {
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let parts: Vec<&str> = value.splitn(5, '-').collect();
    matches!(parts[..], ["00", trace, parent, flags] if hex(trace, 32) && hex(parent, 16) && hex(flags, 2))
}

/// A sentence as a header value: bounded, and `?` for what a header cannot hold.
pub(super) fn reason_value(sentence: &str) -> HeaderValue {
    let ascii: String = sentence
        .chars()
        .take(MAX_REASON)
        .map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' })
        .collect();
    HeaderValue::from_str(&ascii).unwrap_or(HeaderValue::from_static(""))
}

/// The sentence in a refusal, or nothing.
pub(super) fn reason_in(headers: &HeaderMap) -> String {
    single(headers, &REASON).unwrap_or_default().chars().take(MAX_REASON).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(connect: &Connect) -> Result<Connect, BadConnect> {
        Connect::from_request(&connect.to_request().into_parts().0)
    }

    fn request(method: Method, authority: &str) -> Parts {
        Request::builder().method(method).uri(authority).body(()).unwrap().into_parts().0
    }

    #[test]
    fn round_trips_over_a_request() {
        for (destination, host, authority) in [
            ("192.0.2.1:443", None, "192.0.2.1:443"),
            ("[2001:db8::1]:80", None, "[2001:db8::1]:80"),
            ("240.240.1.2:5432", Some("db.test"), "db.test:5432"),
        ] {
            let connect = Connect {
                original_destination: destination.parse().unwrap(),
                dialled_host: host.map(Arc::from),
                flow_id: Some(FlowId::random()),
                traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
                baggage: Some("k8s.namespace.name=default".into()),
            };
            assert_eq!(connect.to_request().uri().to_string(), authority);
            assert_eq!(parse(&connect), Ok(connect));
        }
    }

    #[test]
    fn refuses_what_is_no_tunnel() {
        assert_eq!(
            Connect::from_request(&request(Method::GET, "http://192.0.2.1/")),
            Err(BadConnect::Method)
        );
        for bad in [
            "example.com",
            "example.com:0",
            "*.example.com:443",
            "0177.0.0.1:443",
            "192.0.2.1:0",
            "0.0.0.0:80",
            "[::]:80",
            "192.0.2.1:99999",
        ] {
            assert_eq!(
                Connect::from_request(&request(Method::CONNECT, bad)),
                Err(BadConnect::Authority),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_name_needs_no_address_and_believes_no_other_port() {
        let mut parts = request(Method::CONNECT, "DB.test.:5432");
        for described in [None, Some("240.240.1.2:80"), Some("nobody"), Some("0.0.0.0:5432")] {
            parts.headers.clear();
            parts.headers.extend(described.map(|text| (ORIGINAL_DESTINATION, text.parse().unwrap())));
            let connect = Connect::from_request(&parts).unwrap();
            assert_eq!(connect.dialled_host.as_deref(), Some("db.test"));
            assert_eq!(connect.original_destination, "0.0.0.0:5432".parse().unwrap(), "{described:?}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_address_it_maps() {
        assert_eq!(parse_destination("[::ffff:169.254.169.254]:80"), "169.254.169.254:80".parse().ok());
    }

    #[test]
    fn malformed_descriptions_count_as_absent() {
        let mut parts = request(Method::CONNECT, "192.0.2.1:80");
        for value in ["x", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"] {
            parts.headers.insert(TRACEPARENT, value.parse().unwrap());
            parts.headers.insert(FLOW_ID, value.parse().unwrap());
            parts.headers.insert(BAGGAGE, "x".repeat(MAX_BAGGAGE + 1).parse().unwrap());
            let connect = Connect::from_request(&parts).unwrap();
            assert_eq!((connect.flow_id, connect.traceparent, connect.baggage), (None, None, None));
        }
    }

    proptest! {
        #[test]
        fn any_sentence_becomes_a_header(sentence in ".*") {
            let mut headers = HeaderMap::new();
            headers.insert(REASON, reason_value(&sentence));
            prop_assert!(reason_in(&headers).chars().count() <= sentence.chars().count());
        }

        #[test]
        fn any_destination_round_trips(ip: [u8; 4], v6: [u8; 16], port in 1..u16::MAX) {
            for ip in [IpAddr::from(ip), IpAddr::from(v6)] {
                let connect = Connect {
                    original_destination: SocketAddr::new(ip.to_canonical(), port),
                    dialled_host: None,
                    flow_id: None,
                    traceparent: None,
                    baggage: None,
                };
                if !ip.is_unspecified() {
                    prop_assert_eq!(parse(&connect), Ok(connect));
                }
            }
        }
    }
}

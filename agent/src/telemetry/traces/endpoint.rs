//! Where spans go, and how many: what the command line is told.

use std::{fmt, str::FromStr};

use http::Uri;

/// How the gateway traces.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// The collector.
    pub endpoint: Endpoint,
    /// How much of what comes without a trace begins one.
    pub sampling: Percent,
}

/// A collector that takes OTLP over gRPC: `http://HOST:PORT` or `https://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Uri);

/// 0 to 100 (MeshConfig's `defaultConfig.tracing.sampling`).
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Endpoint {
    /// Host, and the port that is written, or OTLP's.
    pub fn host_and_port(&self) -> (&str, u16) {
        let host = self.0.host().unwrap_or_default();
        (host.trim_start_matches('[').trim_end_matches(']'), self.0.port_u16().unwrap_or(4317))
    }

    /// Whether the connection is TLS.
    pub fn is_tls(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|e| format!("{e}"))?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        if !is_http || !is_bare || uri.host().is_none_or(str::is_empty) {
            return Err(
                "a collector is written http://HOST:PORT or https://HOST:PORT, without a path: it is OTLP over gRPC, \
                 usually port 4317"
                    .to_owned(),
            );
        }
        Ok(Self(uri))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Percent {
    /// As a share, 0 to 1.
    pub fn share(self) -> f64 {
        self.0 / 100.0
    }
}

impl Default for Percent {
    /// Istio's default.
    fn default() -> Self {
        Self(1.0)
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let percent = text.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
        percent.map(Self).ok_or_else(|| "a percentage is a number from 0 to 100".to_owned())
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, Percent};

    #[test]
    fn collectors_are_hosts_with_ports() {
        for (text, host, port, tls) in [
            ("http://127.0.0.1:4317", "127.0.0.1", 4317, false),
            ("https://collector.observability/", "collector.observability", 4317, true),
            ("http://[::1]:4319", "::1", 4319, false),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host_and_port(), endpoint.is_tls()), ((host, port), tls));
        }
        for bad in
            ["collector:4317", "grpc://collector:4317", "http://collector:4318/v1/traces", "http://", ""]
        {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn percentages_are_bounded() {
        assert!((Percent::default().share() - 0.01).abs() < 1e-9);
        assert!("0".parse::<Percent>().is_ok() && "100.0".parse::<Percent>().is_ok());
        for bad in ["-1", "100.1", "NaN", "all", ""] {
            assert!(bad.parse::<Percent>().is_err(), "{bad}");
        }
    }
}

//! What `egret explain` asks, and the answer from a configuration: the running gateway's, or one loaded from files.
//!
//! Normalises the request as the data path does, then leaves it to the engines.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::{
    explain::{self, Explanation},
    gateway::{PathNormalisation, normalise},
    mesh::{Snapshot, SpiffeId},
    route::{Connection, HttpRequest},
};

/// A request to be explained, as written on the command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Question {
    /// Namespace of the workload.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// The method.
    pub method: String,
    /// `http://` or `https://` URL.
    pub url: String,
    /// The address the workload dials; matters for unregistered hosts and opaque TCP.
    pub dialled: Option<IpAddr>,
    /// Headers as `name: value`.
    pub headers: Vec<String>,
}

/// The answer, ready for people and for programs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// For people.
    pub text: String,
    /// For programs: an [`Explanation`].
    pub explanation: serde_json::Value,
    /// Whether the request would go out.
    pub allowed: bool,
}

impl Question {
    /// Asks the engines. An error is a sentence about the question.
    pub fn ask(&self, snapshot: &Snapshot) -> Result<Answer, String> {
        let source = SpiffeId::new(&snapshot.settings.trust_domain, &self.namespace, &self.service_account)
            .map_err(|e| e.to_string())?;
        let url: http::Uri = self.url.parse().map_err(|e| format!("{:?} is no URL: {e}", self.url))?;
        let bad = |why| format!("{:?}: {why}", self.url);
        let authority =
            url.authority().ok_or_else(|| bad("write it as http://host/path or https://host/"))?.as_str();
        let host = normalise::authority(authority).map_err(bad)?;
        let default_port = match url.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(bad("the scheme is neither http nor https")),
        };
        let address =
            self.dialled.or_else(|| host.host.parse().ok()).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let original_destination = SocketAddr::new(address, host.port.unwrap_or(default_port));
        let connection = Connection { source: &source, original_destination };
        let caller = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let explanation = if default_port == 443 {
            explain::tls(snapshot, &connection, caller, &host.host)
        } else {
            let path = normalise::path(url.path(), PathNormalisation::default()).map_err(bad)?;
            let request = HttpRequest {
                method: &self.method,
                host: &host.host,
                authority,
                path: &path,
                query: url.query(),
                headers: &self.header_map()?,
            };
            explain::http(snapshot, &connection, caller, &request)
        };
        answer(&explanation)
    }

    fn header_map(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        for line in &self.headers {
            let (name, value) =
                line.split_once(':').ok_or_else(|| format!("{line:?} is no header: write NAME: VALUE"))?;
            let name: HeaderName = name.trim().parse().map_err(|e| format!("{line:?}: {e}"))?;
            let value: HeaderValue = value.trim().parse().map_err(|e| format!("{line:?}: {e}"))?;
            headers.append(name, value);
        }
        Ok(headers)
    }
}

fn answer(explanation: &Explanation) -> Result<Answer, String> {
    Ok(Answer {
        text: explanation.to_string(),
        explanation: serde_json::to_value(explanation).map_err(|e| e.to_string())?,
        allowed: !matches!(explanation.outcome, explain::Outcome::Refuse { .. }),
    })
}

#[cfg(test)]
mod tests {
    use super::Question;
    use crate::mesh::{OutboundTrafficPolicy, Snapshot};

    fn question(url: &str) -> Question {
        Question {
            namespace: "default".to_owned(),
            service_account: "sleep".to_owned(),
            method: "GET".to_owned(),
            url: url.to_owned(),
            dialled: None,
            headers: vec!["x-test: 1".to_owned()],
        }
    }

    #[test]
    fn answers_for_http_and_tls() {
        let snapshot = Snapshot::default();
        for url in ["http://TEST.com:80/a/../b?x", "https://test.com/", "http://203.0.113.7:8080/"] {
            let answer = question(url).ask(&snapshot).unwrap();
            assert!(answer.allowed, "{}", answer.text);
            assert!(answer.text.contains("PassthroughCluster"), "{}", answer.text);
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_clients_own_protocol() {
        let mut snapshot = Snapshot::default();
        snapshot.settings.outbound_traffic_policy = OutboundTrafficPolicy::RegistryOnly;
        let text = |url| question(url).ask(&snapshot).unwrap().text;
        let (http, tls) = (text("http://test.com/"), text("https://test.com/"));
        assert!(http.contains("refused with 502"), "{http}");
        assert!(tls.contains("refused with a TLS alert, "), "{tls}");
    }

    #[test]
    fn says_what_is_wrong_with_a_question() {
        for url in ["ftp://test.com/", "/path", "http://te st/", "http://u@test.com/"] {
            assert!(question(url).ask(&Snapshot::default()).is_err(), "{url}");
        }
    }
}

//! The sentence of an event. Hosts and methods are the workload's own words: nothing in them may be more than text, or too long.

use super::Denial;

/// Longest note that the API takes, in bytes.
const MOST: usize = 1024;
/// Longest host: RFC 1035, and some room for a port.
const LONGEST_HOST: usize = 260;
const LONGEST_METHOD: usize = 20;
const LONGEST_DETAIL: usize = 400;

impl Denial {
    /// What happened, which object decided it, and how to learn more. Neither path nor query, which may be secrets.
    pub fn note(&self) -> String {
        let (host, detail) = (visible(&self.host, LONGEST_HOST), visible(&self.detail, LONGEST_DETAIL));
        let method = self.method.as_deref().map(|method| visible(method, LONGEST_METHOD));
        let asked =
            if let Some(method) = &method { format!("{method} of ") } else { "a connection to ".to_owned() };
        let target = match host.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => host.clone(),
            _ => format!("{host}:{}", self.port),
        };
        let by = match &self.object {
            Some(object) if !self.detail.contains(&object.to_string()) => format!(" ({object})"),
            _ => String::new(),
        };
        let from = format!("{}/{}", self.source.namespace(), self.source.service_account());
        let (method, scheme) = match &method {
            Some(method) => (method.as_str(), "http"),
            None => ("GET", "https"),
        };
        let text = format!(
            "{asked}{target} was denied, {}: {detail}{by}; to see why: egret explain --cluster --from {from} {method} {scheme}://{target}/",
            self.reason
        );
        visible(&text, MOST)
    }
}

/// A text of visible ASCII, cut.
fn visible(text: &str, most: usize) -> String {
    let visible = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    let mut cut: String = text.chars().take(most).map(visible).collect();
    if text.chars().nth(most).is_some() {
        cut.truncate(most - 3);
        cut.push_str("...");
    }
    cut
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::testing::denial, MOST};
    use crate::reason::Reason;

    #[test]
    fn a_note_says_what_was_denied_by_what_and_how_to_learn_more() {
        let of_request = denial("web-1", "test.com");
        assert_eq!(
            of_request.note(),
            "GET of test.com:80 was denied, policy_denied: denied by rule 0 of AuthorizationPolicy istio-system/no-admin; to see why: \
             egret explain --cluster --from shop/web GET http://test.com:80/"
        );
        let mut of_connection = denial("web-1", "other.test:8443");
        of_connection.method = None;
        of_connection.reason = Reason::NoRoute;
        of_connection.detail = "nothing matches".to_owned();
        assert_eq!(
            of_connection.note(),
            "a connection to other.test:8443 was denied, no_route: nothing matches (AuthorizationPolicy istio-system/no-admin); to see \
             why: egret explain --cluster --from shop/web GET https://other.test:8443/"
        );
    }

    proptest! {
        #[test]
        fn whatever_a_workload_writes_it_is_a_line_that_the_api_takes(host in ".*", method in ".*", long in 0_usize..5000) {
            let mut denial = denial("web-1", &host);
            denial.method = Some(method);
            denial.detail = "x".repeat(long);
            let note = denial.note();
            prop_assert!(note.len() <= MOST && note.chars().all(|c| c == ' ' || c.is_ascii_graphic()), "{note}");
        }
    }
}

//! Compares an answer and log lines with what a step expects. Every difference becomes one sentence.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::Expect;
use crate::{curl::Answer, wait};

/// The gateway writes its line when the response has ended, which curl may notice first.
const LOG_DELAY: Duration = Duration::from_secs(5);

/// What a field of a log line has to be. `{address}` is the external service's address.
#[derive(Clone, Copy, Debug)]
pub enum Field {
    /// Exactly this, numbers and booleans as JSON writes them.
    Is(&'static str, &'static str),
    /// A text with this in it.
    Has(&'static str, &'static str),
}

impl Field {
    /// The name of the field.
    pub fn name(self) -> &'static str {
        match self {
            Self::Is(name, _) | Self::Has(name, _) => name,
        }
    }

    fn difference(self, line: &Value, address: &str) -> Option<String> {
        let seen = text(&line[self.name()]);
        let (fits, expected) = match self {
            Self::Is(_, expected) => {
                let expected = expected.replace("{address}", address);
                (seen == expected, expected)
            }
            Self::Has(_, expected) => (seen.contains(expected), format!("something with {expected}")),
        };
        (!fits).then(|| format!("{}: expected {expected}, seen {seen}", self.name()))
    }
}

/// A value as a log reader would write it.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(super) fn answer(expect: &Expect, answer: &Answer, failures: &mut Vec<String>) {
    if answer.status != Some(expect.status) {
        failures.push(format!("answer: expected status {}, seen {}", expect.status, answer.summary()));
    } else if !answer.body.contains(expect.body) {
        failures.push(format!("answer: expected {:?} in the body, seen {:?}", expect.body, answer.body));
    }
}

/// Judges the lines that a log has because of a request; `since` reads them.
pub(super) fn log(
    name: &str,
    since: impl Fn() -> Result<Vec<Value>>,
    expect: Option<&[Field]>,
    address: &str,
    failures: &mut Vec<String>,
) -> Result<Vec<Value>> {
    let Some(fields) = expect else {
        let lines = since()?;
        if let Some(line) = lines.first() {
            failures.push(format!("{name}: expected nothing, seen {line}"));
        }
        return Ok(lines);
    };
    let waited = wait::until("one", LOG_DELAY, || Ok(Some(since()?).filter(|lines| !lines.is_empty())));
    let lines = match waited {
        Ok(lines) => lines,
        Err(error) => {
            failures.push(format!("{name}: expected a line; {error:#}"));
            return Ok(Vec::new());
        }
    };
    if let [line] = lines.as_slice() {
        let differences = fields.iter().filter_map(|field| field.difference(line, address));
        failures.extend(differences.map(|difference| format!("{name}: {difference}")));
    } else {
        failures.push(format!("{name}: expected one line, seen {}", lines.len()));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Expect, Field, answer};
    use crate::curl::Answer;

    #[test]
    fn a_field_is_or_has() {
        let line = json!({ "host": "10.0.0.1:80", "code": 200, "tls": false, "none": null });
        for fits in [
            Field::Is("host", "{address}:80"),
            Field::Is("code", "200"),
            Field::Is("tls", "false"),
            Field::Is("none", "null"),
            Field::Is("absent", "null"),
            Field::Has("host", "0.1:"),
        ] {
            assert_eq!(fits.difference(&line, "10.0.0.1"), None, "{fits:?}");
        }
        for differs in [Field::Is("host", "10.0.0.1"), Field::Has("none", "x"), Field::Is("code", "20")] {
            let difference = differs.difference(&line, "10.0.0.1").unwrap_or_default();
            assert!(difference.contains(differs.name()), "{differs:?}: {difference}");
        }
    }

    #[test]
    fn status_and_body_have_to_fit() {
        let expect = Expect { status: 403, body: "denied", gateway: None, external: None };
        let failures = |status, body: &str| {
            let mut failures = Vec::new();
            answer(&expect, &Answer { status, body: body.to_owned(), ..Answer::default() }, &mut failures);
            failures.len()
        };
        assert_eq!(failures(Some(403), "access denied"), 0);
        assert_eq!(failures(Some(403), "no"), 1);
        assert_eq!(failures(Some(200), "access denied"), 1);
        assert_eq!(failures(None, ""), 1);
    }
}

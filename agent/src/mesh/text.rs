//! Compiled string matchers, shared by routes (`exact`, `prefix`, `regex`) and policies (exact, `a*`, `*a`, `*`).

use std::sync::Arc;

use regex::{Regex, RegexBuilder};

/// Largest compiled program of a regular expression, in bytes: a configuration must not be able to eat the gateway.
const REGEX_LIMIT: usize = 1 << 20;

/// A regular expression that does not compile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a usable regular expression: {why}")]
pub struct TextError {
    given: String,
    why: String,
}

/// How a string is compared.
#[derive(Clone, Debug)]
pub enum TextMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Starts with.
    Prefix(Arc<str>),
    /// Ends with.
    Suffix(Arc<str>),
    /// Present and not empty.
    Present,
    /// Matches as a whole.
    Regex(Regex),
}

impl TextMatch {
    /// Compiles an anchored regular expression (RE2 syntax, as Istio has it).
    pub fn regex(given: &str) -> Result<Self, TextError> {
        let build = |pattern: &str| {
            RegexBuilder::new(pattern).size_limit(REGEX_LIMIT).dot_matches_new_line(true).build()
        };
        // On its own first: `a)|(?:b` would be valid between the anchors and escape them.
        build(given).and_then(|_| build(&format!("^(?:{given})$"))).map(Self::Regex).map_err(|e| {
            // The lines before the last draw an arrow at the place.
            let why = e.to_string().lines().last().unwrap_or_default().to_owned();
            TextError { given: given.chars().take(100).collect(), why }
        })
    }

    /// A value of an AuthorizationPolicy: `*` is presence, `a*` a prefix, `*a` a suffix, all else exact.
    pub fn policy(given: &str) -> Self {
        if given == "*" {
            Self::Present
        } else if let Some(suffix) = given.strip_prefix('*') {
            Self::Suffix(suffix.into())
        } else if let Some(prefix) = given.strip_suffix('*') {
            Self::Prefix(prefix.into())
        } else {
            Self::Exact(given.into())
        }
    }

    /// Compares.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(want) => **want == *text,
            Self::Prefix(want) => text.starts_with(&**want),
            Self::Suffix(want) => text.ends_with(&**want),
            Self::Present => !text.is_empty(),
            Self::Regex(regex) => regex.is_match(text),
        }
    }

    /// Compares ASCII letters without case. A regular expression keeps its own case, as in Istio.
    pub fn matches_ignoring_case(&self, text: &str) -> bool {
        match self {
            Self::Exact(want) => want.eq_ignore_ascii_case(text),
            Self::Prefix(want) => {
                text.as_bytes().get(..want.len()).is_some_and(|t| t.eq_ignore_ascii_case(want.as_bytes()))
            }
            Self::Suffix(want) => text
                .len()
                .checked_sub(want.len())
                .is_some_and(|at| text.as_bytes()[at..].eq_ignore_ascii_case(want.as_bytes())),
            Self::Present | Self::Regex(_) => self.matches(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TextMatch;

    #[test]
    fn policy_values() {
        for (pattern, text, expected) in [
            ("*", "x", true),
            ("*", "", false),
            ("a*", "ab", true),
            ("a*", "ba", false),
            ("*b", "ab", true),
            ("*b", "ba", false),
            ("a*b", "a*b", true),
            ("a*b", "axb", false),
            ("A", "a", false),
        ] {
            assert_eq!(TextMatch::policy(pattern).matches(text), expected, "{pattern} {text}");
        }
        assert!(TextMatch::policy("*.COM").matches_ignoring_case("a.com"));
        assert!(TextMatch::policy("Test.*").matches_ignoring_case("tEST.com"));
    }

    #[test]
    fn regular_expressions_are_anchored_and_limited() {
        let any = TextMatch::regex("a|b").unwrap();
        assert!(any.matches("a") && any.matches("b") && !any.matches("ab"));
        assert!(TextMatch::regex("[").is_err());
        assert!(TextMatch::regex("a)|(?:b").is_err());
        assert!(TextMatch::regex("((a{100}){100}){100}").is_err());
    }
}

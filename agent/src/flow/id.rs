//! The id that joins the records of a flow, and beginnings of it, as people copy them from a table.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Joins the records that agent and gateway keep of the same connection: 128 random bits, 32 hex digits on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(u128);

impl FlowId {
    /// A fresh id.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A string that is no flow id.
#[derive(Debug, thiserror::Error)]
#[error("a flow id is 32 hexadecimal digits")]
pub struct FlowIdError;

impl FromStr for FlowId {
    type Err = FlowIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.len() != 32 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(FlowIdError);
        }
        u128::from_str_radix(s, 16).map(Self).map_err(|_| FlowIdError)
    }
}

impl Serialize for FlowId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FlowId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The first digits of an id, one to all of them; upper case is folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowIdPrefix {
    value: u128,
    digits: u32,
}

impl FlowIdPrefix {
    /// Whether an id begins so.
    pub fn matches(self, id: FlowId) -> bool {
        id.0 >> (128 - 4 * self.digits) == self.value
    }

    /// The id, where this is all of one.
    pub fn whole(self) -> Option<FlowId> {
        (self.digits == 32).then_some(FlowId(self.value))
    }
}

impl From<FlowId> for FlowIdPrefix {
    fn from(id: FlowId) -> Self {
        Self { value: id.0, digits: 32 }
    }
}

/// A string that is no beginning of a flow id.
#[derive(Debug, thiserror::Error)]
#[error("the beginning of a flow id is 1 to 32 hexadecimal digits")]
pub struct FlowIdPrefixError;

impl FromStr for FlowIdPrefix {
    type Err = FlowIdPrefixError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.is_empty() || s.len() > 32 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(FlowIdPrefixError);
        }
        let value = u128::from_str_radix(s, 16).map_err(|_| FlowIdPrefixError)?;
        Ok(Self { value, digits: s.len() as u32 })
    }
}

impl fmt::Display for FlowIdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0width$x}", self.value, width = self.digits as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{FlowId, FlowIdPrefix};

    proptest! {
        #[test]
        fn an_id_begins_as_it_is_written(id in any::<u128>(), digits in 1..=32_usize, other in any::<u128>()) {
            let (id, other) = (FlowId(id), FlowId(other));
            let text = id.to_string()[..digits].to_owned();
            let prefix: FlowIdPrefix = text.parse().unwrap();
            prop_assert!(prefix.matches(id));
            prop_assert_eq!(prefix.matches(other), other.to_string().starts_with(&text));
            prop_assert_eq!(prefix.to_string(), text);
            prop_assert_eq!(prefix.whole(), (digits == 32).then_some(id));
        }
    }

    #[test]
    fn other_text_is_no_beginning() {
        for text in ["", "g", "-1", "+1", &"0".repeat(33)] {
            assert!(text.parse::<FlowIdPrefix>().is_err(), "{text}");
        }
    }
}

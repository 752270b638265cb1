//! A YAML document as a tree that knows its lines: what the readers of kinds walk, so that every message has a place. An object of
//! the Kubernetes API is such a tree without lines.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

/// Levels of nesting. The kinds that are read have ten; the parser's own limit of 64 is more than fits on the stack of a
/// thread of the runtime.
const MAX_DEPTH: usize = 32;

/// A value and the line it is on, from 1; 0 where there are no lines.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) line: u64,
    pub(super) value: Value,
}

/// A YAML value. Keys are strings, as in every Kubernetes object.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Value {
    /// What it is, for messages.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Integer(_) => "a number",
            Self::Float => "a number with a fraction",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "an object",
        }
    }
}

impl Node {
    /// Parses one document. The error is a sentence, with the line where known.
    pub(super) fn parse(text: &str) -> Result<Self, (Option<u64>, String)> {
        let options = serde_saphyr::options! { budget: serde_saphyr::budget! { max_depth: MAX_DEPTH } };
        let spanned: Spanned<Value> =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| {
                let error = error.without_snippet();
                // The place is told by the line; the parser's counts from the start of the document.
                let message = error.to_string();
                let message = message.split(" at line ").next().unwrap_or_default();
                // Advice to programmers, not to operators.
                let message = match message.split_once(", set DuplicateKeyPolicy") {
                    Some((duplicate, _)) => duplicate.to_owned(),
                    None if message.starts_with("budget breached") => {
                        format!("it is larger or deeper than any configuration ({message})")
                    }
                    None if message.starts_with("recursive references") => {
                        "an alias refers to itself".to_owned()
                    }
                    None => message.to_owned(),
                };
                (error.location().map(|location| location.line()), message)
            })?;
        Ok(Self { line: spanned.referenced.line(), value: spanned.value })
    }

    /// An object that comes as JSON. The error is a sentence.
    pub(super) fn from_json(given: &serde_json::Value) -> Result<Self, String> {
        Self::from_json_at(given, MAX_DEPTH)
    }

    fn from_json_at(given: &serde_json::Value, depth: usize) -> Result<Self, String> {
        use serde_json::Value as Json;
        let Some(depth) = depth.checked_sub(1) else {
            return Err(format!("it has more than {MAX_DEPTH} levels, more than any configuration"));
        };
        let value = match given {
            Json::Null => Value::Null,
            Json::Bool(given) => Value::Bool(*given),
            Json::Number(given) => given.as_i128().map_or(Value::Float, Value::Integer),
            Json::String(given) => Value::Text(given.clone()),
            Json::Array(items) => Value::List(
                items.iter().map(|item| Self::from_json_at(item, depth)).collect::<Result<_, _>>()?,
            ),
            Json::Object(entries) => {
                let read =
                    |(key, value): (&String, &Json)| Ok((key.clone(), Self::from_json_at(value, depth)?));
                Value::Map(entries.iter().map(read).collect::<Result<_, String>>()?)
            }
        };
        Ok(Self { line: 0, value })
    }

    /// The line, where there are lines.
    pub(super) fn place(&self) -> Option<u64> {
        (self.line > 0).then_some(self.line)
    }

    /// The value of `key`, if this is an object that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Moves all lines, for a document that does not begin the file.
    pub(super) fn shift(&mut self, by: u64) {
        self.line += by;
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.shift(by)),
            Value::Map(entries) => entries.iter_mut().for_each(|(_, node)| node.shift(by)),
            _ => {}
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, given: bool) -> Result<Value, E> {
        Ok(Value::Bool(given))
    }

    fn visit_i64<E>(self, given: i64) -> Result<Value, E> {
        Ok(Value::Integer(given.into()))
    }

    fn visit_u64<E>(self, given: u64) -> Result<Value, E> {
        Ok(Value::Integer(given.into()))
    }

    fn visit_i128<E>(self, given: i128) -> Result<Value, E> {
        Ok(Value::Integer(given))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Float)
    }

    fn visit_str<E>(self, given: &str) -> Result<Value, E> {
        Ok(Value::Text(given.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element::<Spanned<Value>>()? {
            items.push(Node { line: item.referenced.line(), value: item.value });
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let value = access.next_value::<Spanned<Value>>()?;
            // The line of the key: a block value begins below it, and people look for the name.
            entries.push((key.value, Node { line: key.referenced.line(), value: value.value }));
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::{Node, Value};

    #[test]
    fn keeps_lines_and_types() {
        let node = Node::parse("a: 1\nb:\n  - x\n  - c: ~\n    d: \"80\"\n").unwrap();
        assert_eq!(node.get("b").unwrap().line, 2);
        let Value::List(items) = &node.get("b").unwrap().value else { panic!("a list") };
        assert_eq!((items[0].line, items[0].text()), (3, Some("x")));
        assert!(matches!(items[1].get("c").unwrap().value, Value::Null));
        assert_eq!((items[1].get("d").unwrap().line, items[1].get("d").unwrap().text()), (5, Some("80")));
        let (line, message) = Node::parse("a: [1\nb: 2\n").unwrap_err();
        assert!(line.is_some() && !message.is_empty());
    }

    #[test]
    fn json_reads_like_yaml_but_for_the_lines() {
        let node =
            Node::from_json(&serde_json::json!({"a": [1, 2.5, "x", null, true], "b": {"c": -1}})).unwrap();
        let Value::List(items) = &node.get("a").unwrap().value else { panic!("a list") };
        assert!(matches!(
            items.iter().map(|item| &item.value).collect::<Vec<_>>()[..],
            [Value::Integer(1), Value::Float, Value::Text(_), Value::Null, Value::Bool(true)]
        ));
        let inner = node.get("b").unwrap().get("c").unwrap();
        assert!(matches!(inner.value, Value::Integer(-1)) && inner.place().is_none());
        let deep = (0..40).fold(serde_json::json!({}), |inner, _| serde_json::json!({"a": inner}));
        assert!(Node::from_json(&deep).unwrap_err().contains("levels"));
    }

    #[test]
    fn messages_are_for_operators() {
        for (text, said) in
            [("a: 1\na: 2\n", "duplicate mapping key: a"), ("a: &a [*a]\n", "an alias refers to itself")]
        {
            assert_eq!(Node::parse(text).unwrap_err().1, said);
        }
        let deep = (0..100).map(|level| " ".repeat(level) + "a:\n").collect::<String>();
        assert!(Node::parse(&deep).unwrap_err().1.starts_with("it is larger or deeper"));
    }
}

//! Reading objects field by field: knows which fields were asked for, so that the others are reported with the nearest name.
//!
//! Used by the readers in `kinds`. Collects every problem of an object instead of stopping at the first.

use std::{cell::RefCell, collections::BTreeMap};

use super::{
    asked::{Asked, Shape},
    codes,
    node::{Node, Value},
    report::Severity,
};

/// A problem inside one document.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) severity: Severity,
    pub(super) code: &'static str,
    pub(super) line: Option<u64>,
    pub(super) field: String,
    pub(super) message: String,
    pub(super) remedy: Option<String>,
}

/// The problems of one document.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: RefCell<Vec<Found>>,
    /// Every question with the path of its field, where somebody wants to know.
    asked: Option<RefCell<Vec<(String, Asked)>>>,
}

impl Problems {
    /// Writes the readers' questions down, too.
    pub(super) fn with_questions() -> Self {
        Self { asked: Some(RefCell::default()), ..Self::default() }
    }

    pub(super) fn push(&self, found: Found) {
        self.found.borrow_mut().push(found);
    }

    pub(super) fn has_errors(&self) -> bool {
        self.found.borrow().iter().any(|found| found.severity == Severity::Error)
    }

    pub(super) fn into_inner(self) -> Vec<Found> {
        self.found.into_inner()
    }

    /// The questions, in their order.
    pub(super) fn into_questions(self) -> Vec<(String, Asked)> {
        self.asked.map(RefCell::into_inner).unwrap_or_default()
    }

    fn ask(&self, path: impl FnOnce() -> String, asked: impl FnOnce() -> Asked) {
        if let Some(questions) = &self.asked {
            questions.borrow_mut().push((path(), asked()));
        }
    }
}

/// A value with its path.
#[derive(Clone)]
pub(super) struct Field<'n> {
    pub(super) node: &'n Node,
    pub(super) path: String,
    problems: &'n Problems,
}

impl<'n> Field<'n> {
    pub(super) fn new(node: &'n Node, path: impl Into<String>, problems: &'n Problems) -> Self {
        Self { node, path: path.into(), problems }
    }

    pub(super) fn report(
        &self,
        severity: Severity,
        code: &'static str,
        message: impl Into<String>,
        remedy: Option<String>,
    ) {
        let (line, field, message) = (self.node.place(), self.path.clone(), message.into());
        self.problems.push(Found { severity, code, line, field, message, remedy });
    }

    fn ask(&self, shape: impl FnOnce() -> Shape) {
        self.problems.ask(|| self.path.clone(), || Asked::Value(shape()));
    }

    /// The value is refused.
    pub(super) fn refuse(&self, message: impl Into<String>) {
        self.report(Severity::Error, codes::VALUE, message, None);
    }

    fn wrong_type(&self, wanted: &str) {
        let remedy = match self.node.value {
            Value::Integer(_) | Value::Bool(_) | Value::Float if wanted == "a text" => {
                Some("put it in quotes".to_owned())
            }
            _ => None,
        };
        let message = format!("expected {wanted}, found {}", self.node.value.what());
        self.report(Severity::Error, codes::TYPE, message, remedy);
    }

    pub(super) fn text(&self) -> Option<String> {
        self.ask(|| Shape::Text);
        let text = self.node.text().map(str::to_owned);
        if text.is_none() {
            self.wrong_type("a text");
        }
        text
    }

    /// A text that parses; the error of the parser is reported.
    pub(super) fn parse<T, E: std::fmt::Display>(&self, parser: impl Fn(&str) -> Result<T, E>) -> Option<T> {
        match parser(&self.text()?) {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse(error.to_string());
                None
            }
        }
    }

    pub(super) fn flag(&self) -> Option<bool> {
        self.ask(|| Shape::Flag);
        if let Value::Bool(flag) = self.node.value {
            return Some(flag);
        }
        self.wrong_type("true or false");
        None
    }

    /// A whole number from `low` to `high`.
    pub(super) fn number(&self, low: u32, high: u32) -> Option<u32> {
        self.ask(|| Shape::Number(low, high));
        let Value::Integer(number) = self.node.value else {
            self.wrong_type("a whole number");
            return None;
        };
        let number = u32::try_from(number).ok().filter(|n| (low..=high).contains(n));
        if number.is_none() {
            self.refuse(format!("expected a number from {low} to {high}"));
        }
        number
    }

    pub(super) fn port(&self) -> Option<u16> {
        self.number(1, 65_535).and_then(|port| u16::try_from(port).ok())
    }

    /// One of `names`.
    pub(super) fn one_of<T: Copy>(&self, names: &[(&str, T)]) -> Option<T> {
        self.ask(|| Shape::OneOf(names.iter().map(|(name, _)| (*name).to_owned()).collect()));
        let text = self.text()?;
        let found = names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if found.is_none() {
            let list: Vec<_> = names.iter().map(|(name, _)| *name).collect();
            let remedy = nearest(&text, list.iter().copied()).map(|name| format!("did you mean {name}?"));
            let message = format!("{text:?} is not one of {}", list.join(", "));
            self.report(Severity::Error, codes::VALUE, message, remedy);
        }
        found
    }

    pub(super) fn items(&self) -> Vec<Self> {
        self.ask(|| Shape::List);
        let Value::List(items) = &self.node.value else {
            self.wrong_type("a list");
            return Vec::new();
        };
        let at = |(index, node)| Self::new(node, format!("{}[{index}]", self.path), self.problems);
        items.iter().enumerate().map(at).collect()
    }

    pub(super) fn texts(&self) -> Vec<String> {
        self.items().iter().filter_map(Field::text).collect()
    }

    /// The entries of an object with free keys.
    pub(super) fn entries(&self) -> Vec<(&'n str, Self)> {
        self.ask(|| Shape::Entries);
        let Value::Map(entries) = &self.node.value else {
            self.wrong_type("an object");
            return Vec::new();
        };
        entries
            .iter()
            .map(|(key, node)| (key.as_str(), Self::new(node, format!("{}.{key}", self.path), self.problems)))
            .collect()
    }

    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        self.entries().into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.text()?))).collect()
    }

    /// As an object with known fields.
    pub(super) fn fields(&self) -> Option<Fields<'n>> {
        self.ask(|| Shape::Fields);
        let Value::Map(entries) = &self.node.value else {
            self.wrong_type("an object");
            return None;
        };
        Some(Fields {
            entries: entries.iter().map(|(key, node)| (key.as_str(), node)).collect(),
            known: Vec::new(),
            of: self.clone(),
        })
    }
}

/// An object with known fields. Call [`Fields::finish`] when all have been asked for.
pub(super) struct Fields<'n> {
    entries: Vec<(&'n str, &'n Node)>,
    known: Vec<&'static str>,
    of: Field<'n>,
}

impl<'n> Fields<'n> {
    /// The object itself, to report on.
    pub(super) fn of(&self) -> &Field<'n> {
        &self.of
    }

    /// The field, even if it holds nothing.
    pub(super) fn raw(&mut self, name: &'static str) -> Option<Field<'n>> {
        self.of.problems.ask(|| self.path_of(name), || Asked::Field);
        self.known.push(name);
        let at = self.entries.iter().position(|(key, _)| *key == name)?;
        let (_, node) = self.entries.swap_remove(at);
        Some(Field::new(node, self.path_of(name), self.of.problems))
    }

    /// The field; one that holds nothing (`~`) counts as absent, as in Kubernetes.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Field<'n>> {
        self.raw(name).filter(|field| !matches!(field.node.value, Value::Null))
    }

    /// The field, whose absence is an error.
    pub(super) fn need(&mut self, name: &'static str) -> Option<Field<'n>> {
        let field = self.take(name);
        if field.is_none() {
            self.missing(name);
        }
        field
    }

    /// Reports a missing field.
    pub(super) fn missing(&self, name: &str) {
        self.of.problems.ask(|| self.path_of(name), || Asked::Needed);
        let mut of = self.of.clone();
        of.path = self.path_of(name);
        // It is there, and what is wrong with it has been told.
        if self.of.problems.found.borrow().iter().any(|found| found.field.starts_with(&of.path)) {
            return;
        }
        of.report(Severity::Error, codes::MISSING, "is missing", Some("add it".to_owned()));
    }

    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        self.take(name)?.text()
    }

    pub(super) fn items(&mut self, name: &'static str) -> Vec<Field<'n>> {
        self.take(name).map(|field| field.items()).unwrap_or_default()
    }

    pub(super) fn texts(&mut self, name: &'static str) -> Vec<String> {
        self.take(name).map(|field| field.texts()).unwrap_or_default()
    }

    /// Fields that tune traffic and have no effect here.
    pub(super) fn without_effect(&mut self, names: &[&'static str]) {
        for name in names {
            if let Some(field) = self.take(name) {
                field.report(
                    Severity::Warning,
                    codes::NO_EFFECT,
                    "has no effect in Egret",
                    Some("traffic flows without it; remove it to silence this".to_owned()),
                );
            }
        }
    }

    /// Fields that cannot be left out safely.
    pub(super) fn unsupported(&mut self, names: &[&'static str], remedy: &str) {
        for name in names {
            if let Some(field) = self.take(name) {
                field.report(
                    Severity::Error,
                    codes::UNSUPPORTED,
                    "is not supported by Egret, and leaving it out could open or redirect traffic",
                    Some(remedy.to_owned()),
                );
            }
        }
    }

    /// Fields that mean nothing for an egress gateway.
    pub(super) fn ignore(&mut self, names: &[&'static str]) {
        for name in names {
            self.raw(name);
        }
    }

    /// Reports the fields nobody asked for.
    pub(super) fn finish(self) {
        for (key, node) in &self.entries {
            let field = Field::new(node, self.path_of(key), self.of.problems);
            let remedy = nearest(key, self.known.iter().copied()).map_or_else(
                || format!("known here: {}", self.known.join(", ")),
                |name| format!("did you mean {name}?"),
            );
            field.report(Severity::Error, codes::UNKNOWN_FIELD, "is not a known field", Some(remedy));
        }
    }

    fn path_of(&self, name: &str) -> String {
        if self.of.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.of.path) }
    }
}

/// The name closest to `given`, if any is close.
pub(super) fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_ascii_lowercase();
    names
        .map(|name| (strsim::damerau_levenshtein(&given, &name.to_ascii_lowercase()), name))
        .filter(|(distance, name)| *distance <= 1.max(name.len() / 3))
        .min()
        .map(|(_, name)| name)
}

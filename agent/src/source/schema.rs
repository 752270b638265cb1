//! The schema of a kind, found by asking its reader: it is given documents, and what it asks of them is the schema. So there is
//! no second list of fields that could differ from the first. Used by `crds`.
//!
//! A reader asks no further where a value is not what it takes it for, and some ask for one field only where another is absent.
//! So it is shown a document for every field that is known so far, with values of the shapes that are known so far, until
//! nothing new is asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value as Json, json};

use super::{
    asked::{Asked, Shape},
    fields::{Field, Problems},
    kinds::{self, Meta},
    node::{Node, Value},
};
use crate::mesh::{Kind, ObjectRef};

/// The key in objects with free keys, and its step in a path. No field is called so, and it can be a header's name.
const ANY: &str = "x-any";
/// A list's item, as a step in a path.
const ITEM: &str = "[0]";

/// Texts to try: what is asked of some values depends on another.
const TEXTS: [&str; 3] = ["a.example.com", "source.ip", "source.namespace"];

/// What has been asked of a value, and of what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// The narrowest it was taken for; unknown for what nobody looked into.
    shape: Option<Shape>,
    fields: BTreeMap<String, Self>,
    needed: BTreeSet<String>,
    item: Option<Box<Self>>,
    any: Option<Box<Self>>,
}

/// The structural schema of a kind's `spec`.
///
/// It says what is certain: the types, ranges and names that the reader takes. Fields it does not know are kept, not
/// pruned as the API server would do silently: an unknown field makes Egret refuse the object, and say why.
pub(super) fn of_spec(kind: Kind) -> Json {
    let mut seen = Seen { shape: Some(Shape::Fields), ..Seen::default() };
    loop {
        let before = seen.clone();
        for path in before.paths() {
            for round in 0..TEXTS.len() {
                let spec = Node { line: 1, value: before.example(&path, round) };
                for (path, asked) in questions(kind, spec) {
                    seen.note(&path, asked);
                }
            }
        }
        if seen == before {
            return seen.json();
        }
    }
}

/// What the reader of `kind` asks of an object with this `spec`.
fn questions(kind: Kind, spec: Node) -> Vec<(String, Asked)> {
    let document = Node { line: 1, value: Value::Map(vec![("spec".to_owned(), spec)]) };
    let problems = Problems::with_questions();
    let meta = Meta {
        object: ObjectRef::new(kind, "default", "example"),
        annotations: BTreeMap::new(),
        created: Arc::from(""),
    };
    // What it makes of it is of no interest.
    drop(Field::new(&document, "", &problems).fields().and_then(|fields| kinds::read(&meta, fields)));
    problems.into_questions()
}

impl Seen {
    /// Writes down a question on the field at `path`, of `spec` or below it.
    fn note(&mut self, path: &str, asked: Asked) {
        let Some(path) = path.strip_prefix("spec").filter(|rest| rest.is_empty() || rest.starts_with('.'))
        else {
            return;
        };
        let steps: Vec<&str> = path
            .split('.')
            .flat_map(|part| {
                let name = part.trim_end_matches(ITEM);
                let items = (part.len() - name.len()) / ITEM.len();
                std::iter::once(name).chain(std::iter::repeat_n(ITEM, items))
            })
            .filter(|step| !step.is_empty())
            .collect();
        let (at, parents) = match (asked, steps.split_last()) {
            (Asked::Needed, Some((name, parents))) => {
                self.at(parents).needed.insert((*name).to_owned());
                return;
            }
            (asked, _) => (asked, &steps[..]),
        };
        let seen = self.at(parents);
        if let Asked::Value(shape) = at {
            seen.narrow(shape);
        }
    }

    fn narrow(&mut self, shape: Shape) {
        let general = |shape: &Shape| matches!(shape, Shape::Text | Shape::Entries);
        // `one_of` asks for a text as well, and an object's entries are counted before its fields are read.
        if self.shape.as_ref().is_none_or(|known| general(known) && !general(&shape)) {
            self.shape = Some(shape);
        }
    }

    fn at(&mut self, steps: &[&str]) -> &mut Self {
        steps.iter().fold(self, |seen, step| match *step {
            ITEM => seen.item.get_or_insert_default(),
            ANY => seen.any.get_or_insert_default(),
            name => seen.fields.entry(name.to_owned()).or_default(),
        })
    }

    /// Of everything that is known, itself included.
    fn paths(&self) -> Vec<Vec<&str>> {
        let fields = self.fields.iter().map(|(name, seen)| (name.as_str(), seen));
        let item = self.item.iter().map(|seen| (ITEM, &**seen));
        let any = self.any.iter().map(|seen| (ANY, &**seen));
        let mut paths = vec![Vec::new()];
        for (step, seen) in fields.chain(item).chain(any) {
            paths.extend(seen.paths().into_iter().map(|rest| [vec![step], rest].concat()));
        }
        paths
    }

    /// A value with what leads to `path`, and what has to be there beside it.
    fn example(&self, path: &[&str], round: usize) -> Value {
        let rest = path.get(1..).unwrap_or_default();
        let of = |seen: Option<&Self>| Node {
            line: 1,
            // A value that no reader takes makes it say what it wants.
            value: seen.map_or(Value::Float, |seen| seen.example(rest, round)),
        };
        match &self.shape {
            None => Value::Float,
            Some(Shape::Text) => Value::Text(TEXTS[round].to_owned()),
            Some(Shape::OneOf(names)) => Value::Text(names[round % names.len()].clone()),
            Some(Shape::Flag) => Value::Bool(true),
            Some(Shape::Number(low, _)) => Value::Integer((*low).into()),
            Some(Shape::List) => Value::List(vec![of(self.item.as_deref())]),
            Some(Shape::Entries) => Value::Map(vec![(ANY.to_owned(), of(self.any.as_deref()))]),
            Some(Shape::Fields) => {
                let wanted = path.first().copied();
                let entries = self.fields.iter().filter_map(|(name, seen)| {
                    let rest = match () {
                        () if wanted == Some(name) => rest,
                        () if self.needed.contains(name) => &[],
                        () => return None,
                    };
                    Some((name.clone(), Node { line: 1, value: seen.example(rest, round) }))
                });
                Value::Map(entries.collect())
            }
        }
    }

    fn json(&self) -> Json {
        let of = |seen: Option<&Self>| seen.cloned().unwrap_or_default().json();
        match &self.shape {
            // Read by nobody here, and whatever it is to others.
            None => json!({"x-kubernetes-preserve-unknown-fields": true}),
            Some(Shape::Text) => json!({"type": "string"}),
            Some(Shape::OneOf(names)) => json!({"type": "string", "enum": names}),
            Some(Shape::Flag) => json!({"type": "boolean"}),
            Some(Shape::Number(low, high)) => json!({"type": "integer", "minimum": low, "maximum": high}),
            Some(Shape::List) => json!({"type": "array", "items": of(self.item.as_deref())}),
            Some(Shape::Entries) => {
                json!({"type": "object", "additionalProperties": of(self.any.as_deref())})
            }
            Some(Shape::Fields) => {
                let properties: serde_json::Map<_, _> =
                    self.fields.iter().map(|(name, seen)| (name.clone(), seen.json())).collect();
                let mut schema = json!({
                    "type": "object",
                    "properties": properties,
                    "x-kubernetes-preserve-unknown-fields": true,
                });
                if !self.needed.is_empty() {
                    schema["required"] = json!(self.needed);
                }
                schema
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::of_spec;
    use crate::mesh::Kind;

    #[test]
    fn shapes_ranges_and_names_are_the_readers() {
        let entry = of_spec(Kind::ServiceEntry);
        let fields = &entry["properties"];
        assert_eq!(entry["required"], json!(["hosts", "ports"]));
        assert_eq!(fields["hosts"], json!({"type": "array", "items": {"type": "string"}}));
        assert_eq!(fields["location"]["enum"], json!(["MESH_EXTERNAL", "MESH_INTERNAL"]));
        let port = &fields["ports"]["items"];
        assert_eq!(port["properties"]["number"], json!({"type": "integer", "minimum": 1, "maximum": 65535}));
        assert_eq!(port["required"], json!(["name", "number"]));
        let endpoint = &fields["endpoints"]["items"]["properties"];
        assert_eq!(endpoint["labels"], json!({"type": "object", "additionalProperties": {"type": "string"}}));
        assert_eq!(endpoint["ports"]["additionalProperties"]["type"], "integer");
    }

    #[test]
    fn what_is_asked_only_in_the_absence_or_presence_of_something_else_is_found() {
        let matches =
            &of_spec(Kind::VirtualService)["properties"]["http"]["items"]["properties"]["match"]["items"];
        for how in ["exact", "prefix", "regex"] {
            let by = |field: &str| matches["properties"][field]["properties"][how].clone();
            assert_eq!(by("uri"), json!({"type": "string"}), "{how}");
            let header = &matches["properties"]["headers"]["additionalProperties"]["properties"][how];
            assert_eq!(*header, json!({"type": "string"}), "{how}");
        }
        let rule = &of_spec(Kind::AuthorizationPolicy)["properties"]["rules"]["items"]["properties"];
        assert_eq!(rule["when"]["items"]["properties"]["values"]["items"], json!({"type": "string"}));
        let principals = &rule["from"]["items"]["properties"]["source"]["properties"]["principals"];
        assert_eq!(*principals, json!({"type": "array", "items": {"type": "string"}}));
        let rule = of_spec(Kind::DestinationRule);
        let policy = &rule["properties"]["trafficPolicy"]["properties"];
        let at_port = &policy["portLevelSettings"]["items"]["properties"];
        assert_eq!(policy["tls"], at_port["tls"]);
        assert_eq!(at_port["port"]["properties"]["number"]["type"], "integer");
    }

    #[test]
    fn what_the_reader_does_not_know_is_kept_for_it_to_refuse() {
        let gateway = of_spec(Kind::Gateway);
        assert_eq!(gateway["x-kubernetes-preserve-unknown-fields"], true);
        let server = &gateway["properties"]["servers"]["items"];
        assert_eq!(server["x-kubernetes-preserve-unknown-fields"], true);
        assert_eq!(server["properties"]["bind"], json!({"x-kubernetes-preserve-unknown-fields": true}));
    }
}

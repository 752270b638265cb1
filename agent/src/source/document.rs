//! One YAML document, or one object of the Kubernetes API → the objects in it, each with its problems.
//!
//! A file is cut at `---` first, so that a document that is not YAML takes no other with it.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    api, codes,
    fields::{Field, Problems, nearest},
    kinds::{self, Item, Meta},
    node::{Node, Value},
    report::{OBJECT, Problem, Severity},
    scalars,
};
use crate::mesh::{HostPattern, Kind, ObjectRef, Selector};

/// Kinds that usually lie beside the ones Egret reads and mean nothing to it.
const BYSTANDERS: [&str; 8] = [
    "Namespace",
    "Service",
    "ServiceAccount",
    "Deployment",
    "ConfigMap",
    "DaemonSet",
    "Pod",
    "Kustomization",
];

/// One definition of an object, or a document that could not be taken for one.
#[derive(Clone, Debug)]
pub(super) struct Definition {
    pub(super) file: Arc<str>,
    pub(super) document: usize,
    pub(super) line: Option<u64>,
    /// The object; absent where the document is unreadable or of no concern.
    pub(super) object: Option<ObjectRef>,
    /// The object, when valid.
    pub(super) item: Option<Item>,
    /// The selector, as far as it can be read, of a policy that is not valid.
    pub(super) selector: Selector,
    /// The hosts, as far as they can be read, of a ServiceEntry, VirtualService or DestinationRule.
    pub(super) hosts: Vec<HostPattern>,
    /// The document is no readable object: its last good objects stay in force.
    pub(super) unreadable: bool,
    /// What an unreadable document seems to hold.
    pub(super) seems: Option<Kind>,
    pub(super) problems: Vec<Problem>,
}

/// Reads a whole file.
pub(super) fn read_file(file: &Arc<str>, text: &str) -> Vec<Definition> {
    let mut found = Vec::new();
    let mut document = 1;
    for (first_line, part) in split(text) {
        let blank = |line: &str| {
            let line = line.trim();
            line.is_empty() || line.starts_with('#') || line == "---" || line == "..."
        };
        if !part.lines().all(blank) {
            found.extend(read_document(file, document, first_line, part));
            document += 1;
        }
    }
    found
}

/// Reads an object of the Kubernetes API, which has neither documents nor lines.
pub(super) fn read_object(place: &Arc<str>, object: &serde_json::Value) -> Vec<Definition> {
    let mut found = Vec::new();
    match Node::from_json(object) {
        Ok(node) => read_node(place, OBJECT, &node, &mut found),
        Err(message) => {
            let mut definition = empty(place, OBJECT, None);
            definition.unreadable = true;
            definition.seems = object.get("kind").and_then(serde_json::Value::as_str).and_then(seems);
            definition.complain(codes::UNREADABLE, format!("cannot be read: {message}"), None);
            found.push(definition);
        }
    }
    found
}

/// Reads a file that has to hold the settings, and may hold nothing else.
pub(super) fn read_settings(file: &Arc<str>, text: &str) -> Vec<Definition> {
    let mut found = read_file(file, text);
    for definition in &mut found {
        if definition.object.take_if(|object| object.kind != Kind::MeshConfig).is_some() {
            definition.item = None;
            let remedy = Some("create it as an object of its own".to_owned());
            definition.complain(codes::INERT, "only the MeshConfig is read from here", remedy);
        }
    }
    if !found.iter().any(|definition| definition.object.is_some() || definition.unreadable) {
        let remedy = "write the MeshConfig document there, as the Helm chart does";
        found.push(without_settings(file, "holds no MeshConfig: the settings stay as they were", remedy));
    }
    found
}

/// What has to hold the settings does not.
pub(super) fn without_settings(file: &Arc<str>, message: &str, remedy: &str) -> Definition {
    let mut definition = empty(file, OBJECT, None);
    definition.unreadable = true;
    definition.seems = Some(Kind::MeshConfig);
    definition.complain(codes::UNREADABLE, message, Some(remedy.to_owned()));
    definition
}

/// A file that could not be read.
pub(super) fn unreadable_file(file: &Arc<str>, message: &str) -> Definition {
    let mut definition = empty(file, 1, None);
    definition.unreadable = true;
    // Nobody knows what is in it, so it is taken for the worst.
    definition.seems = Some(Kind::AuthorizationPolicy);
    definition.problems.push(Problem {
        severity: Severity::Error,
        code: codes::UNREADABLE.to_owned(),
        file: file.to_string(),
        document: 1,
        line: None,
        object: None,
        field: None,
        message: format!("cannot be read: {message}"),
        remedy: Some("correct its permissions and encoding (UTF-8)".to_owned()),
    });
    definition
}

/// Cuts at lines that begin with `---`; a document knows the number of lines before it. In YAML that marker ends a document
/// wherever it stands, in block texts too.
fn split(text: &str) -> Vec<(u64, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut at, mut before, mut line) = (0, 0, 0, 0);
    for part in text.split_inclusive('\n') {
        let marker = part
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && at > start {
            parts.push((before, &text[start..at]));
            (start, before) = (at, line);
        }
        at += part.len();
        line += 1;
    }
    parts.push((before, &text[start..]));
    parts
}

fn empty(file: &Arc<str>, document: usize, line: Option<u64>) -> Definition {
    Definition {
        file: Arc::clone(file),
        document,
        line,
        object: None,
        item: None,
        selector: Selector::default(),
        hosts: Vec::new(),
        unreadable: false,
        seems: None,
        problems: Vec::new(),
    }
}

fn read_document(file: &Arc<str>, document: usize, lines_before: u64, text: &str) -> Vec<Definition> {
    match Node::parse(text) {
        Ok(mut node) => {
            node.shift(lines_before);
            let mut found = Vec::new();
            read_node(file, document, &node, &mut found);
            found
        }
        Err((line, message)) => {
            let mut definition = empty(file, document, line.map(|line| line + lines_before));
            definition.unreadable = true;
            definition.seems = seems(text);
            let remedy = Some("correct the YAML".to_owned());
            definition.complain(codes::SYNTAX, format!("is not valid YAML: {message}"), remedy);
            vec![definition]
        }
    }
}

/// What a text that cannot be parsed seems to hold, where that matters.
fn seems(text: &str) -> Option<Kind> {
    if text.contains("AuthorizationPolicy") {
        Some(Kind::AuthorizationPolicy)
    } else if text.contains("MeshConfig") {
        Some(Kind::MeshConfig)
    } else {
        None
    }
}

impl Definition {
    fn complain(&mut self, code: &str, message: impl Into<String>, remedy: Option<String>) {
        self.problems.push(Problem {
            severity: if code == codes::UNKNOWN_KIND { Severity::Warning } else { Severity::Error },
            code: code.to_owned(),
            file: self.file.to_string(),
            document: self.document,
            line: self.line,
            object: self.object.as_ref().map(ToString::to_string),
            field: None,
            message: message.into(),
            remedy,
        });
    }
}

fn read_node(file: &Arc<str>, document: usize, node: &Node, found: &mut Vec<Definition>) {
    let mut definition = empty(file, document, node.place());
    let text = |key: &str| node.get(key).and_then(Node::text);
    let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        definition.unreadable = true;
        let hint = text("kind").unwrap_or_default();
        definition.seems = seems(hint);
        let remedy = Some("every document needs apiVersion, kind and metadata.name".to_owned());
        definition.complain(codes::NOT_AN_OBJECT, "is not a Kubernetes object", remedy);
        found.push(definition);
        return;
    };
    let (group, version_only) = version.split_once('/').unwrap_or(("", version));
    if kind == "List" || (kind.ends_with("List") && node.get("items").is_some()) {
        if let Some(Node { value: Value::List(items), .. }) = node.get("items") {
            for item in items {
                read_node(file, document, item, found);
            }
        }
        return;
    }
    let Some(api) = api::find(group, kind) else {
        if !BYSTANDERS.contains(&kind) {
            let message = format!("{kind} ({version}) is not a kind Egret reads");
            let meant = nearest(kind, api::APIS.iter().map(|api| api.name));
            let remedy = meant.map(|name| {
                if name == kind { "check apiVersion".to_owned() } else { format!("did you mean {name}?") }
            });
            definition.complain(codes::UNKNOWN_KIND, message, remedy);
            // In the groups that Egret reads a near miss is a mistake: the API server would refuse it.
            if meant.is_some() && ["networking.istio.io", "security.istio.io", "egret.dev"].contains(&group) {
                definition.problems.iter_mut().for_each(|problem| problem.severity = Severity::Error);
            }
            // A misspelt policy must not vanish.
            definition.seems = meant.and_then(seems);
            definition.unreadable = definition.seems.is_some();
        }
        found.push(definition);
        return;
    };
    let kind = api.kind;
    let Some(meta) = read_meta(kind, node, &mut definition) else {
        definition.unreadable = true;
        definition.seems = Some(kind);
        found.push(definition);
        return;
    };
    definition.object = Some(meta.object.clone());
    definition.selector = readable_selector(node);
    definition.hosts = readable_hosts(kind, node, &meta.object.namespace);
    if !api.versions.contains(&version_only) {
        let newest = api.newest();
        let remedy = if group.is_empty() { format!("use {newest}") } else { format!("use {group}/{newest}") };
        definition.complain(
            codes::NOT_AN_OBJECT,
            format!("{version} is not a version of {kind}"),
            Some(remedy),
        );
        found.push(definition);
        return;
    }
    let problems = Problems::default();
    let item = Field::new(node, "", &problems).fields().and_then(|fields| kinds::read(&meta, fields));
    if item.is_none() && !problems.has_errors() {
        definition.complain(codes::MISSING, "spec is missing", Some("add it".to_owned()));
    }
    if !problems.has_errors() {
        definition.item = item;
    }
    for problem in problems.into_inner() {
        definition.problems.push(Problem {
            severity: problem.severity,
            code: problem.code.to_owned(),
            file: file.to_string(),
            document,
            line: problem.line,
            object: Some(meta.object.to_string()),
            field: Some(problem.field),
            message: problem.message,
            remedy: problem.remedy,
        });
    }
    found.push(definition);
}

fn read_meta(kind: Kind, node: &Node, definition: &mut Definition) -> Option<Meta> {
    let metadata = node.get("metadata");
    let text = |key: &str| metadata.and_then(|m| m.get(key)).and_then(Node::text);
    let Some(name) = text("name").filter(|name| !name.is_empty()) else {
        let remedy = Some("add it; a name of digits needs quotes".to_owned());
        definition.complain(codes::NOT_AN_OBJECT, format!("{kind} without metadata.name"), remedy);
        return None;
    };
    let namespace = text("namespace").filter(|namespace| !namespace.is_empty()).unwrap_or("default");
    let annotations = match metadata.and_then(|m| m.get("annotations")).map(|node| &node.value) {
        Some(Value::Map(entries)) => entries
            .iter()
            .map(|(key, node)| {
                let value = node.text().map_or_else(|| format!("{:?}", node.value), str::to_owned);
                (key.clone(), value)
            })
            .collect(),
        _ => BTreeMap::new(),
    };
    let created = text("creationTimestamp").unwrap_or_default().into();
    Some(Meta { object: ObjectRef::new(kind, namespace, name), annotations, created })
}

/// `spec.selector.matchLabels`, if all of it can be read.
fn readable_selector(node: &Node) -> Selector {
    let labels = node.get("spec").and_then(|s| s.get("selector")).and_then(|s| s.get("matchLabels"));
    let Some(Node { value: Value::Map(entries), .. }) = labels else { return Selector::default() };
    let labels: Option<BTreeMap<_, _>> = entries
        .iter()
        .map(|(key, value)| Some((key.clone(), value.text().filter(|v| !v.contains('*'))?.to_owned())))
        .collect();
    labels.map(Selector).unwrap_or_default()
}

/// The hosts of a ServiceEntry, VirtualService or DestinationRule that can be read.
fn readable_hosts(kind: Kind, node: &Node, namespace: &str) -> Vec<HostPattern> {
    let Some(spec) = node.get("spec") else { return Vec::new() };
    let texts: Vec<&str> = match (kind, spec.get("host"), spec.get("hosts").map(|hosts| &hosts.value)) {
        (Kind::DestinationRule, Some(host), _) => host.text().into_iter().collect(),
        (Kind::VirtualService | Kind::ServiceEntry, _, Some(Value::List(hosts))) => {
            hosts.iter().filter_map(Node::text).collect()
        }
        _ => Vec::new(),
    };
    texts
        .into_iter()
        .filter_map(|text| HostPattern::parse(&scalars::qualified(text, namespace)).ok())
        .collect()
}

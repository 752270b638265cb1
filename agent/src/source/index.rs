//! The index: definitions by file, and the last good version of every object. A plain struct fed by events; it compiles to
//! what is in force.
//!
//! `directory` and `kubernetes::configuration` feed it; tests feed it without files. An object of the Kubernetes API counts as a
//! file of its own, which is named `Kind namespace/name`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    codes,
    document::{self, Definition},
    following::Loaded,
    kinds::Item,
    lint,
    report::{Problem, Report, Severity},
};
use crate::mesh::{HostPattern, Kind, ObjectRef, Objects, OutboundTrafficPolicy, RefusedPolicy};

/// Everything known from one source.
#[derive(Debug, Default)]
pub struct Index {
    files: BTreeMap<Arc<str>, Vec<Definition>>,
    good: BTreeMap<ObjectRef, Good>,
    credentials_unknown: bool,
    version: u64,
}

/// The last good version of an object.
#[derive(Debug)]
struct Good {
    item: Item,
    place: Place,
}

/// Objects that are not valid and have no last good version.
#[derive(Debug, Default)]
struct Refused {
    /// AuthorizationPolicies and MeshConfigs.
    policies: Vec<RefusedPolicy>,
    /// ServiceEntries, VirtualServices and DestinationRules.
    hosts: Vec<(ObjectRef, Vec<HostPattern>)>,
    bindings: Vec<ObjectRef>,
    /// Some document cannot be read.
    unreadable: bool,
}

/// Where an object was defined.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) file: Arc<str>,
    pub(super) document: usize,
    pub(super) line: Option<u64>,
}

impl Index {
    /// Takes a file's contents, in place of what it had before.
    pub fn apply(&mut self, file: &str, text: &str) {
        let file: Arc<str> = file.into();
        let definitions = document::read_file(&file, text);
        self.files.insert(file, definitions);
    }

    /// Takes an object of the Kubernetes API, in place of what it was before. The place is what it is forgotten by.
    pub fn apply_object(&mut self, place: &str, object: &serde_json::Value) {
        let place: Arc<str> = place.into();
        let definitions = document::read_object(&place, object);
        self.files.insert(place, definitions);
    }

    /// Takes note that a file is there but cannot be read; its last good objects stay.
    pub fn apply_unreadable(&mut self, file: &str, message: &str) {
        let file: Arc<str> = file.into();
        let definition = document::unreadable_file(&file, message);
        self.files.insert(file, vec![definition]);
    }

    /// Takes the contents of the file which has to hold the settings, and may hold nothing else.
    pub fn apply_settings(&mut self, file: &str, text: &str) {
        let file: Arc<str> = file.into();
        let definitions = document::read_settings(&file, text);
        self.files.insert(file, definitions);
    }

    /// Takes note that the file which has to hold the settings has none, or is not there; the last good settings stay.
    pub fn apply_without_settings(&mut self, file: &str, message: &str, remedy: &str) {
        let file: Arc<str> = file.into();
        let definition = document::without_settings(&file, message, remedy);
        self.files.insert(file, vec![definition]);
    }

    /// Whether there is such a file.
    pub fn has_file(&self, file: &str) -> bool {
        self.files.contains_key(file)
    }

    /// Whether there are settings in good shape, or were.
    pub fn has_settings(&self) -> bool {
        self.good.keys().any(|object| object.kind == Kind::MeshConfig)
    }

    /// Whoever asks may not read Secrets: that a credential is not there means nothing.
    pub fn without_credentials(&mut self) {
        self.credentials_unknown = true;
    }

    /// Forgets a file with everything in it.
    pub fn delete(&mut self, file: &str) {
        self.files.remove(file);
    }

    /// Forgets every file that is not named.
    pub fn retain(&mut self, files: &BTreeSet<String>) {
        self.files.retain(|file, _| files.contains(&**file));
    }

    /// Settles what is in force now, and compiles it.
    pub fn load(&mut self) -> Loaded {
        let mut problems: Vec<Problem> =
            self.files.values().flatten().flat_map(|definition| definition.problems.clone()).collect();
        let refused = self.settle(&mut problems);
        let settings = self.good.iter().filter(|(object, _)| object.kind == Kind::MeshConfig);
        for (object, good) in settings.skip(1) {
            problems.push(Problem {
                severity: Severity::Error,
                code: codes::DUPLICATE.to_owned(),
                file: good.place.file.to_string(),
                document: good.place.document,
                line: good.place.line,
                object: Some(object.to_string()),
                field: None,
                message:
                    "there is another MeshConfig; until one of them goes, unregistered hosts are refused"
                        .to_owned(),
                remedy: Some("keep one of them".to_owned()),
            });
        }
        let objects = self.objects(refused);
        let places = self.good.iter().map(|(object, good)| (object.clone(), good.place.clone())).collect();
        lint::check(&objects, &places, &mut problems);
        problems.sort_by(|a, b| {
            // What follows from a problem comes after it.
            let follows = |p: &Problem| p.code == codes::LAST_GOOD || p.code == codes::FAIL_CLOSED;
            let place = |p: &Problem| (p.file.clone(), p.document, follows(p), p.line, p.field.clone());
            place(a).cmp(&place(b))
        });
        self.version += 1;
        let report = Report { objects: self.good.len(), problems };
        Loaded { snapshot: Arc::new(objects.compile(self.version)), report: Arc::new(report) }
    }

    /// Brings `good` up to date. Returns the objects that are refused and have no last good version, with their selector.
    fn settle(&mut self, problems: &mut Vec<Problem>) -> Refused {
        let mut defined: BTreeMap<ObjectRef, Vec<&Definition>> = BTreeMap::new();
        for definition in self.files.values().flatten() {
            if let Some(object) = &definition.object {
                defined.entry(object.clone()).or_default().push(definition);
            }
        }
        let mut refused = Refused::default();
        for (object, definitions) in &defined {
            let first = definitions[0];
            if let ([only], Some(item)) = (&definitions[..], &first.item) {
                let place = Place { file: Arc::clone(&only.file), document: only.document, line: only.line };
                self.good.insert(object.clone(), Good { item: item.clone(), place });
                continue;
            }
            if definitions.len() > 1 {
                let elsewhere = format!("{} (document {})", first.file, first.document);
                for again in &definitions[1..] {
                    problems.push(problem(
                        again,
                        codes::DUPLICATE,
                        Severity::Error,
                        format!("is defined already in {elsewhere}, and none of the definitions is taken"),
                        Some("keep one of them"),
                    ));
                }
            }
            self.without_good(object, definitions, problems, &mut refused);
        }
        let unreadable: BTreeSet<Arc<str>> = self
            .files
            .values()
            .flatten()
            .filter(|definition| definition.unreadable)
            .map(|definition| Arc::clone(&definition.file))
            .collect();
        refused.unreadable = self.files.values().flatten().any(|definition| definition.unreadable);
        self.good
            .retain(|object, good| defined.contains_key(object) || unreadable.contains(&good.place.file));
        // Policies that an unreadable document may hold and nobody has seen in good shape.
        for definition in self.files.values().flatten().filter(|definition| definition.unreadable) {
            let Some(kind @ (Kind::AuthorizationPolicy | Kind::MeshConfig)) = definition.seems else {
                continue;
            };
            let kept = self.good.iter().any(|(object, good)| {
                object.kind == kind && good.place.file == definition.file && !defined.contains_key(object)
            });
            if !kept {
                let name = format!("{} document {}", definition.file, definition.document);
                refused.policies.push(RefusedPolicy {
                    object: ObjectRef::new(kind, "", name),
                    selector: definition.selector.clone(),
                });
                problems.push(problem(
                    definition,
                    codes::FAIL_CLOSED,
                    Severity::Error,
                    fail_closed(kind),
                    None,
                ));
            }
        }
        refused
    }

    fn without_good(
        &self,
        object: &ObjectRef,
        definitions: &[&Definition],
        problems: &mut Vec<Problem>,
        refused: &mut Refused,
    ) {
        let first = definitions[0];
        if self.good.contains_key(object) {
            let message = "its last good version stays in force".to_owned();
            problems.push(problem(first, codes::LAST_GOOD, Severity::Warning, message, None));
        } else if matches!(object.kind, Kind::ServiceEntry | Kind::VirtualService | Kind::DestinationRule) {
            let hosts: Vec<_> = definitions.iter().flat_map(|d| d.hosts.clone()).collect();
            problems.push(problem(
                first,
                codes::FAIL_CLOSED,
                Severity::Error,
                fail_closed(object.kind),
                None,
            ));
            refused.hosts.push((object.clone(), hosts));
        } else if matches!(object.kind, Kind::AuthorizationPolicy | Kind::MeshConfig | Kind::WorkloadBinding)
        {
            problems.push(problem(
                first,
                codes::FAIL_CLOSED,
                Severity::Error,
                fail_closed(object.kind),
                None,
            ));
            if object.kind == Kind::WorkloadBinding {
                refused.bindings.push(object.clone());
                return;
            }
            for definition in definitions {
                let selector = definition.selector.clone();
                refused.policies.push(RefusedPolicy { object: object.clone(), selector });
            }
        }
    }

    fn objects(&self, refused: Refused) -> Objects {
        let mut objects = Objects::default();
        let mut settings = Vec::new();
        for (object, good) in &self.good {
            match &good.item {
                Item::ServiceEntry(it) => objects.service_entries.push(Arc::clone(it)),
                Item::Gateway(it) => objects.gateways.push(Arc::clone(it)),
                Item::VirtualService(it) => objects.virtual_services.push(Arc::clone(it)),
                Item::DestinationRule(it) => objects.destination_rules.push(Arc::clone(it)),
                Item::Policy(it) => objects.policies.extend(it.clone()),
                Item::Credential(it) => objects.credentials.extend(it.clone()),
                Item::Settings(it) => settings.push((object, it)),
                Item::Binding(it) => objects.bindings.push(Arc::clone(it)),
            }
        }
        // Settings that cannot be trusted must not open anything.
        let mut closed = settings.len() > 1;
        if let Some((_, first)) = settings.first() {
            objects.settings = (***first).clone();
        }
        objects.refused_hosts = refused.hosts;
        objects.refused_bindings = refused.bindings;
        objects.may_hold_more_bindings = refused.unreadable;
        objects.credentials_unknown = self.credentials_unknown;
        for policy in refused.policies {
            match policy.object.kind {
                Kind::MeshConfig => closed = true,
                _ => objects.refused_policies.push(policy),
            }
        }
        if closed {
            objects.settings.outbound_traffic_policy = OutboundTrafficPolicy::RegistryOnly;
        }
        // An unreadable document has no namespace; it could have been for the whole mesh.
        let root: Arc<str> = objects.settings.root_namespace.as_str().into();
        for policy in objects.refused_policies.iter_mut().filter(|p| p.object.namespace.is_empty()) {
            policy.object.namespace = Arc::clone(&root);
        }
        objects
    }
}

fn fail_closed(kind: Kind) -> String {
    match kind {
        Kind::MeshConfig => {
            "has no last good version, so unregistered hosts are refused until it is corrected".to_owned()
        }
        Kind::VirtualService => {
            "has no last good version, so its hosts have no route until it is corrected".to_owned()
        }
        Kind::ServiceEntry => {
            "has no last good version, so its hosts are refused until it is corrected, not passed through"
                .to_owned()
        }
        Kind::WorkloadBinding => {
            "has no last good version, so it enrols nothing until it is corrected; what it has \
                                  enrolled before stays enrolled"
                .to_owned()
        }
        Kind::DestinationRule => {
            "has no last good version, so clear requests to its host are refused until it is corrected"
                .to_owned()
        }
        _ => "has no last good version, so everything it could apply to is denied until it is corrected"
            .to_owned(),
    }
}

fn problem(
    definition: &Definition,
    code: &str,
    severity: Severity,
    message: String,
    remedy: Option<&str>,
) -> Problem {
    Problem {
        severity,
        code: code.to_owned(),
        file: definition.file.to_string(),
        document: definition.document,
        line: definition.line,
        object: definition.object.as_ref().map(ToString::to_string),
        field: None,
        message,
        remedy: remedy.map(str::to_owned),
    }
}

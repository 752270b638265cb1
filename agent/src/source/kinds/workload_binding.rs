//! Reads Egret's own WorkloadBinding.

use std::sync::Arc;

use crate::{
    mesh::{CgroupSelector, SpiffeId, WorkloadBinding},
    source::{
        codes,
        fields::{Field, Fields},
        kinds::existing_connections,
        report::Severity,
    },
};

use super::Meta;

pub(super) fn read(meta: &Meta, mut spec: Fields<'_>) -> Option<WorkloadBinding> {
    let namespace = &meta.object.namespace;
    let account = spec
        .need("serviceAccount")
        .and_then(|field| field.parse(|text| SpiffeId::new("any", namespace, text).map(|_| text.to_owned())));
    let strict_start = spec.take("strictStart").is_some_and(|field| field.flag() == Some(true));
    let cgroups = spec.need("cgroups").map(|list| {
        let items = list.items();
        if items.is_empty() {
            list.refuse("is empty: such a binding enrols nothing");
        }
        let read = |item: &Field<'_>| {
            let selector = selector(item)?;
            if strict_start && selector.parent().is_none() {
                item.refuse(
                    "strictStart needs a path that has no wildcard but in its last two names, and a parent other than the root",
                );
            }
            Some(selector)
        };
        items.iter().filter_map(read).collect()
    });
    let existing_connections =
        spec.take("existingConnections").and_then(|field| existing_connections::read(&field));
    spec.finish();
    Some(WorkloadBinding {
        object: meta.object.clone(),
        created: Arc::clone(&meta.created),
        service_account: account?.into(),
        cgroups: cgroups?,
        strict_start,
        existing_connections,
    })
}

fn selector(item: &Field<'_>) -> Option<CgroupSelector> {
    let mut fields = item.fields()?;
    let unit = fields.take("systemdUnit");
    let container = fields.take("container");
    let path = fields.take("path");
    fields.finish();
    match (unit, container, path) {
        (Some(unit), None, None) => unit.parse(CgroupSelector::systemd_unit),
        (None, Some(container), None) => container.parse(CgroupSelector::container),
        (None, None, Some(path)) => path.parse(CgroupSelector::path),
        (None, None, None) => {
            let remedy = Some("add one of them".to_owned());
            let message = "none of systemdUnit, container and path is given";
            item.report(Severity::Error, codes::MISSING, message, remedy);
            None
        }
        _ => {
            item.refuse("only one of systemdUnit, container and path may be given");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        mesh::ExistingConnections,
        source::{
            codes,
            index::Index,
            tests::{load, snapshot},
        },
    };

    fn binding(spec: &str) -> String {
        format!(
            "apiVersion: egret.dev/v1alpha1\nkind: WorkloadBinding\nmetadata: {{name: backup, namespace: ops}}\nspec: {spec}\n"
        )
    }

    const GOOD: &str =
        "{serviceAccount: backup, cgroups: [{systemdUnit: 'backup-*.service'}, {path: a/**/b}]}";

    #[test]
    fn names_an_identity_and_cgroups() {
        let given = snapshot(&binding(GOOD));
        let [read] = &given.bindings[..] else { panic!("one binding") };
        assert_eq!((read.name().as_str(), &*read.service_account), ("ops/backup", "backup"));
        assert!(read.selects(&["system.slice", "backup-1.service"]) && read.selects(&["a", "x", "b"]));
        assert!(!read.selects(&["system.slice", "sshd.service"]));
    }

    #[test]
    fn existing_connections_are_the_bindings_own_or_the_meshs() {
        let given = |more: &str| {
            let spec = format!("{{serviceAccount: b, cgroups: [{{path: a}}]{more}}}");
            snapshot(&binding(&spec)).bindings[0].existing_connections
        };
        assert_eq!(given(""), None);
        assert_eq!(given(", existingConnections: {mode: RESET}"), Some(ExistingConnections::Reset));
        assert_eq!(
            given(", existingConnections: {mode: KEEP_UNTIL, keepFor: 10m}"),
            Some(ExistingConnections::KeepUntil(Duration::from_mins(10)))
        );
    }

    #[test]
    fn what_is_wrong_is_said_at_its_field() {
        for (spec, field, code) in [
            ("{cgroups: [{path: a}]}", "spec.serviceAccount", codes::MISSING),
            ("{serviceAccount: Back_up, cgroups: [{path: a}]}", "spec.serviceAccount", codes::VALUE),
            ("{serviceAccount: b}", "spec.cgroups", codes::MISSING),
            ("{serviceAccount: b, cgroups: []}", "spec.cgroups", codes::VALUE),
            ("{serviceAccount: b, cgroups: [{}]}", "spec.cgroups[0]", codes::MISSING),
            ("{serviceAccount: b, cgroups: [{path: a, container: b}]}", "spec.cgroups[0]", codes::VALUE),
            ("{serviceAccount: b, cgroups: [{path: ../a}]}", "spec.cgroups[0].path", codes::VALUE),
            ("{serviceAccount: b, cgroups: [{systemdUnit: a}]}", "spec.cgroups[0].systemdUnit", codes::VALUE),
            (
                "{serviceAccount: b, cgroups: [{unit: a.service}]}",
                "spec.cgroups[0].unit",
                codes::UNKNOWN_FIELD,
            ),
            ("{serviceAccount: b, strictStart: 1, cgroups: [{path: a/b}]}", "spec.strictStart", codes::TYPE),
            (
                "{serviceAccount: b, strictStart: true, cgroups: [{path: a/b}, {path: a/**/b}]}",
                "spec.cgroups[1]",
                codes::VALUE,
            ),
            (
                "{serviceAccount: b, strictStart: true, cgroups: [{systemdUnit: a.service}]}",
                "spec.cgroups[0]",
                codes::VALUE,
            ),
            (
                "{serviceAccount: b, existingConnections: {mode: KILL}, cgroups: [{path: a}]}",
                "spec.existingConnections.mode",
                codes::VALUE,
            ),
            ("{serviceAccount: b, cgroup: []}", "spec.cgroup", codes::UNKNOWN_FIELD),
        ] {
            let loaded = load(&binding(spec));
            let found =
                loaded.report.problems.iter().any(|p| p.field.as_deref() == Some(field) && p.code == code);
            assert!(found, "{spec}: {:?}", loaded.report);
            // Never good: it enrols nothing, says so, and what it may have enrolled before stays.
            assert!(loaded.report.problems.iter().any(|p| p.code == codes::FAIL_CLOSED), "{spec}");
            assert!(loaded.snapshot.bindings.is_empty());
            assert_eq!(loaded.snapshot.refused_bindings.len(), 1, "{spec}");
        }
    }

    #[test]
    fn the_last_good_version_stays() {
        let mut index = Index::default();
        index.apply("a.yaml", &binding(GOOD));
        index.load();
        index.apply("a.yaml", &binding("{serviceAccount: other}"));
        let loaded = index.load();
        assert_eq!(&*loaded.snapshot.bindings[0].service_account, "backup");
        assert!(loaded.report.problems.iter().any(|problem| problem.code == codes::LAST_GOOD));
        assert!(loaded.snapshot.refused_bindings.is_empty());
    }

    #[test]
    fn what_cannot_be_read_may_hold_one() {
        assert!(load("a: [").snapshot.may_hold_more_bindings);
        assert!(!load(&binding(GOOD)).snapshot.may_hold_more_bindings);
    }
}

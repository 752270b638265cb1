//! CustomResourceDefinitions of the Istio kinds that Egret reads, for clusters without Istio: names, versions, columns and the
//! stored version are Istio's own, the schema is what Egret's readers take. `egret crds` prints them, the Helm chart has them.

use serde_json::{Value, json};

use super::{
    api::{APIS, Api},
    schema,
};
use crate::mesh::Kind;

/// All of them.
pub fn definitions() -> Vec<Value> {
    APIS.iter().filter(|api| api.group.ends_with(".istio.io")).map(definition).collect()
}

fn definition(api: &Api) -> Value {
    let (short, columns) = short_name_and_columns(api.kind);
    let category = api.group.replace("istio.io", "istio-io").replace('.', "-");
    let singular = api.name.to_ascii_lowercase();
    let schema = json!({
        "type": "object",
        "properties": {
            "spec": schema::of_spec(api.kind),
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        },
    });
    let mut columns: Vec<Value> = columns
        .iter()
        .map(|(name, path)| json!({"name": name, "type": "string", "jsonPath": path}))
        .collect();
    columns.push(json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}));
    let versions: Vec<Value> = api
        .versions
        .iter()
        .map(|version| {
            json!({
                "name": version,
                "served": true,
                "storage": *version == api.newest(),
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns,
                "schema": {"openAPIV3Schema": schema},
            })
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{}", api.plural, api.group),
            // Helm deletes what a release had and has no more, and with a definition goes every object of it. The chart has it no more
            // when somebody else has made it again, with Istio or by `egret crds`.
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {
            "group": api.group,
            "scope": "Namespaced",
            "names": {
                "kind": api.name,
                "listKind": format!("{}List", api.name),
                "plural": api.plural,
                "singular": singular,
                "shortNames": [short],
                "categories": ["istio-io", category],
            },
            "versions": versions,
        },
    })
}

/// What `kubectl get` takes and shows.
fn short_name_and_columns(kind: Kind) -> (&'static str, &'static [(&'static str, &'static str)]) {
    match kind {
        Kind::ServiceEntry => (
            "se",
            &[("Hosts", ".spec.hosts"), ("Location", ".spec.location"), ("Resolution", ".spec.resolution")],
        ),
        Kind::Gateway => ("gw", &[]),
        Kind::VirtualService => ("vs", &[("Gateways", ".spec.gateways"), ("Hosts", ".spec.hosts")]),
        Kind::DestinationRule => ("dr", &[("Host", ".spec.host")]),
        Kind::AuthorizationPolicy => ("ap", &[("Action", ".spec.action")]),
        Kind::Secret | Kind::MeshConfig | Kind::WorkloadBinding => ("", &[]),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use serde_json::{Value, json};

    use super::definitions;

    #[test]
    fn the_stored_version_is_istios() {
        let all = definitions();
        assert_eq!(all.len(), 5);
        for definition in all {
            let versions = definition["spec"]["versions"].as_array().unwrap();
            let stored: Vec<_> = versions.iter().filter(|version| version["storage"] == true).collect();
            assert!(stored.len() == 1 && stored[0]["name"] == "v1", "{}", definition["metadata"]["name"]);
        }
    }

    #[test]
    fn the_chart_has_these() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/egret/files/crds");
        for definition in definitions() {
            let name = definition["metadata"]["name"].as_str().unwrap();
            let text = fs::read_to_string(directory.join(format!("{name}.yaml"))).unwrap();
            let found: Value = serde_saphyr::from_str(&text).unwrap();
            assert!(found == definition, "{name}: run `cargo xtask manifests`");
        }
    }

    /// A part of JSON schema: as much as the definitions use.
    fn conforms(schema: &Value, value: &Value) -> bool {
        let inside = |field: &str| schema.get(field).unwrap_or(&Value::Null);
        let typed = match inside("type").as_str() {
            None => true,
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("integer") => value.as_u64().is_some_and(|number| {
                (inside("minimum").as_u64().unwrap()..=inside("maximum").as_u64().unwrap()).contains(&number)
            }),
            Some("array") => {
                value.as_array().is_some_and(|items| items.iter().all(|item| conforms(inside("items"), item)))
            }
            Some("object") => value.as_object().is_some_and(|object| {
                let any = inside("additionalProperties");
                object
                    .iter()
                    .all(|(name, value)| conforms(inside("properties").get(name).unwrap_or(any), value))
            }),
            Some(other) => panic!("type {other}"),
        };
        let named = inside("enum").as_array().is_none_or(|names| names.contains(value));
        let needed = inside("required").as_array().into_iter().flatten();
        typed && named && needed.into_iter().all(|name| value.get(name.as_str().unwrap()).is_some())
    }

    #[test]
    fn the_tutorials_objects_conform_and_mistakes_do_not() {
        let all = definitions();
        let schema_of = |kind: &str| {
            let of_kind = all.iter().find(|definition| definition["spec"]["names"]["kind"] == kind);
            of_kind.unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
        };
        let mut tried = 0;
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo");
        for step in
            fs::read_dir(demo).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir())
        {
            for file in fs::read_dir(step).unwrap().map(|entry| entry.unwrap().path()) {
                let object: Value = serde_saphyr::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
                if object["kind"] != "MeshConfig" {
                    assert!(
                        conforms(&schema_of(object["kind"].as_str().unwrap()), &object),
                        "{}",
                        file.display()
                    );
                    tried += 1;
                }
            }
        }
        assert!(tried >= 6, "{tried}");
        let rule = schema_of("DestinationRule");
        assert!(conforms(&rule, &json!({"spec": {"host": "a.b", "later": 1}})));
        for wrong in [
            json!({"spec": {}}),
            json!({"spec": {"host": 1}}),
            json!({"spec": {"host": "a.b", "trafficPolicy": {"tls": {"mode": "STRICT"}}}}),
        ] {
            assert!(!conforms(&rule, &wrong), "{wrong}");
        }
    }
}

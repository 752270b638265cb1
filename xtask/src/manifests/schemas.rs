//! JSON schemas of Kubernetes' objects for kubeconform, made from the OpenAPI document that is part of Kubernetes' own Go module:
//! the module cache has it where the test cluster was built, so nothing is looked up anywhere.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

const PREFIX: &str = "#/definitions/";

/// Writes a schema for each kind into `target/schemas/VERSION`, once, and returns the directory.
pub(super) fn write(root: &Path, version: &str) -> Result<PathBuf> {
    let directory = root.join("target/schemas").join(version);
    if directory.is_dir() {
        return Ok(directory);
    }
    let swagger = module(version)?.join("api/openapi-spec/swagger.json");
    let text = fs::read_to_string(&swagger).with_context(|| swagger.display().to_string())?;
    let document: Value = serde_json::from_str(&text)?;
    let definitions = document["definitions"].as_object().context("no definitions")?;
    // Complete or not there.
    let making = directory.with_extension("making");
    fs::create_dir_all(&making)?;
    for (name, schema) in by_kind(definitions) {
        fs::write(making.join(format!("{name}.json")), schema.to_string())?;
    }
    fs::rename(&making, &directory)?;
    Ok(directory)
}

/// Where Go keeps the module.
fn module(version: &str) -> Result<PathBuf> {
    let mut go = Command::new("go");
    // From nowhere: no go.mod is to be read.
    go.args(["mod", "download", "-json", &format!("k8s.io/kubernetes@v{version}")]).current_dir("/");
    let output = go.output().context("cannot run go, by which Kubernetes' schemas are found")?;
    if !output.status.success() {
        bail!("Kubernetes' Go module is not to be had: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    Ok(answer["Dir"].as_str().context("go says no directory")?.into())
}

/// The schema of every kind, under kubeconform's name for it, with all it refers to.
fn by_kind(definitions: &Map<String, Value>) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (name, definition) in definitions {
        for kind in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let text = |key: &str| kind[key].as_str().unwrap_or_default().to_ascii_lowercase();
            let group = text("group");
            let group = group.split('.').next().filter(|group| !group.is_empty());
            let suffix = group.map(|group| format!("{group}-")).unwrap_or_default() + &text("version");
            let mut needed = BTreeSet::new();
            refer(name, definitions, &mut needed);
            let inner: Map<String, Value> = needed
                .into_iter()
                .map(|name| {
                    let mut definition = definitions[&name].clone();
                    strict(&mut definition);
                    (name, definition)
                })
                .collect();
            let schema = json!({"$ref": format!("{PREFIX}{name}"), "definitions": inner});
            found.push((format!("{}-{suffix}", text("kind")), schema));
        }
    }
    found
}

/// All that `name` refers to, itself included.
fn refer(name: &str, definitions: &Map<String, Value>, found: &mut BTreeSet<String>) {
    if definitions.contains_key(name) && found.insert(name.to_owned()) {
        references(&definitions[name], &mut |other| refer(other, definitions, found));
    }
}

fn references(value: &Value, then: &mut impl FnMut(&str)) {
    match value {
        Value::Object(object) => {
            if let Some(name) = object.get("$ref").and_then(Value::as_str) {
                then(name.trim_start_matches(PREFIX));
            }
            object.values().for_each(|value| references(value, then));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, then)),
        _ => {}
    }
}

/// Refuses fields that are not there, and says what OpenAPI says by a format.
fn strict(value: &mut Value) {
    if let Value::Object(object) = value {
        if object.get("format").and_then(Value::as_str) == Some("int-or-string") {
            object.remove("format");
            object.insert("type".to_owned(), json!(["integer", "string"]));
        }
        if object.get("properties").is_some_and(Value::is_object)
            && !object.contains_key("additionalProperties")
        {
            object.insert("additionalProperties".to_owned(), json!(false));
        }
        object.values_mut().for_each(strict);
    }
    if let Value::Array(values) = value {
        values.iter_mut().for_each(strict);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::by_kind;

    #[test]
    fn a_kind_has_all_it_refers_to_and_no_other_field() {
        let document = json!({
            "io.Widget": {
                "properties": {"spec": {"$ref": "#/definitions/io.Spec"}},
                "x-kubernetes-group-version-kind": [{"group": "apps.k8s.io", "version": "v1", "kind": "Widget"}],
            },
            "io.Spec": {"properties": {"port": {"format": "int-or-string", "type": "string"}, "again": {"$ref": "#/definitions/io.Spec"}}},
            "io.Other": {"properties": {}},
        });
        let made = by_kind(document.as_object().unwrap());
        let [(name, schema)] = &made[..] else { panic!("one kind") };
        assert_eq!(name, "widget-apps-v1");
        assert_eq!(schema["$ref"], "#/definitions/io.Widget");
        let inner = schema["definitions"].as_object().unwrap();
        assert_eq!(inner.keys().collect::<Vec<_>>(), ["io.Spec", "io.Widget"]);
        assert_eq!(inner["io.Spec"]["additionalProperties"], false);
        assert_eq!(inner["io.Spec"]["properties"]["port"]["type"], json!(["integer", "string"]));
    }
}

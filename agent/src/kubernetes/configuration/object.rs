//! An object of the API → what the index takes of it, under the name that operators know it by.

use kube::api::{ApiResource, DynamicObject};
use serde_json::{Value, json};

use super::{
    super::names,
    subject::{SECRET_TYPES, Subject},
};
use crate::source::index::Index;

/// One object.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// `Kind namespace/name`.
    pub(super) place: String,
    /// What it says. Its status and who has written which field are not kept, and change nothing.
    pub(super) value: Value,
}

/// What is read of an object; nothing of one that is not for Egret.
pub(super) fn read(subject: Subject, resource: &ApiResource, object: DynamicObject) -> Option<Object> {
    let place = place(resource, &object);
    let DynamicObject { metadata, data, .. } = object;
    let mut value = data;
    let fields = value.as_object_mut()?;
    if subject == Subject::Secret {
        let is_read = |given: &Value| given.as_str().is_some_and(|given| SECRET_TYPES.contains(&given));
        // As the API server does, where it is not said.
        if !fields.get("type").is_none_or(is_read) {
            return None;
        }
    }
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    let kept = json!({
        "name": metadata.name,
        "namespace": metadata.namespace,
        "annotations": annotations,
        "creationTimestamp": metadata.creation_timestamp,
    });
    fields.remove("status");
    fields.insert("apiVersion".to_owned(), resource.api_version.as_str().into());
    fields.insert("kind".to_owned(), resource.kind.as_str().into());
    fields.insert("metadata".to_owned(), kept);
    Some(Object { place, value })
}

/// The name of an object in problems, which is what the index knows it by.
pub(super) fn place(resource: &ApiResource, object: &DynamicObject) -> String {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    format!("{} {namespace}/{name}", resource.kind)
}

/// Hands an object to the index.
pub(super) fn apply(index: &mut Index, subject: Subject, object: &Object) {
    if subject != Subject::Settings {
        return index.apply_object(&object.place, &object.value);
    }
    match object.value.pointer(&format!("/data/{}", names::MESH_KEY)).and_then(Value::as_str) {
        Some(text) => index.apply_settings(&object.place, text),
        None => index.apply_without_settings(
            &object.place,
            &format!(
                "has no key {}: the settings stay as they were, and roles that start wait",
                names::MESH_KEY
            ),
            "put the MeshConfig document there, as the Helm chart does",
        ),
    }
}

/// Takes note that the settings are not there.
pub(super) fn apply_without_settings(index: &mut Index, place: &str) {
    index.apply_without_settings(
        place,
        "is not there: the settings stay as they were, and roles that start wait",
        "create it, as the Helm chart does",
    );
}

#[cfg(test)]
mod tests {
    use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
    use serde_json::json;

    use super::{Subject, read};

    #[test]
    fn only_what_matters_is_kept() {
        let resource =
            ApiResource::from_gvk(&GroupVersionKind::gvk("networking.istio.io", "v1", "ServiceEntry"));
        let given = |labels: &str, status: &str| -> DynamicObject {
            serde_json::from_value(json!({
                "metadata": {
                    "name": "a", "namespace": "b", "uid": "c", "resourceVersion": status, "labels": {"x": labels},
                    "creationTimestamp": "2026-01-02T03:04:05Z",
                    "annotations": {"y": "z", "kubectl.kubernetes.io/last-applied-configuration": labels},
                    "managedFields": [{"manager": "kubectl"}],
                },
                "spec": {"hosts": ["test.com"]}, "status": {"x": status},
            }))
            .unwrap()
        };
        let object = read(Subject::ServiceEntry, &resource, given("1", "1")).unwrap();
        assert_eq!(object.place, "ServiceEntry b/a");
        assert_eq!(
            object.value,
            json!({
                "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
                "metadata": {
                    "name": "a", "namespace": "b", "annotations": {"y": "z"}, "creationTimestamp": "2026-01-02T03:04:05Z",
                },
                "spec": {"hosts": ["test.com"]},
            })
        );
        assert_eq!(read(Subject::ServiceEntry, &resource, given("2", "2")).unwrap().value, object.value);
    }

    #[test]
    fn secrets_of_others_are_not_kept() {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Secret"));
        let taken = |kind: serde_json::Value| {
            let secret = json!({"metadata": {"name": "a", "namespace": "b"}, "type": kind, "data": {}});
            read(Subject::Secret, &resource, serde_json::from_value(secret).unwrap()).is_some()
        };
        assert!(taken("Opaque".into()) && taken("kubernetes.io/tls".into()));
        for other in
            ["helm.sh/release.v1", "kubernetes.io/service-account-token", "kubernetes.io/basic-auth", ""]
        {
            assert!(!taken(other.into()), "{other}");
        }
    }
}

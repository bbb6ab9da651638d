//! The shape of a pod, checked once.
//!
//! In: any JSON. Out: a [`Pod`], whose metadata, containers, ports and volumes have the types that Kubernetes gives them and
//! whose container names are unique DNS labels. Never: a change; what Weft does not know passes as it is.

use std::collections::BTreeSet;
use std::fmt;

use crate::json::{Field, Json};

use crate::decide::{Refusal, RefusalKind};

/// A pod (or pod template) whose shape has been checked. `null` counts as absent, as for the API server.
#[derive(Debug, Clone, Copy)]
pub struct Pod<'a> {
    value: &'a Json<'a>,
    labels: &'a Json<'a>,
    annotations: &'a Json<'a>,
}

impl<'a> Pod<'a> {
    /// Checks the shape.
    ///
    /// # Errors
    /// A [`Refusal`] that names the first field of a wrong type, and container names that are missing, malformed or doubled.
    pub fn read(value: &'a Json<'a>) -> Result<Self, Refusal> {
        if !value.is_object() {
            return Err(malformed("", "the pod is not an object"));
        }
        let pod = Self {
            value,
            labels: &value["metadata"]["labels"],
            annotations: &value["metadata"]["annotations"],
        };
        object(&value["metadata"], "", "metadata")?;
        for field in ["labels", "annotations"] {
            for (name, text) in object(&value["metadata"][field], "metadata", field)?
                .into_iter()
                .flatten()
            {
                if text.as_str().is_none() {
                    return Err(malformed(
                        format!("metadata.{field}[{name:.80}]"),
                        "not a string; quote numbers and booleans",
                    ));
                }
            }
        }
        if object(&value["spec"], "", "spec")?.is_none() {
            return Err(malformed("spec", "missing"));
        }
        let mut names = BTreeSet::new();
        for field in ["containers", "initContainers"] {
            let list = array(value["spec"].get(field), "spec", field)?;
            if field == "containers" && list.is_empty() {
                return Err(malformed("spec.containers", "a pod needs at least one container"));
            }
            for (index, container) in list.iter().enumerate() {
                let place = Place { field, index };
                let name = container_name(container, place)?;
                if !names.insert(name) {
                    return Err(malformed(
                        format!("{place}.name"),
                        "two containers have this name",
                    ));
                }
                check_container(container, place)?;
            }
        }
        let volumes = array(value["spec"].get("volumes"), "spec", "volumes")?;
        let mut names = BTreeSet::new();
        for (index, volume) in volumes.iter().enumerate() {
            match volume["name"].as_str() {
                Some(name) if names.insert(name) => {}
                Some(_) => {
                    return Err(malformed(
                        format!("spec.volumes[{index}].name"),
                        "two volumes have this name",
                    ));
                }
                None => {
                    return Err(malformed(
                        format!("spec.volumes[{index}].name"),
                        "missing or not a string",
                    ));
                }
            }
        }
        Ok(pod)
    }

    /// The pod as JSON.
    #[must_use]
    pub fn value(&self) -> &'a Json<'a> {
        self.value
    }

    /// A label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&'a str> {
        self.labels[name].as_str()
    }

    /// An annotation.
    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&'a str> {
        self.annotations[name].as_str()
    }

    /// Names and values of all annotations.
    pub fn annotations(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.annotations
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((&**name, value.as_str()?)))
    }

    /// `spec`.
    #[must_use]
    pub fn spec(&self) -> &'a Json<'a> {
        &self.value["spec"]
    }

    /// Ordinary containers.
    #[must_use]
    pub fn containers(&self) -> &'a [Json<'a>] {
        list(&self.value["spec"]["containers"])
    }

    /// Init containers, native sidecars included.
    #[must_use]
    pub fn init_containers(&self) -> &'a [Json<'a>] {
        list(&self.value["spec"]["initContainers"])
    }

    /// Volumes.
    #[must_use]
    pub fn volumes(&self) -> &'a [Json<'a>] {
        list(&self.value["spec"]["volumes"])
    }

    /// Init container of this name.
    #[must_use]
    pub fn init_container(&self, name: &str) -> Option<&'a Json<'a>> {
        self.init_containers()
            .iter()
            .find(|container| container["name"] == name)
    }

    /// Name, or the prefix that the API server makes one from, for log lines.
    #[must_use]
    pub fn display_name(&self) -> &'a str {
        let metadata = &self.value["metadata"];
        metadata["name"]
            .as_str()
            .or_else(|| metadata["generateName"].as_str())
            .unwrap_or("")
    }
}

/// A JSON array, or nothing.
#[must_use]
pub fn list<'v, 'a>(value: &'v Json<'a>) -> &'v [Json<'a>] {
    value.as_array().unwrap_or_default()
}

/// Where a container is: its path is written where it is asked for only.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// The list that it is in.
    pub(crate) field: &'static str,
    /// Its number there.
    pub(crate) index: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spec.{}[{}]", self.field, self.index)
    }
}

fn check_container(container: &Json<'_>, path: Place) -> Result<(), Refusal> {
    for (index, port) in array(container.get("ports"), path, "ports")?.iter().enumerate() {
        let number = port["containerPort"].as_u64().unwrap_or(0);
        if !(1..=65535).contains(&number) {
            return Err(malformed(
                format!("{path}.ports[{index}].containerPort"),
                "must be 1 to 65535",
            ));
        }
    }
    array(container.get("env"), path, "env")?;
    array(container.get("volumeMounts"), path, "volumeMounts")?;
    for probe in [
        "startupProbe",
        "readinessProbe",
        "livenessProbe",
        "lifecycle",
        "securityContext",
    ] {
        if let Some(value) = container.get(probe) {
            object(value, path, probe)?;
        }
    }
    Ok(())
}

fn container_name<'v>(container: &'v Json<'_>, path: Place) -> Result<&'v str, Refusal> {
    let name = container["name"].as_str().unwrap_or("");
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edge = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
    let bytes = name.as_bytes();
    if bytes.len() > 63 || !bytes.iter().all(|b| inside(*b)) || !edge(bytes.first()) || !edge(bytes.last()) {
        return Err(malformed(
            format!("{path}.name"),
            "must be 1 to 63 lower-case letters, digits and inner hyphens",
        ));
    }
    Ok(name)
}

/// An object, or nothing; `path` and `field` together are where it is.
fn object<'v, 'a>(
    value: &'v Json<'a>,
    path: impl fmt::Display,
    field: &str,
) -> Result<Option<&'v [Field<'a>]>, Refusal> {
    match value {
        Json::Null => Ok(None),
        Json::Object(fields) => Ok(Some(fields)),
        _ => {
            let path = format!("{path}.{field}");
            Err(malformed(path.trim_start_matches('.'), "not an object"))
        }
    }
}

/// A list of objects, or nothing; `path` and `field` together are where it is.
fn array<'v, 'a>(
    value: Option<&'v Json<'a>>,
    path: impl fmt::Display,
    field: &str,
) -> Result<&'v [Json<'a>], Refusal> {
    match value {
        None | Some(Json::Null) => Ok(&[]),
        Some(Json::Array(list)) => match list.iter().position(|item| !item.is_object()) {
            None => Ok(list),
            Some(index) => Err(malformed(format!("{path}.{field}[{index}]"), "not an object")),
        },
        Some(_) => Err(malformed(format!("{path}.{field}"), "not a list")),
    }
}

fn malformed(field: impl Into<String>, reason: &str) -> Refusal {
    Refusal::new(RefusalKind::MalformedPod, field, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wrong_shapes_are_named() {
        for (pod, field) in [
            (json!(1), ""),
            (json!({}), "spec"),
            (json!({"spec": []}), "spec"),
            (json!({"metadata": 1, "spec": {}}), "metadata"),
            (
                json!({"metadata": {"labels": {"a": 1}}, "spec": {}}),
                "metadata.labels[a]",
            ),
            (
                json!({"metadata": {"annotations": []}, "spec": {}}),
                "metadata.annotations",
            ),
            (json!({"spec": {}}), "spec.containers"),
            (json!({"spec": {"containers": {}}}), "spec.containers"),
            (json!({"spec": {"containers": [1]}}), "spec.containers[0]"),
            (json!({"spec": {"containers": [{}]}}), "spec.containers[0].name"),
            (
                json!({"spec": {"containers": [{"name": "a/b"}]}}),
                "spec.containers[0].name",
            ),
            (
                json!({"spec": {"containers": [{"name": "a-"}]}}),
                "spec.containers[0].name",
            ),
            (
                json!({"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}),
                "spec.containers[1].name",
            ),
            (
                json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "a"}]}}),
                "spec.initContainers[0].name",
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 0}]}]}}),
                "spec.containers[0].ports[0].containerPort",
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "livenessProbe": 1}]}}),
                "spec.containers[0].livenessProbe",
            ),
            (
                json!({"spec": {"containers": [{"name": "a"}], "volumes": [{}]}}),
                "spec.volumes[0].name",
            ),
        ] {
            let refusal = Pod::read(&Json::from(&pod)).unwrap_err();
            assert_eq!(
                (refusal.kind, refusal.field.as_str()),
                (RefusalKind::MalformedPod, field),
                "{pod}"
            );
        }
    }

    #[test]
    fn null_is_absent() {
        let pod = json!({"metadata": {"labels": null, "creationTimestamp": null},
            "spec": {"containers": [{"name": "a", "ports": null, "lifecycle": null}], "initContainers": null, "volumes": null}});
        let pod = Json::from(&pod);
        let pod = Pod::read(&pod).unwrap();
        assert_eq!(
            (
                pod.containers().len(),
                pod.init_containers().len(),
                pod.volumes().len()
            ),
            (1, 0, 0)
        );
    }
}

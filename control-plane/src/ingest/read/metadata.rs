//! The part that every object has.

use crate::mesh::Labels;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use weft_proto::model::annotations;

/// What Weft reads of an object's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Name.
    pub name: Arc<str>,
    /// Namespace; empty if it has none.
    pub namespace: Arc<str>,
    /// Uid; empty in a manifest.
    pub uid: Arc<str>,
    /// Labels.
    pub labels: Labels,
    /// Annotations whose names begin with `traffic.weft.dev/`.
    pub annotations: Labels,
    /// Weft's status annotation, if it has one.
    pub status: Option<Arc<str>>,
    /// Seconds since the epoch when it was made.
    pub created: Option<i64>,
    /// Counts changes of its spec.
    pub generation: Option<i64>,
    /// Is being deleted.
    pub terminating: bool,
    /// Kind and name of the controlling owner.
    pub owner: Option<(Arc<str>, Arc<str>)>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Raw {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, Option<String>>>,
    creation_timestamp: Option<String>,
    generation: Option<i64>,
    deletion_timestamp: Option<String>,
    owner_references: Option<Vec<Owner>>,
}

#[derive(Deserialize)]
struct Owner {
    kind: String,
    name: String,
    controller: Option<bool>,
}

impl Metadata {
    /// Reads `metadata` of a manifest.
    ///
    /// # Errors
    /// When a field has another type than every object's has.
    pub fn from_json(metadata: &serde_json::Value) -> Result<Self, serde_json::Error> {
        let raw = Raw::deserialize(metadata)?;
        let created = raw
            .creation_timestamp
            .and_then(|text| OffsetDateTime::parse(&text, &Rfc3339).ok());
        let all = raw.annotations.into_iter().flatten();
        let (annotations, status) = annotations(all.filter_map(|(name, value)| Some((name, value?))));
        let owner = raw
            .owner_references
            .into_iter()
            .flatten()
            .find(|owner| owner.controller == Some(true));
        Ok(Self {
            name: raw.name.unwrap_or_default().into(),
            namespace: raw.namespace.unwrap_or_default().into(),
            uid: raw.uid.unwrap_or_default().into(),
            labels: labels(raw.labels),
            annotations,
            status,
            created: created.map(OffsetDateTime::unix_timestamp),
            generation: raw.generation,
            terminating: raw.deletion_timestamp.is_some(),
            owner: owner.map(|owner| (owner.kind.into(), owner.name.into())),
        })
    }
}

impl From<kube::api::ObjectMeta> for Metadata {
    fn from(meta: kube::api::ObjectMeta) -> Self {
        let (annotations, status) = annotations(meta.annotations.into_iter().flatten());
        let owner = meta
            .owner_references
            .into_iter()
            .flatten()
            .find(|owner| owner.controller == Some(true));
        Self {
            name: meta.name.unwrap_or_default().into(),
            namespace: meta.namespace.unwrap_or_default().into(),
            uid: meta.uid.unwrap_or_default().into(),
            labels: labels(meta.labels),
            annotations,
            status,
            created: meta.creation_timestamp.map(|time| time.0.as_second()),
            generation: meta.generation,
            terminating: meta.deletion_timestamp.is_some(),
            owner: owner.map(|owner| (owner.kind.into(), owner.name.into())),
        }
    }
}

fn labels(map: Option<BTreeMap<String, String>>) -> Labels {
    map.into_iter()
        .flatten()
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

/// Those about traffic, and Weft's status.
fn annotations(all: impl Iterator<Item = (String, String)>) -> (Labels, Option<Arc<str>>) {
    let (mut traffic, mut status) = (Labels::new(), None);
    for (name, value) in all {
        if name == annotations::STATUS {
            status = Some(value.into());
        } else if name.starts_with(annotations::TRAFFIC_PREFIX) {
            traffic.insert(name.into(), value.into());
        }
    }
    (traffic, status)
}

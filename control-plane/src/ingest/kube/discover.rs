//! Which of the kinds that not every cluster has are served, and in which version.

use crate::ingest::kind::{KINDS, Kind, Role};
use crate::mesh::{Diagnostic, Key, Read};
use std::collections::BTreeMap;
use weft_proto::model::Origin;

/// What the API server serves.
pub(super) struct Served {
    /// By index into [`KINDS`]: the best version, or `None` when the kind is surely not served so that it can be read.
    /// Kinds of which that can't be told are left out.
    pub(super) versions: BTreeMap<usize, Option<String>>,
    /// By index: served in these versions, none of which Weft reads.
    pub(super) foreign: BTreeMap<usize, Vec<String>>,
    /// Whether every kind that Weft acts on could be told.
    pub(super) complete: bool,
}

/// Asks the API server. A failure never counts as "not served".
pub(super) async fn served(client: &kube::Client) -> Served {
    let mut served = Served {
        versions: BTreeMap::new(),
        foreign: BTreeMap::new(),
        complete: true,
    };
    let groups = match client.list_api_groups().await {
        Ok(list) => list.groups,
        Err(error) => {
            tracing::warn!(%error, "can't tell what the API server serves; trying again");
            served.complete = false;
            return served;
        }
    };
    let mut lists = BTreeMap::new();
    for (index, kind) in KINDS.iter().enumerate() {
        if matches!(kind.role, Role::Required | Role::Referenced | Role::Other) {
            continue;
        }
        let versions: Vec<String> = groups
            .iter()
            .filter(|group| group.name == kind.group)
            .flat_map(|group| group.versions.iter().map(|version| version.version.clone()))
            .collect();
        match find(client, kind, versions, &mut lists).await {
            Found::Unknown => served.complete &= kind.role != Role::Optional,
            Found::In(version) => {
                served.versions.insert(index, Some(version));
            }
            Found::Not(foreign) => {
                served.versions.insert(index, None);
                if !foreign.is_empty() {
                    served.foreign.insert(index, foreign);
                }
            }
        }
    }
    served
}

enum Found {
    /// It can't be told.
    Unknown,
    /// In this version.
    In(String),
    /// In no version that Weft reads; in these others.
    Not(Vec<String>),
}

/// `lists` remembers what was asked already, by group and version.
async fn find(
    client: &kube::Client,
    kind: &Kind,
    versions: Vec<String>,
    lists: &mut BTreeMap<String, Option<Vec<String>>>,
) -> Found {
    let known = kind.versions.iter().copied();
    let known = known.filter(|known| versions.iter().any(|version| version == known));
    let foreign = versions.iter().map(String::as_str);
    let foreign = foreign.filter(|version| !kind.versions.contains(version));
    let mut others = Vec::new();
    for version in known.chain(foreign) {
        let group = kind.api_version(version);
        if !lists.contains_key(&group) {
            lists.insert(group.clone(), plurals(client, &group).await);
        }
        let Some(plurals) = &lists[&group] else {
            return Found::Unknown;
        };
        if !plurals.iter().any(|plural| plural == kind.plural) {
            continue;
        }
        if kind.versions.contains(&version) {
            return Found::In(version.to_owned());
        }
        others.push(version.to_owned());
    }
    Found::Not(others)
}

/// Resources of a group and version: none when there is no such group, `None` when the API server can't say.
async fn plurals(client: &kube::Client, group: &str) -> Option<Vec<String>> {
    match client.list_api_group_resources(group).await {
        Ok(list) => Some(list.resources.into_iter().map(|resource| resource.name).collect()),
        Err(kube::Error::Api(status)) if status.code == 404 => Some(Vec::new()),
        Err(error) => {
            tracing::warn!(group, %error, "can't tell whether the API server serves this group; trying again");
            None
        }
    }
}

/// Under which a definition's finding is noted.
pub(super) fn definition(kind: &Kind) -> Key {
    Key::new(DEFINITION, "", &format!("{}.{}", kind.plural, kind.group))
}

const DEFINITION: &str = "CustomResourceDefinition";

/// Says that a kind is served in versions that Weft doesn't read.
pub(super) fn foreign(kind: &Kind, versions: &[String]) -> Read {
    let key = definition(kind);
    let reason = format!(
        "serves {} as {}, and Weft reads it as {}: its objects have no effect",
        kind.kind,
        versions.join(", "),
        kind.versions.join(", ")
    );
    let finding = Diagnostic::error("definition-version", &Origin::object(DEFINITION, "", &key.name))
        .at("spec.versions")
        .because(reason)
        .so(format!(
            "install a release of {} that serves {}",
            kind.group, kind.versions[0]
        ));
    Read {
        key,
        item: None,
        findings: vec![finding],
    }
}

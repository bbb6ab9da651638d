//! Which of the kinds that not every cluster has are served, and in which version.

use crate::ingest::kind::{KINDS, Role};
use std::collections::BTreeMap;

/// What the API server serves.
pub(super) struct Served {
    /// By index into [`KINDS`]: the best version, or `None` when the kind is surely not served. Kinds of which that
    /// can't be told are left out.
    pub(super) versions: BTreeMap<usize, Option<String>>,
    /// Whether every kind that Weft acts on could be told.
    pub(super) complete: bool,
}

/// Asks the API server. A failure never counts as "not served".
pub(super) async fn served(client: &kube::Client) -> Served {
    let mut lists: BTreeMap<String, Option<Vec<String>>> = BTreeMap::new();
    let mut served = Served {
        versions: BTreeMap::new(),
        complete: true,
    };
    for (index, kind) in KINDS.iter().enumerate() {
        if matches!(kind.role, Role::Required | Role::Other) {
            continue;
        }
        let mut found = Some(None);
        for version in kind.versions {
            let group = kind.api_version(version);
            if !lists.contains_key(&group) {
                lists.insert(group.clone(), plurals(client, &group).await);
            }
            match &lists[&group] {
                Some(plurals) if plurals.iter().any(|plural| plural == kind.plural) => {
                    found = Some(Some((*version).to_owned()));
                    break;
                }
                Some(_) => {}
                None => {
                    found = None;
                    break;
                }
            }
        }
        match found {
            Some(version) => {
                served.versions.insert(index, version);
            }
            None => served.complete &= kind.role != Role::Optional,
        }
    }
    served
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

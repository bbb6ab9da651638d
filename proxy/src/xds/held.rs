//! What the sidecar holds of the configuration, by kind and name.
//!
//! Enters: responses of the stream, or of the snapshot. Leaves: changes for the view, versions for a resumed stream. Never: a
//! refused resource in the place of a good one; a resource erased because a stream did not mention it.

use std::collections::BTreeMap;

use bytes::Bytes;
use weft_proto::resource::{Kind, Resource};
use weft_proto::wire::discovery::{Any, DeltaDiscoveryResponse, Resource as Wire};

use crate::view::{Change, Refusal};

/// Longest name or version, in bytes.
const MAX_NAME: usize = 512;
/// Most resources of one kind.
const MAX_RESOURCES: usize = 100_000;

/// Resources in force, as they came.
#[derive(Clone, Debug, Default)]
pub struct Held {
    kinds: [BTreeMap<String, Item>; Kind::ALL.len()],
}

#[derive(Clone, Debug)]
struct Item {
    version: String,
    bytes: Bytes,
}

/// A response, read: what is to be put in force.
#[derive(Debug)]
pub struct Read {
    /// Its kind.
    pub kind: Kind,
    /// What to tell the view.
    pub changes: Vec<Change>,
    /// Resources that break a rule.
    pub refused: Vec<Refusal>,
    /// Bytes of all resources.
    pub size: usize,
    puts: Vec<(String, Item)>,
    removals: Vec<String>,
}

impl Read {
    /// Whether it is about a resource of this name.
    pub fn names(&self, name: &str) -> bool {
        self.puts.iter().any(|(put, _)| put == name)
            || self.removals.iter().any(|removed| removed == name)
            || self.refused.iter().any(|refusal| refusal.name == name)
    }
}

impl Held {
    /// Reads a response without putting anything in force.
    pub fn read(&self, kind: Kind, response: DeltaDiscoveryResponse) -> Read {
        let mut read = Read {
            kind,
            changes: Vec::new(),
            refused: Vec::new(),
            size: 0,
            puts: Vec::new(),
            removals: Vec::new(),
        };
        let room = MAX_RESOURCES.saturating_sub(self.kinds[kind as usize].len());
        for wire in response.resources {
            let name: String = wire.name.chars().take(MAX_NAME).collect();
            let refuse = |field: &str, reason: String| Refusal {
                kind,
                name: name.clone(),
                field: field.into(),
                reason,
            };
            if read.puts.len() >= room && !self.kinds[kind as usize].contains_key(&wire.name) {
                read.refused.push(refuse(
                    "",
                    format!("more than {MAX_RESOURCES} resources of a kind"),
                ));
                continue;
            }
            let Wire {
                version,
                resource,
                name: full,
            } = wire;
            match Self::decode(kind, &full, &version, resource) {
                Ok((resource, bytes)) => {
                    read.size += bytes.len();
                    read.changes.push(Change::Put(Box::new(resource)));
                    // A copy, so that the frame that it came in can go.
                    read.puts.push((
                        full,
                        Item {
                            version,
                            bytes: Bytes::copy_from_slice(&bytes),
                        },
                    ));
                }
                Err((field, reason)) => read.refused.push(refuse(&field, reason)),
            }
        }
        for name in response.removed_resources {
            if self.kinds[kind as usize].contains_key(&name) {
                read.changes.push(Change::Remove(kind, name.clone()));
                read.removals.push(name);
            }
        }
        read
    }

    fn decode(
        kind: Kind,
        name: &str,
        version: &str,
        resource: Option<Any>,
    ) -> Result<(Resource, Bytes), (String, String)> {
        let wrong = |field: &str, reason: &str| (field.to_owned(), reason.to_owned());
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(wrong("name", "a name has 1 to 512 bytes"));
        }
        if version.len() > MAX_NAME {
            return Err(wrong("version", "a version has at most 512 bytes"));
        }
        let Any { type_url, value } = resource.ok_or_else(|| wrong("resource", "it is missing"))?;
        if type_url != kind.type_url() {
            return Err(wrong(
                "resource.type_url",
                "it is of another kind than the response",
            ));
        }
        let decoded =
            Resource::decode(kind, value.clone()).map_err(|invalid| (invalid.field, invalid.reason))?;
        if decoded.name() != name {
            return Err(wrong("name", "the resource inside has another name"));
        }
        Ok((decoded, value))
    }

    /// Remembers what is in force now: everything of `read` but what was refused.
    pub fn accept(&mut self, read: Read) {
        let kind = &mut self.kinds[read.kind as usize];
        for (name, item) in read.puts {
            if !read.refused.iter().any(|refusal| refusal.name == name) {
                kind.insert(name, item);
            }
        }
        for name in read.removals {
            kind.remove(&name);
        }
    }

    /// Forgets a resource.
    pub fn forget(&mut self, kind: Kind, name: &str) {
        self.kinds[kind as usize].remove(name);
    }

    /// Names and versions of a kind.
    pub fn versions(&self, kind: Kind) -> impl Iterator<Item = (&str, &str)> {
        self.kinds[kind as usize]
            .iter()
            .map(|(name, item)| (name.as_str(), item.version.as_str()))
    }

    /// How many of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.kinds[kind as usize].len()
    }

    /// Everything that `keep` wants as responses, for the snapshot.
    pub fn responses(&self, keep: impl Fn(Kind, &str) -> bool) -> Vec<DeltaDiscoveryResponse> {
        let response = |kind: Kind| DeltaDiscoveryResponse {
            type_url: kind.type_url().to_owned(),
            resources: self.kinds[kind as usize]
                .iter()
                .filter(|(name, _)| keep(kind, name))
                .map(|(name, item)| Wire {
                    name: name.clone(),
                    version: item.version.clone(),
                    resource: Some(Any {
                        type_url: kind.type_url().to_owned(),
                        value: item.bytes.clone(),
                    }),
                })
                .collect(),
            ..DeltaDiscoveryResponse::default()
        };
        Kind::ALL.into_iter().map(response).collect()
    }
}

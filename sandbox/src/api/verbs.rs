//! Create and read, and changes by the sandbox's own controllers: what the API does once it knows who asks for what.
//!
//! In: a kind, a name, an object. Out: the object as stored. Never: HTTP; a check of who is asking.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use serde_json::Value;

pub use super::delete::{Deletion, FOREGROUND};
use super::kinds::Kind;
use super::refusal::Refusal;
use super::store::StoreError;
use super::tokens::Caller;
use super::{Api, admission, defaults, definitions, object, services, validate};

/// An object as stored, and what its author should know.
#[derive(Debug, Clone)]
pub struct Written {
    /// The object.
    pub object: Arc<Value>,
    /// Fields that are not known, and what webhooks warned of.
    pub warnings: Vec<String>,
    /// Whether it is new.
    pub created: bool,
}

/// How a write is meant.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// Who writes.
    pub who: &'a Caller,
    /// What is written.
    pub part: Part,
    /// Whether everything is done but storing it.
    pub dry: bool,
    /// Whether fields that the kind does not have are refused.
    pub strict: bool,
    /// Who counts as the owner of the fields.
    pub manager: &'a str,
    /// Whether the object comes with its owners, as a server-side apply has written them.
    pub owned: bool,
}

impl<'a> Write<'a> {
    /// A write of the main part by this caller.
    #[must_use]
    pub fn by(who: &'a Caller) -> Self {
        Self {
            who,
            part: Part::Main,
            dry: false,
            strict: false,
            manager: "unknown",
            owned: false,
        }
    }

    /// Refuses unknown fields where they are to be refused.
    pub(super) fn accept(&self, unknown: &[String]) -> Result<(), Refusal> {
        if !self.strict || unknown.is_empty() {
            return Ok(());
        }
        let all = unknown.join(", ");
        Err(Refusal::bad_request(format!("strict decoding error: {all}")))
    }
}

/// Which part of an object a write is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All but the status, where the kind has one apart.
    Main,
    /// Only the status.
    Status,
    /// Everything: for the sandbox's own controllers.
    Whole,
}

impl Api {
    /// One object.
    ///
    /// # Errors
    /// 404.
    pub fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Arc<Value>, Refusal> {
        self.store
            .get(&kind.key(), namespace, name)
            .ok_or_else(|| Refusal::not_found(&kind.key(), name))
    }

    /// Makes an object: defaults, admission, checks, addresses, then the store.
    ///
    /// # Errors
    /// 404 where its namespace is missing, 409 where it exists, 422 with the field, 403 or 500 from a webhook.
    pub async fn create(
        &self,
        kind: &Kind,
        namespace: &str,
        new: Value,
        who: &Caller,
    ) -> Result<Written, Refusal> {
        self.create_as(kind, namespace, new, &Write::by(who)).await
    }

    /// The same, by somebody in particular or only for show.
    ///
    /// # Errors
    /// As [`Api::create`].
    pub async fn create_as(
        &self,
        kind: &Kind,
        namespace: &str,
        mut new: Value,
        how: &Write<'_>,
    ) -> Result<Written, Refusal> {
        self.settle_metadata(kind, namespace, &mut new)?;
        let name = object::name(&new).to_owned();
        if name.is_empty() && object::string(&new, "/metadata/generateName").is_none_or(str::is_empty) {
            return Err(Refusal::invalid(
                &kind.kind,
                "",
                "metadata.name",
                "or metadata.generateName is required",
            ));
        }
        if !name.is_empty() && self.store.get(&kind.key(), namespace, &name).is_some() {
            return Err(Refusal::of_store(StoreError::Exists, &kind.key(), &name));
        }
        if kind.status
            && let Some(map) = new.as_object_mut()
        {
            map.remove("status");
        }
        if let Some(metadata) = new["metadata"].as_object_mut() {
            for field in [
                "resourceVersion",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
            ] {
                metadata.remove(field);
            }
            if !how.owned {
                metadata.remove("managedFields");
            }
            metadata.insert("uid".into(), object::new_uid().into());
            metadata.insert("creationTimestamp".into(), object::now().into());
            metadata.insert("generation".into(), 1.into());
        }
        let mut warnings = self.complete(kind, namespace, &mut new)?;
        how.accept(&warnings)?;
        if name.is_empty() {
            let prefix = object::string(&new, "/metadata/generateName").unwrap_or_default();
            let name = format!(
                "{}{}",
                &prefix[..prefix.floor_char_boundary(248)],
                object::name_suffix()
            );
            new["metadata"]["name"] = name.into();
        }
        let review = admission::Review {
            kind,
            sub: "",
            namespace,
            operation: admission::Operation::Create,
            who: how.who,
            dry: how.dry,
        };
        warnings.extend(admission::mutate(self, &review, &mut new, None).await?);
        // What webhooks added gets its defaults too.
        self.complete(kind, namespace, &mut new)?;
        validate::check(kind, &new)
            .map_err(|(field, why)| Refusal::invalid(&kind.kind, object::name(&new), &field, why))?;
        warnings.extend(admission::validate(self, &review, &new, None).await?);
        self.finish(kind, &mut new, None, how.dry)?;
        let name = object::name(&new).to_owned();
        if how.dry {
            return Ok(Written {
                object: Arc::new(new),
                warnings,
                created: true,
            });
        }
        if kind.key() == definitions::KEY {
            self.define(&new)?;
        }
        let allocated = (kind.key() == "services").then(|| new.clone());
        let stored = self.store.create(&kind.key(), new).map_err(|e| {
            if let Some(service) = allocated {
                services::release(
                    &service,
                    &mut self.allocator.lock().unwrap_or_else(PoisonError::into_inner),
                );
            }
            Refusal::of_store(e, &kind.key(), &name)
        })?;
        Ok(Written {
            object: stored,
            warnings,
            created: true,
        })
    }

    /// Makes the type and the namespace of an object agree with where it is put.
    pub(super) fn settle_metadata(
        &self,
        kind: &Kind,
        namespace: &str,
        new: &mut Value,
    ) -> Result<(), Refusal> {
        if !new.is_object() {
            return Err(Refusal::bad_request("the body is not an object"));
        }
        let said = (
            new["apiVersion"].as_str().unwrap_or_default(),
            new["kind"].as_str().unwrap_or_default(),
        );
        if !said.1.is_empty() && said.1 != kind.kind {
            return Err(Refusal::bad_request(format!(
                "the body is a {}, not a {}",
                said.1, kind.kind
            )));
        }
        new["apiVersion"] = kind.api_version().into();
        new["kind"] = kind.kind.clone().into();
        let metadata = object::member(new, "metadata");
        if !kind.namespaced {
            metadata.remove("namespace");
            return Ok(());
        }
        let said = metadata
            .get("namespace")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if !said.is_empty() && said != namespace {
            return Err(Refusal::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request ({said}, {namespace})"
            )));
        }
        metadata.insert("namespace".into(), namespace.into());
        match self.store.get("namespaces", "", namespace) {
            None => Err(Refusal::not_found("namespaces", namespace)),
            Some(n) if object::is_terminating(&n) => Err(Refusal::forbidden(format!(
                "namespace {namespace} is being terminated: nothing new goes into it"
            ))),
            Some(_) => Ok(()),
        }
    }

    /// Defaults and types; returns warnings.
    pub(super) fn complete(
        &self,
        kind: &Kind,
        namespace: &str,
        new: &mut Value,
    ) -> Result<Vec<String>, Refusal> {
        defaults::fill(kind, new);
        if kind.key() == "pods" {
            let account = object::string(new, "/spec/serviceAccountName")
                .unwrap_or("default")
                .to_owned();
            let found = self.store.get("serviceaccounts", namespace, &account);
            if found.is_none() {
                return Err(Refusal::forbidden(format!(
                    "pod {:?}: its service account {namespace}/{account} does not exist",
                    pod_name(new)
                )));
            }
            defaults::mount_credentials(new, found.as_deref());
        }
        validate::fields(kind, new).map_err(|why| {
            Refusal::bad_request(format!(
                "{} {:?} cannot be read: {why}",
                kind.kind,
                object::name(new)
            ))
        })
    }

    /// Checks an object and gives it addresses: the last step before the store.
    pub(super) fn finish(
        &self,
        kind: &Kind,
        new: &mut Value,
        before: Option<&Value>,
        dry: bool,
    ) -> Result<(), Refusal> {
        let invalid = |new: &Value, (field, why): (String, String)| {
            Refusal::invalid(&kind.kind, object::name(new), &field, why)
        };
        validate::check(kind, new).map_err(|p| invalid(new, p))?;
        if kind.key() == "services" {
            let mut all = self.allocator.lock().unwrap_or_else(PoisonError::into_inner);
            let mut scratch = dry.then(|| all.clone());
            let all = scratch.as_mut().unwrap_or(&mut all);
            services::allocate(new, before, all).map_err(|p| invalid(new, p))?;
        }
        Ok(())
    }

    /// Changes an object in place. What a caller may not change (uid, name, times, the other part) stays.
    ///
    /// # Errors
    /// 404, 422, and what `change` refuses with.
    pub fn edit(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        part: Part,
        change: impl FnOnce(&mut Value) -> Result<(), Refusal>,
    ) -> Result<Written, Refusal> {
        let key = kind.key();
        let mut warnings = Vec::new();
        let result = self.store.modify::<Refusal>(&key, namespace, name, |current| {
            let before = current.clone();
            change(current)?;
            keep_system_fields(current, &before);
            if part == Part::Status {
                let status = current.get("status").cloned();
                *current = before.clone();
                put(current, "status", status);
                return Ok(());
            }
            if part == Part::Main && kind.status {
                put(current, "status", before.get("status").cloned());
            }
            if part == Part::Main {
                defaults::fill(kind, current);
                if key == "pods" {
                    frozen_pod(&before, current)?;
                }
                warnings = validate::fields(kind, current).map_err(Refusal::bad_request)?;
                self.finish(kind, current, Some(&before), false)?;
            }
            if spec_differs(&before, current) {
                let generation = object::number(&before, "/metadata/generation").unwrap_or(1) + 1;
                current["metadata"]["generation"] = generation.into();
            }
            Ok(())
        });
        let object = result.map_err(|e| match e.reason {
            "NotFound" => Refusal::not_found(&kind.key(), name),
            _ => e,
        })?;
        Ok(Written {
            object,
            warnings,
            created: false,
        })
    }

    /// Writes the status of an object, for the sandbox's own controllers.
    ///
    /// # Errors
    /// 404.
    pub fn set_status(
        &self,
        key: &str,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Arc<Value>, Refusal> {
        self.store.modify::<Refusal>(key, namespace, name, |o| {
            object::member(o, "status");
            change(o);
            Ok(())
        })
    }

    /// The pod or service addresses of an object that clients dial.
    #[must_use]
    pub fn addresses(&self, object: &Value) -> Vec<IpAddr> {
        let pod = object::list(object, "/status/podIPs")
            .iter()
            .filter_map(|a| a["ip"].as_str()?.parse().ok());
        let service = object::list(object, "/spec/clusterIPs")
            .iter()
            .filter_map(|a| a.as_str()?.parse().ok());
        pod.chain(service).collect()
    }
}

/// A short stable hash in hex.
pub(crate) fn hash(text: &str) -> String {
    // FNV-1a, 64 bits.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

fn pod_name(pod: &Value) -> &str {
    match object::name(pod) {
        "" => object::string(pod, "/metadata/generateName").unwrap_or_default(),
        name => name,
    }
}

pub(super) fn put(object: &mut Value, key: &str, value: Option<Value>) {
    if let Some(map) = object.as_object_mut() {
        match value {
            Some(value) => map.insert(key.to_owned(), value),
            None => map.remove(key),
        };
    }
}

/// Name, uid and times belong to the API.
pub(super) fn keep_system_fields(object: &mut Value, before: &Value) {
    object::member(object, "metadata");
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "resourceVersion",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "managedFields",
    ] {
        let kept = before["metadata"].get(field).cloned();
        put(&mut object["metadata"], field, kept);
    }
}

pub(super) fn spec_differs(before: &Value, after: &Value) -> bool {
    let rest = |o: &Value| {
        o.as_object().map(|m| {
            m.iter()
                .filter(|(k, _)| !matches!(k.as_str(), "metadata" | "status"))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect::<Vec<_>>()
        })
    };
    rest(before) != rest(after)
}

/// A pod's spec can't change, but for images, and its node when it has none.
pub(super) fn frozen_pod(before: &Value, after: &Value) -> Result<(), Refusal> {
    let frozen = |o: &Value| {
        let mut spec = o["spec"].clone();
        put(&mut spec, "nodeName", None);
        for list in ["containers", "initContainers"] {
            for container in spec
                .get_mut(list)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                put(container, "image", None);
            }
        }
        spec
    };
    let moved = object::string(before, "/spec/nodeName")
        .is_some_and(|n| Some(n) != object::string(after, "/spec/nodeName"));
    if moved || frozen(before) != frozen(after) {
        let why = "a pod's spec cannot be changed: delete the pod, or change its Deployment's template";
        return Err(Refusal::invalid("Pod", object::name(before), "spec", why));
    }
    Ok(())
}

#[cfg(test)]
#[path = "verbs_tests.rs"]
mod tests;

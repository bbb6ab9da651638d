//! Create, read, update, patch: what the API does once it knows who asks for what.
//!
//! In: a kind, a name, an object or a patch. Out: the object as stored. Never: HTTP; a check of who is asking.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use serde_json::Value;

pub use super::delete::Deletion;
use super::kinds::Kind;
use super::refusal::Refusal;
use super::store::StoreError;
use super::tokens::Caller;
use super::{Api, admission, defaults, object, patch, services, validate};

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
            .ok_or_else(|| Refusal::not_found(&kind.plural, name))
    }

    /// Makes an object: defaults, admission, checks, addresses, then the store.
    ///
    /// # Errors
    /// 404 where its namespace is missing, 409 where it exists, 422 with the field, 403 or 500 from a webhook.
    pub async fn create(
        &self,
        kind: &Kind,
        namespace: &str,
        mut new: Value,
        who: &Caller,
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
            return Err(Refusal::of_store(StoreError::Exists, &kind.plural, &name));
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
                "managedFields",
            ] {
                metadata.remove(field);
            }
            metadata.insert("uid".into(), object::new_uid().into());
            metadata.insert("creationTimestamp".into(), object::now().into());
            metadata.insert("generation".into(), 1.into());
        }
        let mut warnings = self.complete(kind, namespace, &mut new)?;
        warnings.extend(admission::call(self, kind, namespace, &mut new, who).await?);
        // What webhooks added gets its defaults too.
        self.complete(kind, namespace, &mut new)?;
        if name.is_empty() {
            let prefix = object::string(&new, "/metadata/generateName").unwrap_or_default();
            let name = format!(
                "{}{}",
                &prefix[..prefix.floor_char_boundary(248)],
                object::name_suffix()
            );
            new["metadata"]["name"] = name.into();
        }
        self.finish(kind, &mut new, None)?;
        let name = object::name(&new).to_owned();
        let allocated = (kind.key() == "services").then(|| new.clone());
        let stored = self.store.create(&kind.key(), new).map_err(|e| {
            if let Some(service) = allocated {
                services::release(
                    &service,
                    &mut self.allocator.lock().unwrap_or_else(PoisonError::into_inner),
                );
            }
            Refusal::of_store(e, &kind.plural, &name)
        })?;
        if kind.key() == "customresourcedefinitions.apiextensions.k8s.io" {
            self.kinds
                .define(&stored)
                .map_err(|why| Refusal::invalid(&kind.kind, &name, "spec", why))?;
        }
        Ok(Written {
            object: stored,
            warnings,
            created: true,
        })
    }

    /// Makes the type and the namespace of an object agree with where it is put.
    fn settle_metadata(&self, kind: &Kind, namespace: &str, new: &mut Value) -> Result<(), Refusal> {
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
                "the namespace of the object ({said}) is not that of the request ({namespace})"
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
    fn complete(&self, kind: &Kind, namespace: &str, new: &mut Value) -> Result<Vec<String>, Refusal> {
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
    fn finish(&self, kind: &Kind, new: &mut Value, before: Option<&Value>) -> Result<(), Refusal> {
        let invalid = |new: &Value, (field, why): (String, String)| {
            Refusal::invalid(&kind.kind, object::name(new), &field, why)
        };
        validate::check(kind, new).map_err(|p| invalid(new, p))?;
        if kind.key() == "services" {
            let mut all = self.allocator.lock().unwrap_or_else(PoisonError::into_inner);
            services::allocate(new, before, &mut all).map_err(|p| invalid(new, p))?;
        }
        Ok(())
    }

    /// Puts a whole object in the place of another.
    ///
    /// # Errors
    /// 404, 409 where it carries an older resourceVersion, 422.
    pub fn replace(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        mut new: Value,
        part: Part,
    ) -> Result<Written, Refusal> {
        self.settle_type(kind, namespace, &mut new)?;
        if !object::name(&new).is_empty() && object::name(&new) != name {
            return Err(Refusal::bad_request(format!(
                "the name of the object ({}) is not that of the request ({name})",
                object::name(&new)
            )));
        }
        new["metadata"]["name"] = name.into();
        self.edit(kind, namespace, name, part, move |current| {
            let asked = object::string(&new, "/metadata/resourceVersion").unwrap_or_default();
            if !asked.is_empty() && Some(asked) != object::string(current, "/metadata/resourceVersion") {
                return Err(StoreError::Conflict.into());
            }
            let asked = object::uid(&new);
            if !asked.is_empty() && asked != object::uid(current) {
                return Err(Refusal::conflict(
                    "the uid is that of another object of this name",
                ));
            }
            *current = new;
            Ok(())
        })
    }

    fn settle_type(&self, kind: &Kind, namespace: &str, new: &mut Value) -> Result<(), Refusal> {
        if !new.is_object() {
            return Err(Refusal::bad_request("the body is not an object"));
        }
        new["apiVersion"] = kind.api_version().into();
        new["kind"] = kind.kind.clone().into();
        let metadata = object::member(new, "metadata");
        if kind.namespaced {
            metadata.insert("namespace".into(), namespace.into());
        }
        Ok(())
    }

    /// Patches an object; an apply patch makes it if it is missing.
    ///
    /// # Errors
    /// 404, 409, 422, and what `create` refuses with.
    pub async fn patch(
        &self,
        kind: &Kind,
        (namespace, name): (&str, &str),
        style: patch::Style,
        change: Value,
        (part, who): (Part, &Caller),
    ) -> Result<Written, Refusal> {
        if style == patch::Style::Apply && self.store.get(&kind.key(), namespace, name).is_none() {
            if part == Part::Status {
                return Err(Refusal::not_found(&kind.plural, name));
            }
            let mut new = change;
            object::member(&mut new, "metadata").insert("name".into(), name.into());
            return self.create(kind, namespace, new, who).await;
        }
        self.edit(kind, namespace, name, part, |current| {
            let version = change
                .pointer("/metadata/resourceVersion")
                .and_then(Value::as_str);
            if style != patch::Style::Json
                && version.is_some_and(|v| Some(v) != object::string(current, "/metadata/resourceVersion"))
            {
                return Err(StoreError::Conflict.into());
            }
            patch::apply(style, current, &change)?;
            current["apiVersion"] = kind.api_version().into();
            current["kind"] = kind.kind.clone().into();
            Ok(())
        })
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
                self.finish(kind, current, Some(&before))?;
            }
            if spec_differs(&before, current) {
                let generation = object::number(&before, "/metadata/generation").unwrap_or(1) + 1;
                current["metadata"]["generation"] = generation.into();
            }
            Ok(())
        });
        let object = result.map_err(|e| match e.reason {
            "NotFound" => Refusal::not_found(&kind.plural, name),
            _ => e,
        })?;
        if key == "customresourcedefinitions.apiextensions.k8s.io" {
            self.kinds
                .define(&object)
                .map_err(|why| Refusal::invalid(&kind.kind, name, "spec", why))?;
        }
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

fn put(object: &mut Value, key: &str, value: Option<Value>) {
    if let Some(map) = object.as_object_mut() {
        match value {
            Some(value) => map.insert(key.to_owned(), value),
            None => map.remove(key),
        };
    }
}

/// Name, uid and times belong to the API.
fn keep_system_fields(object: &mut Value, before: &Value) {
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
    ] {
        let kept = before["metadata"].get(field).cloned();
        put(&mut object["metadata"], field, kept);
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
}

fn spec_differs(before: &Value, after: &Value) -> bool {
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
fn frozen_pod(before: &Value, after: &Value) -> Result<(), Refusal> {
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

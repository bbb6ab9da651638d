//! Update and patch: changes that others ask for.
//!
//! In: a whole object, a patch or a manifest. Out: the object as stored. Never: a change of another part than the one that was
//! asked for; one that webhooks did not see; one on top of a state that it was not made for.

use std::sync::Arc;

use serde_json::Value;

use super::kinds::Kind;
use super::ownership;
use super::patch::{self, Style};
use super::refusal::Refusal;
use super::store::StoreError;
use super::verbs::{Part, Write, Written, frozen_pod, keep_system_fields, put, spec_differs};
use super::{Api, admission, defaults, definitions, immutable, object, validate};

/// How often a patch is made again because the object changed meanwhile.
const TRIES: usize = 20;

/// What a patch is to be done with.
#[derive(Debug, Clone, Copy)]
pub struct Patching<'a> {
    /// How it is written.
    pub style: Style,
    /// Whether a server-side apply takes fields over from other owners.
    pub force: bool,
    /// By whom, and of which part.
    pub how: Write<'a>,
}

impl Api {
    /// Puts a whole object in the place of another.
    ///
    /// # Errors
    /// 404, 409 where it carries an older resourceVersion, 422, and what webhooks refuse with.
    pub async fn replace(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        mut new: Value,
        how: &Write<'_>,
    ) -> Result<Written, Refusal> {
        self.settle_type(kind, namespace, &mut new)?;
        if !object::name(&new).is_empty() && object::name(&new) != name {
            return Err(Refusal::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({name})",
                object::name(&new)
            )));
        }
        new["metadata"]["name"] = name.into();
        self.update(kind, namespace, name, how, |current| {
            let conflict = || Refusal::of_store(StoreError::Conflict, &kind.key(), name);
            let asked = object::string(&new, "/metadata/resourceVersion").unwrap_or_default();
            if !asked.is_empty() && Some(asked) != object::string(current, "/metadata/resourceVersion") {
                return Err(conflict());
            }
            let asked = object::uid(&new);
            if !asked.is_empty() && asked != object::uid(current) {
                return Err(Refusal::conflict(format!(
                    "Precondition failed: UID in precondition: {asked}, UID in object meta: {}",
                    object::uid(current)
                )));
            }
            current.clone_from(&new);
            Ok(())
        })
        .await
    }

    fn settle_type(&self, kind: &Kind, namespace: &str, new: &mut Value) -> Result<(), Refusal> {
        if !new.is_object() {
            return Err(Refusal::bad_request("the body is not an object"));
        }
        let said = new["kind"].as_str().unwrap_or_default();
        if !said.is_empty() && said != kind.kind {
            return Err(Refusal::bad_request(format!(
                "the body is a {said}, not a {}",
                kind.kind
            )));
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
    /// 404, 409, 415, 422, and what `create` refuses with.
    pub async fn patch(
        &self,
        kind: &Kind,
        (namespace, name): (&str, &str),
        change: Value,
        asked: &Patching<'_>,
    ) -> Result<Written, Refusal> {
        let how = &asked.how;
        if asked.style == Style::Apply {
            return self.apply_patch(kind, (namespace, name), change, asked).await;
        }
        if asked.style == Style::Strategic && kind.custom {
            return Err(Refusal::unsupported_media(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ));
        }
        self.update(kind, namespace, name, how, |current| {
            let version = object::string(current, "/metadata/resourceVersion").map(str::to_owned);
            patch::apply(asked.style, current, &change)?;
            // A version in the patch is the one that it was made for.
            let wanted = object::string(current, "/metadata/resourceVersion").map(str::to_owned);
            if wanted.as_deref().is_some_and(|w| !w.is_empty()) && wanted != version {
                return Err(Refusal::of_store(StoreError::Conflict, &kind.key(), name));
            }
            current["apiVersion"] = kind.api_version().into();
            current["kind"] = kind.kind.clone().into();
            Ok(())
        })
        .await
    }

    /// Server-side apply.
    async fn apply_patch(
        &self,
        kind: &Kind,
        (namespace, name): (&str, &str),
        mut config: Value,
        asked: &Patching<'_>,
    ) -> Result<Written, Refusal> {
        let how = &asked.how;
        if config
            .pointer("/metadata/managedFields")
            .is_some_and(|m| !m.is_null())
        {
            return Err(Refusal::bad_request("metadata.managedFields must be nil"));
        }
        let version = config["apiVersion"].as_str().unwrap_or_default().to_owned();
        if version.is_empty() || config["kind"] != kind.kind.as_str() {
            return Err(Refusal::bad_request(
                "an apply patch needs the apiVersion and the kind of its object",
            ));
        }
        self.settle_type(kind, namespace, &mut config)?;
        config["metadata"]["name"] = name.into();
        if kind.key() == "secrets" {
            // What a Secret keeps is its data; nobody can own the plain form.
            defaults::encode_secret(&mut config);
        }
        if self.store.get(&kind.key(), namespace, name).is_none() {
            if how.part == Part::Status {
                return Err(Refusal::not_found(&kind.key(), name));
            }
            let mut new = config.clone();
            ownership::own(&mut new, &config, kind, how, &version);
            let how = Write { owned: true, ..*how };
            match self.create_as(kind, namespace, new, &how).await {
                Err(e) if e.exists_already() => {}
                made => return made,
            }
        }
        self.update(kind, namespace, name, how, |current| {
            let wanted = object::string(&config, "/metadata/resourceVersion");
            if wanted.is_some_and(|w| Some(w) != object::string(current, "/metadata/resourceVersion")) {
                return Err(Refusal::of_store(StoreError::Conflict, &kind.key(), name));
            }
            ownership::apply(current, &config, kind, asked, &version)
        })
        .await
    }

    /// Changes an object: the change is made on a copy, webhooks see it, and it is stored if the object has not changed
    /// meanwhile; else all over again.
    ///
    /// # Errors
    /// 404, 409, 422, what `change` and what webhooks refuse with.
    pub async fn update(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        how: &Write<'_>,
        change: impl Fn(&mut Value) -> Result<(), Refusal>,
    ) -> Result<Written, Refusal> {
        for _ in 0..TRIES {
            let before = self.get(kind, namespace, name)?;
            let mut new = (*before).clone();
            change(&mut new)?;
            let owners = new.pointer("/metadata/managedFields").cloned();
            let warnings = self.prepare(kind, namespace, how, &before, &mut new).await?;
            put(&mut new["metadata"], "managedFields", owners);
            ownership::follow(&before, &mut new, kind, how);
            if how.dry {
                self.finish(kind, &mut new, Some(&before), true)?;
                let object = Arc::new(new);
                return Ok(Written {
                    object,
                    warnings,
                    created: false,
                });
            }
            match self.commit(kind, namespace, name, how.part, &before, new) {
                Err(None) => {}
                Err(Some(refusal)) => return Err(refusal),
                Ok(object) => {
                    return Ok(Written {
                        object,
                        warnings,
                        created: false,
                    });
                }
            }
        }
        Err(Refusal::of_store(StoreError::Conflict, &kind.key(), name))
    }

    /// Everything before the store: only the part that is meant, defaults, webhooks, checks.
    async fn prepare(
        &self,
        kind: &Kind,
        namespace: &str,
        how: &Write<'_>,
        before: &Value,
        new: &mut Value,
    ) -> Result<Vec<String>, Refusal> {
        self.keep_to_part(kind, how.part, before, new);
        let mut warnings = validate::fields(kind, new).map_err(Refusal::bad_request)?;
        how.accept(&warnings)?;
        let review = admission::Review {
            kind,
            sub: if how.part == Part::Status { "status" } else { "" },
            namespace,
            operation: admission::Operation::Update,
            who: how.who,
            dry: how.dry,
        };
        warnings.extend(admission::mutate(self, &review, new, Some(before)).await?);
        self.keep_to_part(kind, how.part, before, new);
        if how.part == Part::Main {
            if kind.key() == "pods" {
                frozen_pod(before, new)?;
            }
            validate::check(kind, new)
                .and_then(|()| immutable::check(kind, before, new))
                .map_err(|(field, why)| Refusal::invalid(&kind.kind, object::name(new), &field, why))?;
        }
        warnings.extend(admission::validate(self, &review, new, Some(before)).await?);
        Ok(warnings)
    }

    fn keep_to_part(&self, kind: &Kind, part: Part, before: &Value, new: &mut Value) {
        keep_system_fields(new, before);
        if part == Part::Status {
            let status = new.get("status").cloned();
            new.clone_from(before);
            put(new, "status", status);
            return;
        }
        if part == Part::Main && kind.status {
            put(new, "status", before.get("status").cloned());
        }
        defaults::fill(kind, new);
    }

    /// Stores a change unless the object is another by now: then `Err(None)`.
    fn commit(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        part: Part,
        before: &Value,
        mut new: Value,
    ) -> Result<Arc<Value>, Option<Refusal>> {
        let key = kind.key();
        if key == definitions::KEY && part != Part::Status {
            self.define(&new).map_err(Some)?;
        }
        let stored = self.store.modify::<Lost>(&key, namespace, name, |current| {
            if current["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]
                || object::uid(current) != object::uid(before)
            {
                return Err(Lost(None));
            }
            if part != Part::Status {
                self.finish(kind, &mut new, Some(before), false)
                    .map_err(|e| Lost(Some(e)))?;
            }
            if spec_differs(before, &new) {
                let generation = object::number(before, "/metadata/generation").unwrap_or(1) + 1;
                new["metadata"]["generation"] = generation.into();
            }
            *current = new;
            Ok(())
        });
        match stored {
            Ok(object) => {
                self.let_go(kind, &object);
                Ok(object)
            }
            Err(Lost(why)) => Err(why),
        }
    }
}

/// Why a change was not stored: somebody else's came first, or it was refused.
struct Lost(Option<Refusal>);

impl From<StoreError> for Lost {
    fn from(_: StoreError) -> Self {
        // It is gone: the next try says so.
        Self(None)
    }
}

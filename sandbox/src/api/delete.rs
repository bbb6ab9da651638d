//! Deleting: at once, or in two steps where something has to end first.
//!
//! In: a kind, a name, how. Out: the object's last state, or its state on the way out. Never: a pod on a node gone before
//! its processes; a Service's addresses kept.

use std::sync::{Arc, PoisonError};

use serde_json::Value;

use super::kinds::Kind;
use super::refusal::Refusal;
use super::store::StoreError;
use super::{Api, definitions, object, services};

/// How an object is to be deleted.
#[derive(Debug, Clone, Default)]
pub struct Deletion {
    /// Seconds that a pod gets to end; its own setting if absent.
    pub grace: Option<i64>,
    /// The uid that the object must have.
    pub uid: Option<String>,
    /// The resourceVersion that the object must have.
    pub version: Option<String>,
    /// Whether dependants stay.
    pub orphan: bool,
    /// Whether the object waits for its dependants to be gone.
    pub foreground: bool,
    /// Whether nothing is deleted.
    pub dry: bool,
}

/// The finalizer of an object that waits for its dependants.
pub const FOREGROUND: &str = "foregroundDeletion";

/// Whether something has to happen before an object may go.
fn is_held(object: &Value) -> bool {
    !object::list(object, "/metadata/finalizers").is_empty()
}

impl Api {
    /// Deletes an object. A pod on a node gets its grace period first: then it only starts to end.
    ///
    /// # Errors
    /// 404, 409 where the uid is another.
    pub fn delete(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        how: &Deletion,
    ) -> Result<Arc<Value>, Refusal> {
        let key = kind.key();
        let current = self.get(kind, namespace, name)?;
        let uid = object::uid(&current).to_owned();
        if how.uid.as_ref().is_some_and(|u| *u != uid) {
            return Err(Refusal::conflict(format!(
                "{} {name:?}: Precondition failed: UID in precondition: {}, UID in object meta: {uid}",
                kind.key(),
                how.uid.as_deref().unwrap_or_default(),
            )));
        }
        let version = object::string(&current, "/metadata/resourceVersion").unwrap_or_default();
        if how.version.as_deref().is_some_and(|v| v != version) {
            return Err(Refusal::conflict(format!(
                "{} {name:?}: Precondition failed: it is at resourceVersion {version}",
                kind.key()
            )));
        }
        if how.dry {
            return Ok(current);
        }
        let same = |o: &Value| {
            if object::uid(o) == uid {
                Ok(())
            } else {
                Err(Refusal::from(StoreError::Missing))
            }
        };
        if key == "namespaces" {
            return self.store.modify::<Refusal>(&key, "", name, |o| {
                same(o)?;
                if !object::is_terminating(o) {
                    o["metadata"]["deletionTimestamp"] = object::now().into();
                    object::member(o, "status").insert("phase".into(), "Terminating".into());
                }
                Ok(())
            });
        }
        if key == "pods" && self.ends_slowly(&current, how) {
            return self.store.modify::<Refusal>(&key, namespace, name, |o| {
                same(o)?;
                let grace = how
                    .grace
                    .or_else(|| object::number(o, "/spec/terminationGracePeriodSeconds"));
                let grace = grace.unwrap_or(30).max(0);
                let shorter =
                    object::number(o, "/metadata/deletionGracePeriodSeconds").is_none_or(|g| grace < g);
                if shorter {
                    let at = time::OffsetDateTime::now_utc() + time::Duration::seconds(grace);
                    o["metadata"]["deletionTimestamp"] = object::timestamp(at).into();
                    o["metadata"]["deletionGracePeriodSeconds"] = grace.into();
                }
                Ok(())
            });
        }
        if how.orphan {
            self.orphan(&uid, namespace);
        }
        if is_held(&current) || how.foreground {
            return self.store.modify::<Refusal>(&key, namespace, name, |o| {
                same(o)?;
                if !object::is_terminating(o) {
                    o["metadata"]["deletionTimestamp"] = object::now().into();
                }
                o["metadata"]["deletionGracePeriodSeconds"] = 0.into();
                if how.foreground {
                    let metadata = object::member(o, "metadata");
                    let held = metadata
                        .entry("finalizers")
                        .or_insert_with(|| Value::Array(Vec::new()));
                    if let Some(list) = held.as_array_mut().filter(|l| !l.iter().any(|f| f == FOREGROUND)) {
                        list.push(FOREGROUND.into());
                    }
                }
                Ok(())
            });
        }
        let last = self.store.remove::<Refusal>(&key, namespace, name, same)?;
        self.after_removal(&key, &last);
        Ok(last)
    }

    fn after_removal(&self, key: &str, last: &Value) {
        if key == "services" {
            services::release(
                last,
                &mut self.allocator.lock().unwrap_or_else(PoisonError::into_inner),
            );
        }
        if key == definitions::KEY {
            self.undefine(last);
        }
    }

    /// Removes an object that was only held by its finalizers, once it has none.
    pub(crate) fn let_go(&self, kind: &Kind, changed: &Value) {
        let key = kind.key();
        let waits = object::number(changed, "/metadata/deletionGracePeriodSeconds").unwrap_or(0) > 0;
        if !object::is_terminating(changed) || is_held(changed) || key == "namespaces" || waits {
            return;
        }
        let uid = object::uid(changed);
        let removed =
            self.store
                .remove::<Refusal>(&key, object::namespace(changed), object::name(changed), |o| {
                    if object::uid(o) == uid && !is_held(o) {
                        Ok(())
                    } else {
                        Err(StoreError::Missing.into())
                    }
                });
        if let Ok(last) = removed {
            self.after_removal(&key, &last);
        }
    }

    /// Whether a pod must be ended by its node before it can go.
    fn ends_slowly(&self, pod: &Value, how: &Deletion) -> bool {
        let node = object::string(pod, "/spec/nodeName").unwrap_or_default();
        let done = matches!(object::string(pod, "/status/phase"), Some("Succeeded" | "Failed"));
        how.grace != Some(0) && !done && !node.is_empty() && self.store.get("nodes", "", node).is_some()
    }

    /// Takes an owner out of its dependants, so that they outlive it.
    fn orphan(&self, owner: &str, namespace: &str) {
        for kind in self.store.kinds() {
            for dependant in self.store.list(&kind, Some(namespace)).0 {
                if object::owner_uids(&dependant).any(|u| u == owner) {
                    let cut =
                        self.store
                            .modify::<StoreError>(&kind, namespace, object::name(&dependant), |o| {
                                if let Some(Value::Array(owners)) = o.pointer_mut("/metadata/ownerReferences")
                                {
                                    owners.retain(|r| r["uid"] != owner);
                                }
                                Ok(())
                            });
                    if let Err(e) = cut {
                        tracing::debug!("an orphan was gone already: {e}");
                    }
                }
            }
        }
    }
}

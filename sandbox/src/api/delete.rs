//! Deleting: at once, or in two steps where something has to end first.
//!
//! In: a kind, a name, how. Out: the object's last state, or its state on the way out. Never: a pod on a node gone before
//! its processes; a Service's addresses kept.

use std::sync::{Arc, PoisonError};

use serde_json::Value;

use super::kinds::Kind;
use super::refusal::Refusal;
use super::store::StoreError;
use super::{Api, object, services};

/// How an object is to be deleted.
#[derive(Debug, Clone, Default)]
pub struct Deletion {
    /// Seconds that a pod gets to end; its own setting if absent.
    pub grace: Option<i64>,
    /// The uid that the object must have.
    pub uid: Option<String>,
    /// Whether dependants stay.
    pub orphan: bool,
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
                "{} {name:?} has another uid by now",
                kind.plural
            )));
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
        let last = self.store.remove::<Refusal>(&key, namespace, name, same)?;
        if key == "services" {
            services::release(
                &last,
                &mut self.allocator.lock().unwrap_or_else(PoisonError::into_inner),
            );
        }
        Ok(last)
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

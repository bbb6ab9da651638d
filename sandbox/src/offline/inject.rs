//! The webhook, offline: which pods it would be asked about.
//!
//! In: a pod, the namespaces' labels, the injector as a function. Out: the pod as it would be kept. Never: a rule of its own:
//! the selectors are those of the webhook's configuration.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::Inject;
use crate::api::object;
use crate::api::selector::Labels;
use crate::system::webhooks;

/// A pod after admission.
///
/// # Errors
/// Why the injector refuses it.
pub(super) fn injected(
    pod: &Value,
    namespaces: &HashMap<String, Value>,
    inject: Inject<'_>,
) -> Result<Value, String> {
    let name = object::namespace(pod);
    let bare = json!({"metadata": {"labels": {"kubernetes.io/metadata.name": name}}});
    let namespace = namespaces.get(name).unwrap_or(&bare);
    let [mutating, _] = webhooks();
    let matches = |webhook: &Value, field: &str, object: &Value| {
        Labels::from_object(&webhook[field]).is_ok_and(|selector| selector.matches_object(object))
    };
    let asked = object::list(&mutating, "/webhooks").iter().any(|webhook| {
        matches(webhook, "namespaceSelector", namespace) && matches(webhook, "objectSelector", pod)
    });
    if asked { inject(pod, name) } else { Ok(pod.clone()) }
}

//! The `caBundle` of the webhook configurations, kept right.
//!
//! In: the mesh's roots and the configurations, as they change. Out: JSON patches of what is wrong, and whether the API server
//! can believe this webhook. Never: an entry that leads to another installation's Service touched, or a patch of an older
//! state than was looked at: every replica writes the same roots, so whoever comes first is right and the others see it.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use weft_proto::model::annotations as names;

use crate::authority;
use crate::follow::{Seen, Which};
use crate::metrics::{LoadResult, Metrics};

/// After a patch: time before the next, doubled while they follow one another (somebody else keeps writing).
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// After a patch whose effect isn't seen.
const RETRY: Duration = Duration::from_secs(5);
/// A repair that held this long was one.
const HELD: Duration = Duration::from_secs(60);

/// What stands between the API server and this webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not looked at yet.
    Unknown,
    /// There is no configuration (yet): nothing calls this webhook.
    Absent,
    /// Its entries have the mesh's roots.
    Right,
    /// They have not, and why.
    Wrong(String),
}

/// The two configurations.
#[must_use]
pub fn configurations(name: &str) -> [Which; 2] {
    let which = |kind, plural| Which {
        group: "admissionregistration.k8s.io",
        kind,
        plural,
        namespace: None,
        name: name.to_owned(),
    };
    [
        which("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
        which(
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
        ),
    ]
}

/// The ConfigMap with the mesh's roots.
#[must_use]
pub fn roots_map(namespace: &str) -> Which {
    Which {
        group: "",
        kind: "ConfigMap",
        plural: "configmaps",
        namespace: Some(namespace.to_owned()),
        name: names::CA_CONFIG_MAP.to_owned(),
    }
}

/// Publishes the roots whenever the ConfigMap has good ones. Ends when nobody follows the ConfigMap any more.
pub async fn roots(mut map: watch::Receiver<Seen>, roots: watch::Sender<Option<Arc<str>>>) {
    loop {
        if let Seen::There(object) = &*map.borrow_and_update() {
            let pem = object.data["data"][names::CA_CONFIG_MAP_KEY]
                .as_str()
                .unwrap_or_default();
            match authority::roots(pem) {
                Ok(_) => {
                    roots.send_if_modified(|held| {
                        let new = held.as_deref() != Some(pem);
                        if new {
                            *held = Some(pem.into());
                        }
                        new
                    });
                }
                Err(error) => tracing::warn!(%error, "the roots before stay in force"),
            }
        }
        if map.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps one configuration right. `namespace` is this installation's. Ends when nobody follows the configuration any more.
pub async fn keep(
    client: kube::Client,
    which: Which,
    namespace: &str,
    mut seen: watch::Receiver<Seen>,
    mut roots: watch::Receiver<Option<Arc<str>>>,
    state: watch::Sender<State>,
    metrics: &Metrics,
) {
    let mut pause = PAUSES.0;
    let mut last: Option<Instant> = None;
    let mut complaint = String::new();
    loop {
        let now = seen.borrow_and_update().clone();
        let pem = roots.borrow_and_update().clone();
        let mut again = None;
        let judged = match (&now, &pem) {
            (Seen::Unknown, _) | (_, None) => State::Unknown,
            (Seen::Absent, _) => State::Absent,
            (Seen::Forbidden, _) => State::Wrong(format!(
                "the injector's service account may not get, list and watch {} {}",
                which.kind, which.name
            )),
            (Seen::There(object), Some(pem)) => {
                let version = object.metadata.resource_version.as_deref().unwrap_or_default();
                match repair(&object.data, version, namespace, pem) {
                    Repair::None => State::Right,
                    Repair::Foreign => State::Wrong(format!(
                        "{} {} leads to another installation of Weft, none of its entries to namespace {namespace}; \
                         give this installation another name by WEFT_WEBHOOK_CONFIGURATION",
                        which.kind, which.name
                    )),
                    Repair::Patch(patch) => {
                        if last.is_some_and(|last| last.elapsed() > HELD) {
                            pause = PAUSES.0;
                        }
                        let written = write(&client, &which, &patch).await;
                        let result = if written.is_ok() { "ok" } else { "error" };
                        metrics.bundle_writes.get_or_create(&LoadResult { result }).inc();
                        last = Some(Instant::now());
                        again = Some(pause);
                        pause = (pause * 2).min(PAUSES.1);
                        match written {
                            Ok(true) => {
                                tracing::info!(kind = which.kind, name = which.name, "caBundle written");
                                State::Unknown
                            }
                            Ok(false) => State::Unknown,
                            Err(reason) => State::Wrong(reason),
                        }
                    }
                }
            }
        };
        match &judged {
            State::Wrong(reason) if *reason != complaint => {
                tracing::warn!(%reason, "the API server can't call this webhook");
                complaint.clone_from(reason);
            }
            State::Right => complaint.clear(),
            _ => {}
        }
        if judged != State::Unknown {
            state.send_replace(judged);
        }
        // What happens during the pause is seen in one look.
        sleep(again.unwrap_or_default()).await;
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { return },
            changed = roots.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if again.is_some() => {}
        }
    }
}

/// What a configuration needs.
#[derive(Debug, PartialEq)]
enum Repair {
    None,
    /// No entry leads to this installation.
    Foreign,
    /// A JSON patch (RFC 6902).
    Patch(Value),
}

/// What is wrong with the entries that lead to `namespace`.
fn repair(configuration: &Value, version: &str, namespace: &str, roots: &str) -> Repair {
    let entries = configuration["webhooks"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let mut operations = vec![json!({"op": "test", "path": "/metadata/resourceVersion", "value": version})];
    let mut ours = 0;
    for (index, entry) in entries.iter().enumerate() {
        let client = &entry["clientConfig"];
        if client["service"]["namespace"] != namespace {
            continue;
        }
        ours += 1;
        let held = client["caBundle"]
            .as_str()
            .and_then(|text| STANDARD.decode(text).ok());
        if held.as_deref() != Some(roots.as_bytes()) {
            operations.push(
                json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"),
                "value": STANDARD.encode(roots)}),
            );
        }
    }
    match (operations.len(), ours) {
        (_, 0) => Repair::Foreign,
        (1, _) => Repair::None,
        _ => Repair::Patch(Value::Array(operations)),
    }
}

/// Sends a patch. Returns whether it was taken; it isn't when somebody else was faster, which the next look shows.
async fn write(client: &kube::Client, which: &Which, patch: &Value) -> Result<bool, String> {
    let failed = |reason: String| format!("caBundle of {} {}: {reason}", which.kind, which.name);
    let request = http::Request::patch(format!("{}?fieldManager={}", which.path(), names::INJECTOR))
        .header(http::header::CONTENT_TYPE, "application/json-patch+json")
        .body(patch.to_string().into_bytes())
        .map_err(|error| failed(error.to_string()))?;
    match client.request::<Value>(request).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 403 => Err(failed(
            "not allowed; let the injector's service account patch it".to_owned(),
        )),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => Ok(false),
        Err(error) => Err(failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wrong_and_ours_is_patched() {
        let entry = |namespace: &str, bundle: Option<&str>| {
            let mut entry =
                json!({"name": "x", "clientConfig": {"service": {"namespace": namespace, "name": "s"}}});
            if let Some(bundle) = bundle {
                entry["clientConfig"]["caBundle"] = json!(STANDARD.encode(bundle));
            }
            entry
        };
        let with = |entries: Vec<Value>| json!({"webhooks": entries});
        let ask = |configuration: &Value| repair(configuration, "7", "weft-system", "ROOTS");
        assert_eq!(ask(&json!({})), Repair::Foreign);
        assert_eq!(
            ask(&with(vec![entry("weft-system", Some("ROOTS"))])),
            Repair::None
        );
        assert_eq!(ask(&with(vec![entry("other", Some("x"))])), Repair::Foreign);
        let url = json!({"clientConfig": {"url": "https://a"}});
        let mixed = with(vec![
            entry("other", None),
            entry("weft-system", Some("old")),
            url,
            entry("weft-system", None),
            entry("weft-system", Some("ROOTS")),
        ]);
        let Repair::Patch(patch) = ask(&mixed) else {
            panic!("a patch is wanted")
        };
        assert_eq!(
            patch,
            json!([
                {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
                {"op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": "Uk9PVFM="},
                {"op": "add", "path": "/webhooks/3/clientConfig/caBundle", "value": "Uk9PVFM="},
            ])
        );
        let mut object = json!({"metadata": {"resourceVersion": "7"}, "webhooks": mixed["webhooks"]});
        let patch: json_patch::Patch = serde_json::from_value(patch).unwrap();
        json_patch::patch(&mut object, &patch).unwrap();
        assert_eq!(ask(&object), Repair::None);
        assert!(object["webhooks"][0]["clientConfig"].get("caBundle").is_none());
    }
}

//! One object of the API server, followed.
//!
//! In: which one. Out: what it is now, and again whenever it changes. Never: an object forgotten because the API server can't be
//! reached, or a right that is missing in silence.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio::time::sleep;

/// A watch ends after this many seconds and goes on where it was: a connection that is dead without a sign is noticed.
const WATCH_SECONDS: u32 = 60;
/// Shortest and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Which {
    /// API group; empty for core.
    pub group: &'static str,
    /// Kind; the version is v1.
    pub kind: &'static str,
    /// Name in URLs.
    pub plural: &'static str,
    /// Namespace, where the kind has one.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

/// What is known of it.
#[derive(Debug, Clone, Default)]
pub enum Seen {
    /// Nothing yet.
    #[default]
    Unknown,
    /// It does not exist.
    Absent,
    /// It is this.
    There(Arc<DynamicObject>),
    /// The API server does not let us see it.
    Forbidden,
}

impl Which {
    fn resource(&self) -> ApiResource {
        let version = "v1".to_owned();
        ApiResource {
            group: self.group.to_owned(),
            api_version: if self.group.is_empty() {
                version.clone()
            } else {
                format!("{}/{version}", self.group)
            },
            version,
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }

    /// Its path on the API server.
    #[must_use]
    pub fn path(&self) -> String {
        let base = if self.group.is_empty() {
            "/api/v1".to_owned()
        } else {
            format!("/apis/{}/v1", self.group)
        };
        let namespace = self.namespace.as_ref();
        let namespace = namespace
            .map(|name| format!("/namespaces/{name}"))
            .unwrap_or_default();
        format!("{base}{namespace}/{}/{}", self.plural, self.name)
    }
}

/// Follows an object until nobody looks any more.
pub async fn follow(client: kube::Client, which: Which, seen: watch::Sender<Seen>) {
    let resource = which.resource();
    let api: Api<DynamicObject> = match &which.namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    let config = watcher::Config::default()
        .fields(&format!("metadata.name={}", which.name))
        .timeout(WATCH_SECONDS);
    let mut events = watcher::watcher(api, config).boxed();
    let is_it = |object: &DynamicObject| object.metadata.name.as_deref() == Some(&which.name);
    let mut listed = Seen::Absent;
    let mut pause = PAUSES.0;
    let mut complaint = String::new();
    while let Some(event) = events.next().await {
        if seen.is_closed() {
            return;
        }
        match event {
            Ok(event) => {
                (pause, complaint) = (PAUSES.0, String::new());
                match event {
                    Event::Init => listed = Seen::Absent,
                    Event::InitApply(object) if is_it(&object) => listed = Seen::There(Arc::new(object)),
                    Event::InitDone => {
                        seen.send_replace(std::mem::take(&mut listed));
                    }
                    Event::Apply(object) if is_it(&object) => {
                        seen.send_replace(Seen::There(Arc::new(object)));
                    }
                    Event::Delete(object) if is_it(&object) => {
                        seen.send_replace(Seen::Absent);
                    }
                    _ => {}
                }
            }
            Err(error) => {
                let forbidden = is_forbidden(&error);
                if forbidden && !matches!(*seen.borrow(), Seen::There(_)) {
                    seen.send_replace(Seen::Forbidden);
                }
                let text = error.to_string();
                if text != complaint {
                    let hint = if forbidden {
                        "; let the injector's service account get, list and watch it"
                    } else {
                        ""
                    };
                    tracing::warn!(
                        kind = which.kind,
                        name = which.name,
                        error = text,
                        "can't be followed{hint}"
                    );
                    complaint = text;
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 403,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let map = Which {
            group: "",
            kind: "ConfigMap",
            plural: "configmaps",
            namespace: Some("weft-system".into()),
            name: "a".into(),
        };
        assert_eq!(map.path(), "/api/v1/namespaces/weft-system/configmaps/a");
        let hook = Which {
            group: "admissionregistration.k8s.io",
            plural: "mutatingwebhookconfigurations",
            namespace: None,
            ..map
        };
        assert_eq!(
            hook.path(),
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/a"
        );
        assert_eq!(hook.resource().api_version, "admissionregistration.k8s.io/v1");
    }
}

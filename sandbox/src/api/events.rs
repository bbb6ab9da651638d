//! Events: what happened to objects, for people.
//!
//! In: an object, a reason, a message. Out: Event objects, the same one counted up when it happens again. Never: events
//! without end: old ones go after an hour, and all but the newest when there are too many.

use std::sync::Arc;

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::store::StoreError;
use super::verbs::hash;
use super::{Api, object};

/// How long an event is kept after it last happened (as in Kubernetes).
const KEPT: Duration = Duration::HOUR;
/// Most events.
const MOST: usize = 5_000;
/// How often old ones are looked for.
const PERIOD: std::time::Duration = std::time::Duration::from_secs(10);

impl Api {
    /// Records an event about an object, as `kubectl get events` shows it.
    pub fn record(&self, about: &Value, warning: bool, reason: &str, message: &str) {
        let namespace = match object::namespace(about) {
            "" => "default",
            n => n,
        };
        let name = format!(
            "{}.{}",
            object::name(about),
            hash(&format!("{}{reason}{message}", object::uid(about)))
        );
        let counted = self
            .store
            .modify::<StoreError>("events", namespace, &name, |event| {
                let count = event["count"].as_i64().unwrap_or(1) + 1;
                event["count"] = count.into();
                event["lastTimestamp"] = object::now().into();
                Ok(())
            });
        if counted.is_ok() {
            return;
        }
        let now = object::now();
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"namespace": namespace, "name": name, "uid": object::new_uid(), "creationTimestamp": now},
            "involvedObject": {"apiVersion": about["apiVersion"], "kind": about["kind"], "name": object::name(about),
                "namespace": object::namespace(about), "uid": object::uid(about)},
            "reason": reason, "message": message, "type": if warning { "Warning" } else { "Normal" },
            "source": {"component": "weft-sandbox"}, "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        });
        if let Err(e) = self.store.create("events", event) {
            tracing::debug!("an event was not kept: {e}");
        }
    }
}

/// Forgets old events, for ever.
pub async fn forget(api: Arc<Api>) {
    let mut tick = tokio::time::interval(PERIOD);
    loop {
        tick.tick().await;
        trim(&api, OffsetDateTime::now_utc(), MOST);
    }
}

fn trim(api: &Api, now: OffsetDateTime, most: usize) {
    let mut events = api.store.list("events", None).0;
    let version =
        |e: &Value| object::string(e, "/metadata/resourceVersion").and_then(|v| v.parse::<u64>().ok());
    events.sort_by_key(|e| version(e));
    let surplus = events.len().saturating_sub(most);
    for (index, event) in events.iter().enumerate() {
        let last = object::string(event, "/lastTimestamp").and_then(object::parse_time);
        if index < surplus || last.is_some_and(|at| now - at > KEPT) {
            // Gone already is as good.
            drop(api.store.remove::<StoreError>(
                "events",
                object::namespace(event),
                object::name(event),
                |_| Ok(()),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_for_an_hour() {
        let api = Api::new("/nonexistent".into()).unwrap();
        let about = json!({"metadata": {"namespace": "a", "name": "p"}});
        for message in ["1", "2", "3"] {
            api.record(&about, false, "Test", message);
        }
        let left = || {
            api.store
                .list("events", None)
                .0
                .iter()
                .map(|e| e["message"].clone())
                .collect::<Vec<_>>()
        };
        trim(&api, OffsetDateTime::now_utc(), 2);
        assert_eq!(left().len(), 2);
        assert!(!left().contains(&json!("1")));
        trim(&api, OffsetDateTime::now_utc() + Duration::hours(2), 2);
        assert!(left().is_empty());
    }
}

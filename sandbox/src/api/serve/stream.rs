//! Watches.
//!
//! In: a place, selectors, a resource version. Out: a line of JSON for every change. Never: a change lost in silence:
//! a watch that is too far behind ends with 410.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::super::Api;
use super::super::refusal::Refusal;
use super::super::route::{Place, Query};
use super::super::selector::{Fields, Labels};
use super::super::store::{Change, Event, Watch};
use super::super::table::{self, Columns, Include, Shape};
use super::{Reply, as_version};

/// How often a watch that wants bookmarks gets one.
const BOOKMARK: Duration = Duration::from_secs(10);
/// How long a watch lasts if its client does not say.
const LASTING: u64 = 1800;

struct Filter {
    place: Place,
    key: String,
    labels: Labels,
    fields: Fields,
    shape: Shape,
    columns: Columns,
    /// Whether the next table is the first, which has the heads of the columns.
    first: AtomicBool,
}

/// Begins a watch.
pub(super) fn start(
    api: &Arc<Api>,
    place: &Place,
    query: &Query,
    (labels, fields): (Labels, Fields),
    shape: Shape,
) -> Result<Reply, Refusal> {
    let filter = Filter {
        shape,
        columns: Columns::of(api, &place.kind, &place.version),
        first: AtomicBool::new(true),
        key: place.kind.key(),
        place: place.clone(),
        labels,
        fields,
    };
    let asked = query.get("resourceVersion").unwrap_or_default();
    let from: Option<u64> = match asked {
        "" | "0" => None,
        text => Some(
            text.parse()
                .map_err(|_| Refusal::bad_request(format!("resourceVersion {text:?} is not ours")))?,
        ),
    };
    let initial = query.flag("sendInitialEvents") || from.is_none();
    let bookmarks = query.flag("allowWatchBookmarks");
    let lasting = Duration::from_secs(
        query
            .number("timeoutSeconds")?
            .unwrap_or(LASTING)
            .min(LASTING * 4),
    );
    let (lines, receiver) = mpsc::channel(64);
    let mut first = Vec::new();
    let watch = if initial {
        let (objects, version) = api.store.list(&filter.key, place.namespace.as_deref());
        for object in objects.iter().filter(|o| filter.selects(o)) {
            first.push(filter.line("ADDED", as_version((**object).clone(), place)));
        }
        if query.flag("sendInitialEvents") && bookmarks {
            first.push(filter.bookmark(version, true));
        }
        api.store.watch_from(version)
    } else {
        api.store.watch_from(from.unwrap_or_default())
    };
    tokio::spawn(async move {
        for line in first {
            if lines.send(line).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = lines.closed() => {}
            () = pump(filter, watch, &lines, bookmarks) => {}
            () = tokio::time::sleep(lasting) => {}
        }
    });
    Ok(Reply::Stream(receiver, "application/json"))
}

async fn pump(filter: Filter, mut watch: Watch, lines: &mpsc::Sender<Bytes>, bookmarks: bool) {
    let mut tick = tokio::time::interval(BOOKMARK);
    tick.reset();
    loop {
        let events = tokio::select! {
            events = watch.next() => events,
            _ = tick.tick(), if bookmarks => {
                if lines.send(filter.bookmark(watch.seen(), false)).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let Ok(events) = events else {
            // The client's side is gone or gets this; either way the watch is over.
            drop(lines.send(line("ERROR", Refusal::expired().to_status())).await);
            return;
        };
        for event in &events {
            if let Some(line) = filter.line_of(event)
                && lines.send(line).await.is_err()
            {
                return;
            }
        }
    }
}

fn line(kind: &str, object: Value) -> Bytes {
    let mut text = json!({"type": kind, "object": object}).to_string();
    text.push('\n');
    text.into()
}

impl Filter {
    fn selects(&self, object: &Value) -> bool {
        self.labels.matches_object(object) && self.fields.matches(object)
    }

    fn line_of(&self, event: &Event) -> Option<Bytes> {
        if *event.kind != *self.key {
            return None;
        }
        let namespace = super::object::namespace(&event.object);
        if self.place.namespace.as_deref().is_some_and(|n| n != namespace) {
            return None;
        }
        let before = event.before.as_deref().is_some_and(|o| self.selects(o));
        let now = event.change != Change::Deleted && self.selects(&event.object);
        let kind = match (before, now) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return None,
        };
        Some(self.line(kind, as_version((*event.object).clone(), &self.place)))
    }

    /// A change, in the shape that was asked for.
    fn line(&self, kind: &str, object: Value) -> Bytes {
        let object = match self.shape {
            Shape::Whole => object,
            Shape::Metadata => table::metadata_of(&object),
            Shape::Table(include) => {
                let head = self.first.swap(false, Ordering::Relaxed);
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                self.columns
                    .table(std::slice::from_ref(&object), include, &metadata, head)
            }
        };
        line(kind, object)
    }

    fn bookmark(&self, version: u64, initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, version) = match self.shape {
            Shape::Whole => (
                self.place.kind.kind.as_str(),
                self.place.kind.api_version_as(&self.place.version),
            ),
            Shape::Metadata => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
            Shape::Table(_) => {
                let table = self.columns.table(&[], Include::None, &metadata, false);
                return line("BOOKMARK", table);
            }
        };
        line(
            "BOOKMARK",
            json!({"kind": kind, "apiVersion": version, "metadata": metadata}),
        )
    }
}

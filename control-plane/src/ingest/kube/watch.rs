//! One kind: list, watch, and again.

use crate::ingest::kind::Kind;
use crate::ingest::read::{self, Metadata};
use crate::mesh::{Change, Key, Read};
use futures_util::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;
use weft_proto::model::Origin;

/// A watch ends after this many seconds and goes on where it was: a connection that is dead without a sign is
/// noticed.
const WATCH_SECONDS: u32 = 60;
/// Shortest and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Watches a kind until it is aborted or nobody reads the changes. Says once when the first list is complete.
pub(super) async fn run(
    client: kube::Client,
    kind: &'static Kind,
    version: String,
    changes: mpsc::Sender<Change>,
    listed: mpsc::UnboundedSender<&'static Kind>,
) {
    let resource = ApiResource {
        group: kind.group.to_owned(),
        api_version: kind.api_version(&version),
        version,
        kind: kind.kind.to_owned(),
        plural: kind.plural.to_owned(),
    };
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let mut events = watcher::watcher(api, watcher::Config::default().timeout(WATCH_SECONDS)).boxed();
    let mut list = Vec::new();
    let mut pause = PAUSES.0;
    while let Some(event) = events.next().await {
        let change = match event {
            Ok(Event::Init) => {
                list.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                list.push(read(kind, object));
                continue;
            }
            Ok(Event::InitDone) => Change::Replace {
                kind: kind.kind.into(),
                objects: std::mem::take(&mut list),
            },
            Ok(Event::Apply(object)) => Change::Put(Box::new(read(kind, object))),
            Ok(Event::Delete(object)) => Change::Remove(key(kind, object)),
            Err(error) => {
                let hint = match &error {
                    watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 403 => {
                        "; let the control plane's service account get, list and watch it"
                    }
                    _ => "",
                };
                tracing::warn!(kind = kind.kind, %error, "can't follow the API server{hint}; trying again");
                sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                pause = (pause * 2).min(PAUSES.1);
                continue;
            }
        };
        pause = PAUSES.0;
        let complete = matches!(change, Change::Replace { .. });
        if changes.send(change).await.is_err() {
            return;
        }
        if complete {
            let _ = listed.send(kind);
        }
    }
}

fn read(kind: &Kind, object: DynamicObject) -> Read {
    let metadata = Metadata::from(object.metadata);
    let origin = Origin::object(kind.kind, &metadata.namespace, &metadata.name);
    read::read(kind, &metadata, &object.data, origin)
}

fn key(kind: &Kind, object: DynamicObject) -> Key {
    let (namespace, name) = (
        object.metadata.namespace.unwrap_or_default(),
        object.metadata.name.unwrap_or_default(),
    );
    Key::new(kind.kind, &namespace, &name)
}

//! Word that something changed, without what. Enters: objects of a kind, whole or by one name. Leaves: a notification a change.
//! Never: an object's content in memory: only metadata is asked for.

use futures_util::StreamExt as _;
use kube::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

/// Shortest and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// Notifies of every change until it is aborted; also of the first complete list, so that nothing is missed. Whoever is
/// notified looks at times without being told, too: a missing right is a reason for that, not for an end.
pub(super) async fn run<K>(api: Api<PartialObjectMeta<K>>, name: Option<&str>, changed: Arc<Notify>)
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default + Clone,
{
    let mut config = watcher::Config::default().timeout(240);
    if let Some(name) = name {
        config = config.fields(&format!("metadata.name={name}"));
    }
    let mut events = watcher::watcher(api, config).boxed();
    let mut pause = PAUSES.0;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(_) | Event::Delete(_) | Event::InitDone) => {
                pause = PAUSES.0;
                changed.notify_one();
            }
            Ok(Event::Init | Event::InitApply(_)) => {}
            Err(error) => {
                tracing::debug!(%error, "can't be told of changes; looking from time to time");
                sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

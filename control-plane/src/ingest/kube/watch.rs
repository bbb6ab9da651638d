//! One kind: everything there is of it, and what changes.
//!
//! Enters: events of the API server. Leaves: [`Change`]s, and how it goes. Never: an erasure because the API server can't be
//! reached or a right is missing.

use super::follow::{Event, Follower, Lists};
use super::routes::Routes;
use super::seen::{Seen, version};
use crate::ingest::kind::Kind;
use crate::ingest::read::{self, Metadata};
use crate::mesh::{Change, Diagnostic, Key, Read};
use kube::api::{Api, ApiResource, DynamicObject};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use weft_proto::model::Origin;
use weft_proto::model::annotations::CONTROL_PLANE;

/// Shortest and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long a right must be missing before that is said: an API server that has just started refuses until it has read its roles.
const REFUSED: Duration = Duration::from_secs(5);

/// How a kind's watch goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything has been read.
    Listed,
    /// The control plane has no right to read it.
    Forbidden,
    /// It can't be read now.
    Failing(String),
}

/// What a watch is about, and where its results go.
pub(super) struct Watch {
    pub(super) client: kube::Client,
    pub(super) kind: &'static Kind,
    pub(super) resource: ApiResource,
    pub(super) lists: Lists,
    pub(super) changes: mpsc::Sender<Change>,
    pub(super) progress: mpsc::UnboundedSender<(&'static Kind, Progress)>,
    /// For kinds whose objects have a status that Weft writes.
    pub(super) routes: Option<Arc<Routes>>,
    /// Which versions have been passed on.
    pub(super) seen: Seen,
}

/// The API's name of a kind in a version.
pub(super) fn resource(kind: &Kind, version: &str) -> ApiResource {
    ApiResource {
        group: kind.group.to_owned(),
        api_version: kind.api_version(version),
        version: version.to_owned(),
        kind: kind.kind.to_owned(),
        plural: kind.plural.to_owned(),
    }
}

impl Watch {
    /// Runs until it is aborted or nobody reads the changes.
    pub(super) async fn run(self) {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &self.resource);
        let mut follower = Follower::new(api, self.kind.kind, self.lists.clone());
        let (mut list, mut versions) = (Vec::new(), Vec::new());
        self.seen.begin(self.kind, self.resource.clone());
        let mut pause = PAUSES.0;
        let mut forbidden = false;
        let mut refused_since: Option<Instant> = None;
        loop {
            let mut one = None;
            let change = match follower.next().await {
                Event::Begin => {
                    list.clear();
                    versions.clear();
                    continue;
                }
                Event::Item(object) => {
                    versions.push(version(&object));
                    list.push(self.read(*object));
                    continue;
                }
                Event::Complete => {
                    if let Some(routes) = &self.routes {
                        routes.keep(self.kind.kind, list.iter().map(|read| &read.key));
                    }
                    Change::Replace {
                        kind: self.kind.table().into(),
                        objects: std::mem::take(&mut list),
                    }
                }
                Event::Apply(object) => {
                    one = Some((version(&object), false));
                    Change::Put(Box::new(self.read(*object)))
                }
                Event::Delete(object) => {
                    one = Some((version(&object), true));
                    let key = key(self.kind, &object);
                    if let Some(routes) = &self.routes {
                        routes.remove(&key);
                    }
                    Change::Remove(key)
                }
                Event::Failed(error) => {
                    let refused = matches!(&error, kube::Error::Api(status) if status.code == 403);
                    let since = refused.then(|| refused_since.unwrap_or_else(Instant::now));
                    refused_since = since;
                    let sure = forbidden || since.is_some_and(|since| since.elapsed() >= REFUSED);
                    if refused && !sure {
                        tracing::debug!(kind = self.kind.kind, %error, "may not be read; trying again before that is believed");
                    } else if refused && !forbidden {
                        forbidden = true;
                        let finding = self.missing_right();
                        tracing::error!(kind = self.kind.kind, %error, "{finding}");
                        if self.changes.send(self.finding(finding)).await.is_err() {
                            return;
                        }
                    } else if !refused {
                        tracing::warn!(kind = self.kind.kind, %error, "can't follow the API server; trying again");
                    }
                    let progress = if refused && sure {
                        Progress::Forbidden
                    } else {
                        Progress::Failing(error.to_string())
                    };
                    let _ = self.progress.send((self.kind, progress));
                    sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                    pause = (pause * 2).min(PAUSES.1);
                    continue;
                }
            };
            pause = PAUSES.0;
            refused_since = None;
            if std::mem::take(&mut forbidden) {
                tracing::info!(kind = self.kind.kind, "the right to read it is there now");
                if self.changes.send(Change::Remove(right(self.kind))).await.is_err() {
                    return;
                }
            }
            let complete = matches!(change, Change::Replace { .. });
            if self.changes.send(change).await.is_err() {
                return;
            }
            // Only now: whoever asks what was passed on asks for the changes behind it.
            match one {
                Some(((name, version), gone)) => self.seen.changed(self.kind, name, version, gone),
                None => self.seen.listed(self.kind, std::mem::take(&mut versions)),
            }
            if complete {
                let _ = self.progress.send((self.kind, Progress::Listed));
            }
        }
    }

    fn read(&self, object: DynamicObject) -> Read {
        if let Some(routes) = &self.routes {
            routes.observe(key(self.kind, &object), &self.resource, &object);
        }
        let metadata = Metadata::from(object.metadata);
        let origin = Origin::object(self.kind.kind, &metadata.namespace, &metadata.name);
        read::read(self.kind, &metadata, &object.data, origin)
    }

    fn missing_right(&self) -> Diagnostic {
        let reason = format!(
            "the control plane may not read {}: what was known of {} objects stays in force, and new ones have no effect",
            full_name(self.kind),
            self.kind.kind
        );
        let action = format!(
            "add the rule {{apiGroups: [{:?}], resources: [{:?}], verbs: [get, list, watch]}}",
            self.kind.group, self.kind.plural
        );
        Diagnostic::error("right-missing", &Origin::object("ClusterRole", "", CONTROL_PLANE))
            .at("rules")
            .because(reason)
            .so(action)
    }

    fn finding(&self, finding: Diagnostic) -> Change {
        Change::Put(Box::new(Read {
            key: right(self.kind),
            item: None,
            findings: vec![finding],
        }))
    }
}

/// Under which a missing right is noted.
pub(super) fn right(kind: &Kind) -> Key {
    Key::new("ClusterRole", "", &format!("{CONTROL_PLANE}/{}", full_name(kind)))
}

fn full_name(kind: &Kind) -> String {
    match kind.group {
        "" => kind.plural.to_owned(),
        group => format!("{}.{group}", kind.plural),
    }
}

fn key(kind: &Kind, object: &DynamicObject) -> Key {
    let metadata = &object.metadata;
    Key::new(
        &kind.table(),
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

//! Secrets with certificates, one by one: those that Weft's Gateways and Ingresses refer to, and no others.
//!
//! Enters: meshes (what is referred to), objects of the API server. Leaves: [`Change`]s. Never: a list of a namespace's Secrets, or a Secret that
//! nothing refers to or that its namespace doesn't grant; a byte of one in a log.
//!
//! Each is watched by its name, in its namespace. The right to do that is given where the Secret is: one that is missing is said of what refers to it.

use super::follow::{Event, Follower, Lists};
use crate::ingest::kind::{self, Kind};
use crate::ingest::read::{self, Metadata};
use crate::mesh::gateway::SecretProblem;
use crate::mesh::{Change, Key, Mesh, Read, TlsSecret};
use crate::translate::gateway;
use kube::api::{Api, DynamicObject};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use weft_proto::model::{Origin, ServiceName};

/// Most Secrets that are watched at once.
const MOST: usize = 2_000;
/// Shortest and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How long a right must be missing before that is believed: an API server that has just started refuses until it has read its roles.
const REFUSED: Duration = Duration::from_secs(5);

/// Follows what the meshes refer to. Ends with them.
pub async fn run(
    client: kube::Client,
    mut meshes: watch::Receiver<Arc<Mesh>>,
    changes: mpsc::Sender<Change>,
) {
    let Ok(kind) = kind::find("v1", "Secret") else {
        return;
    };
    let lists = Lists::default();
    let mut watches: BTreeMap<ServiceName, JoinHandle<()>> = BTreeMap::new();
    let mut last: Option<Arc<Mesh>> = None;
    loop {
        let mesh = meshes.borrow_and_update().clone();
        if mesh.synced && last.as_ref().is_none_or(|last| !same(last, &mesh)) {
            let mut wanted = gateway::secrets(&mesh);
            if wanted.len() > MOST {
                tracing::error!(
                    all = wanted.len(),
                    most = MOST,
                    "too many Secrets are referred to; some aren't read"
                );
                wanted = wanted.into_iter().take(MOST).collect();
            }
            let gone: Vec<_> = watches
                .keys()
                .filter(|name| !wanted.contains(name))
                .cloned()
                .collect();
            for name in gone {
                if let Some(task) = watches.remove(&name) {
                    task.abort();
                    // What it may still have sent comes before its removal.
                    let _ = task.await;
                }
                let key = Key::new("Secret", &name.namespace, &name.name);
                if changes.send(Change::Remove(key)).await.is_err() {
                    break;
                }
            }
            for name in wanted {
                watches.entry(name.clone()).or_insert_with(|| {
                    let one = One {
                        client: client.clone(),
                        kind,
                        name,
                        changes: changes.clone(),
                    };
                    tokio::spawn(one.run(lists.clone()))
                });
            }
            last = Some(mesh);
        }
        if meshes.changed().await.is_err() {
            watches.values().for_each(JoinHandle::abort);
            return;
        }
    }
}

/// Whether both refer to the same, told without looking.
fn same(old: &Mesh, new: &Mesh) -> bool {
    old.gateways.same(&new.gateways)
        && old.gateway_classes.same(&new.gateway_classes)
        && old.ingresses.same(&new.ingresses)
        && old.ingress_classes.same(&new.ingress_classes)
        && old.grants.same(&new.grants)
}

/// One Secret.
struct One {
    client: kube::Client,
    kind: &'static Kind,
    name: ServiceName,
    changes: mpsc::Sender<Change>,
}

impl One {
    async fn run(self, lists: Lists) {
        let resource = super::watch::resource(self.kind, self.kind.versions[0]);
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.name.namespace, &resource);
        let mut follower = Follower::new(api, self.kind.kind, lists).named(&self.name.name);
        let mut listed = None;
        let mut pause = PAUSES.0;
        let mut refused: Option<Instant> = None;
        let mut forbidden = false;
        loop {
            let read = match follower.next().await {
                Event::Begin => {
                    listed = None;
                    continue;
                }
                Event::Item(object) => {
                    listed = self.read(*object).or(listed);
                    continue;
                }
                Event::Complete => listed
                    .take()
                    .or_else(|| Some(self.without(SecretProblem::Missing))),
                Event::Apply(object) => self.read(*object),
                Event::Delete(object) => self.read(*object).map(|_| self.without(SecretProblem::Missing)),
                Event::Failed(error) => {
                    let no = matches!(&error, kube::Error::Api(status) if status.code == 403);
                    refused = no.then(|| refused.unwrap_or_else(Instant::now));
                    let sure = refused.is_some_and(|since| since.elapsed() >= REFUSED);
                    if sure && !std::mem::replace(&mut forbidden, true) {
                        tracing::error!(secret = %self.name, "may not be read: a right is missing, see the findings");
                        let read = self.without(SecretProblem::Forbidden);
                        if self.changes.send(Change::Put(Box::new(read))).await.is_err() {
                            return;
                        }
                    } else if !no {
                        tracing::warn!(secret = %self.name, %error, "can't follow a Secret; trying again");
                    }
                    sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                    pause = (pause * 2).min(PAUSES.1);
                    continue;
                }
            };
            pause = PAUSES.0;
            refused = None;
            forbidden = false;
            if let Some(read) = read
                && self.changes.send(Change::Put(Box::new(read))).await.is_err()
            {
                return;
            }
        }
    }

    /// Nothing for another object than the one that was asked for.
    fn read(&self, object: DynamicObject) -> Option<Read> {
        let metadata = Metadata::from(object.metadata);
        let wanted = metadata.name == self.name.name;
        let origin = Origin::object(self.kind.kind, &self.name.namespace, &self.name.name);
        wanted.then(|| read::read(self.kind, &metadata, &object.data, origin))
    }

    fn without(&self, problem: SecretProblem) -> Read {
        TlsSecret::without(&self.name, problem).read()
    }
}

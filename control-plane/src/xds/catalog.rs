//! Everything that is served to all, and what changed from one mesh to the next.
//!
//! Enters: meshes. Leaves: catalogs behind a watch. Never: a catalog of a mesh that hasn't been read completely, or that
//! trusts nobody: an empty first snapshot would erase what sidecars know.

use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::translate::Shared;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;
use weft_proto::resource::Kind;

/// How many changes a catalog remembers; a session that is further behind compares everything.
const REMEMBERED: usize = 64;

/// Kinds and names of the resources that are new, different or gone.
pub type Changes = Vec<(Kind, Arc<str>)>;

/// Everything that is served to all, at one moment.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// Counts catalogs of this process, from 1.
    pub sequence: u64,
    /// The resources.
    pub shared: Shared,
    /// When the mesh was first seen.
    pub changed_at: Instant,
    /// The newest last; its last entry led to `sequence`.
    changes: VecDeque<Arc<Changes>>,
}

impl Catalog {
    /// The first catalog.
    pub fn first(mesh: Arc<Mesh>, now: Instant) -> Self {
        Self {
            sequence: 1,
            shared: Shared::new(mesh),
            changed_at: now,
            changes: VecDeque::new(),
        }
    }

    /// The catalog that follows.
    #[must_use]
    pub fn next(&self, mesh: Arc<Mesh>, now: Instant) -> Self {
        let shared = self.shared.next(mesh);
        let mut changed = Changes::new();
        for kind in Kind::ALL {
            let names = self.shared.items(kind).differing(shared.items(kind));
            changed.extend(names.map(|name| (kind, name.clone())));
        }
        let mut changes = self.changes.clone();
        changes.push_back(Arc::new(changed));
        if changes.len() > REMEMBERED {
            changes.pop_front();
        }
        Self {
            sequence: self.sequence + 1,
            shared,
            changed_at: now,
            changes,
        }
    }

    /// What changed after an earlier catalog; `None` when that is too long ago.
    pub fn changes_since(&self, sequence: u64) -> Option<impl Iterator<Item = &(Kind, Arc<str>)>> {
        let behind = usize::try_from(self.sequence.checked_sub(sequence)?).ok()?;
        let skip = self.changes.len().checked_sub(behind)?;
        Some(self.changes.iter().skip(skip).flat_map(|changes| changes.iter()))
    }
}

/// Whether a mesh may be served.
fn complete(mesh: &Mesh) -> bool {
    mesh.synced && !mesh.trust.is_empty()
}

/// Publishes a catalog for each mesh, or for the newest when they come faster than they can be translated. Ends with the
/// meshes.
pub async fn run(
    mut meshes: watch::Receiver<Arc<Mesh>>,
    catalogs: watch::Sender<Option<Arc<Catalog>>>,
    metrics: Arc<Metrics>,
) {
    let mut before: Option<Arc<Catalog>> = None;
    loop {
        let mesh = meshes.borrow_and_update().clone();
        if complete(&mesh) {
            let seen = Instant::now();
            let last = catalogs.borrow().clone();
            // Nobody needs the one before any more: a stream that let go of it last would have to take a large mesh apart.
            let unneeded = std::mem::replace(&mut before, last.clone());
            drop(tokio::task::spawn_blocking(move || drop(unneeded)));
            // A large mesh takes a while: not on a thread that serves streams.
            let translated = tokio::task::spawn_blocking(move || match last {
                Some(last) => last.next(mesh, seen),
                None => Catalog::first(mesh, seen),
            });
            match translated.await {
                Ok(catalog) => {
                    metrics.translate.observe(seen.elapsed().as_secs_f64());
                    catalogs.send_replace(Some(Arc::new(catalog)));
                }
                Err(error) => {
                    tracing::error!(%error, "a mesh can't be translated; the last one stays in force")
                }
            }
        }
        if meshes.changed().await.is_err() {
            return;
        }
    }
}

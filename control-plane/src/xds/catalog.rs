//! Everything that is served to all, and what changed from one mesh to the next.
//!
//! Enters: meshes. Leaves: catalogs behind a watch, and streams that are woken to look. Never: a catalog of a mesh that hasn't been read completely, or that
//! trusts nobody: an empty first snapshot would erase what sidecars know.

use super::due::due;
use super::registry::Sessions;
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::translate::Shared;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use weft_proto::resource::Kind;

/// How long a stream that a catalog doesn't concern may keep an older one.
const IDLE: Duration = Duration::from_secs(1);
/// How many catalogs such a stream may be behind.
const BEHIND: usize = REMEMBERED / 2;

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
    /// Whether the last of them concerns those alone that asked for the changed names.
    by_name: bool,
}

impl Catalog {
    /// The first catalog.
    pub fn first(mesh: Arc<Mesh>, now: Instant) -> Self {
        Self {
            sequence: 1,
            shared: Shared::new(mesh),
            changed_at: now,
            changes: VecDeque::new(),
            by_name: false,
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
        let by_name =
            changed.iter().all(|(kind, _)| kind.on_demand()) && shared.scoped_same_for_all(&self.shared);
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
            by_name,
        }
    }

    /// The names that changed with it, if it concerns those alone that asked for them by name: nothing else may be different for anybody.
    pub fn concerns(&self) -> Option<&Changes> {
        self.changes
            .back()
            .filter(|_| self.by_name)
            .map(|changes| &**changes)
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

/// Publishes a catalog for each mesh, or for the newest when they come faster than they can be translated, and wakes the streams that it concerns;
/// the others look at it within [`IDLE`]. Ends with the meshes.
pub async fn run(
    mut meshes: watch::Receiver<Arc<Mesh>>,
    catalogs: watch::Sender<Option<Arc<Catalog>>>,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
) {
    let mut before: Option<Arc<Catalog>> = None;
    // Catalogs that not everybody was told of, and when everybody is.
    let (mut untold, mut tell) = (0, None);
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
                    let catalog = Arc::new(catalog);
                    catalogs.send_replace(Some(catalog.clone()));
                    match catalog.concerns() {
                        Some(changes) if untold < BEHIND => {
                            sessions.wake_users(changes.iter());
                            untold += 1;
                            tell = tell.or_else(|| Some(Instant::now() + IDLE));
                        }
                        _ => {
                            sessions.wake_all();
                            (untold, tell) = (0, None);
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "a mesh can't be translated; the last one stays in force")
                }
            }
        }
        loop {
            tokio::select! {
                changed = meshes.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => {
                        // Streams end with the catalogs.
                        drop(catalogs);
                        return sessions.wake_all();
                    }
                },
                () = due(tell) => {
                    sessions.wake_all();
                    (untold, tell) = (0, None);
                }
            }
        }
    }
}

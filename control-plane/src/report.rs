//! Findings to the log.
//!
//! Enters: meshes. Leaves: a line for every finding when it appears, again only after it was gone in between. Never: a
//! line for each mesh: findings are looked at when nothing has changed for a moment.

use crate::mesh::{Diagnostic, Mesh, Severity};
use crate::translate;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long nothing must change before findings are looked at.
const QUIET: Duration = Duration::from_secs(2);
/// And how long at most, when something always changes.
const PATIENCE: usize = 15;

/// Logs findings until the meshes end.
pub async fn run(mut meshes: watch::Receiver<Arc<Mesh>>) {
    let mut before: Vec<Diagnostic> = Vec::new();
    while meshes.changed().await.is_ok() {
        for _ in 0..PATIENCE {
            meshes.borrow_and_update();
            if !matches!(timeout(QUIET, meshes.changed()).await, Ok(Ok(()))) {
                break;
            }
        }
        let mesh = meshes.borrow_and_update().clone();
        // Every selector is tried on every pod: not on a thread that serves.
        let work = tokio::task::spawn_blocking(move || translate::findings(&mesh));
        let Ok(now) = work.await else { continue };
        for finding in new(&before, &now) {
            match finding.severity {
                Severity::Error => tracing::error!(code = finding.code, "{finding}"),
                Severity::Warning => tracing::warn!(code = finding.code, "{finding}"),
                Severity::Info => tracing::info!(code = finding.code, "{finding}"),
            }
        }
        before = now;
    }
}

/// Findings of `now` that are not among `before`; both are sorted.
fn new<'a>(before: &'a [Diagnostic], now: &'a [Diagnostic]) -> impl Iterator<Item = &'a Diagnostic> {
    now.iter()
        .filter(|finding| before.binary_search(finding).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_proto::model::Origin;

    #[test]
    fn only_what_appeared_is_new() {
        let finding = |name: &str| Diagnostic::error("x", &Origin::object("Service", "shop", name));
        let (before, now) = ([finding("a"), finding("b")], [finding("b"), finding("c")]);
        assert_eq!(new(&before, &now).collect::<Vec<_>>(), [&finding("c")]);
    }
}

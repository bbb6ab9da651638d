//! What has no effect, can't work or is not what was meant: everything that `weft analyze` says.
//!
//! Enters: a translated mesh ([`Shared`]). Leaves: findings, sorted and each once: those of reading and translating, and what only shows when all objects are
//! seen together. Never: a decision, a change.

/// Rules that never decide.
mod shadow;
/// Services whose failover can't work.
mod failover;
/// Policies that can match nobody.
mod access;
/// Names outside the mesh.
mod outside;

use crate::mesh::Diagnostic;
use crate::translate::Shared;

/// Everything that is wrong with a translated mesh. The work grows with objects times pods: not for a thread that serves.
pub fn analyze(shared: &Shared) -> Vec<Diagnostic> {
    let mesh = shared.mesh();
    let mut all = shared.findings().to_vec();
    shadow::find(shared, &mut all);
    failover::find(shared, &mut all);
    access::find(mesh, &mut all);
    outside::find(mesh, &mut all);
    all.sort();
    all.dedup();
    all
}

//! What a rule's backend means.
//!
//! Enters: a backend of a rule. Leaves: the target that it is. Never: another target for what the connection goes to anyway: of a pod that
//! was called by its own address that is the very pod.

use weft_proto::model::Backend;

use crate::context::Worker;
use crate::upstream::call::Target;
use crate::view::{Destination, View};

/// Whether a backend is what was called: of a pod's own address, the headless Service that the pod is behind.
pub fn is_own(own: &Destination, backend: &Backend) -> bool {
    backend.invalid.is_none()
        && backend.service == own.service
        && backend.port == own.port.port
        && backend.subset.as_deref() == own.subset.as_deref()
}

/// The target that a backend is; `None`: there is no such thing.
pub fn destination(worker: &Worker, backend: &Backend) -> Option<Target> {
    at(&worker.view(), backend)
}

/// The same in a view.
pub fn at(view: &View, backend: &Backend) -> Option<Target> {
    if backend.invalid.is_some() {
        return None;
    }
    let destination = view.backend(&backend.service, backend.port, backend.subset.as_deref())?;
    Some(Target::Service(destination.clone()))
}

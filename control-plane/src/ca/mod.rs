//! Signs identities.
//!
//! Enters: signing requests with a service account's token. Leaves: certificates, and the roots that vouch for them. Never: a
//! name that the token didn't prove, a key or a token in a log line.
//!
//! ```text
//! request ──authenticate (token -> pod)──> issue (public key + names -> leaf) <── root (the authority) <──keep── Secret
//! ```

/// The authority that signs.
pub mod root;
/// Loads, creates and rolls the authority; one Secret is shared by all replicas.
pub mod keep;
/// Puts the roots where pods can mount them.
pub mod publish;
/// Whose token is it?
pub mod authenticate;
/// Makes certificates.
pub mod issue;
/// Reads them.
pub mod peer;
/// The gRPC service.
pub mod service;

#[cfg(test)]
mod issue_tests;
#[cfg(test)]
mod keep_tests;
#[cfg(test)]
mod root_tests;

pub use authenticate::{Caller, Reviewer};
pub use issue::PodIdentity;
pub use peer::Peer;
pub use root::{Authority, StoredAuthority};
pub use service::Signer;

use std::sync::Arc;
use tokio::sync::watch;

/// The authority in force, and whoever wants to know when it changes.
#[derive(Clone, Debug)]
pub struct Current {
    authority: Arc<watch::Sender<Arc<Authority>>>,
}

impl Current {
    /// Starts with an authority.
    pub fn new(authority: Authority) -> Self {
        Self {
            authority: Arc::new(watch::Sender::new(Arc::new(authority))),
        }
    }

    /// The authority in force.
    pub fn get(&self) -> Arc<Authority> {
        self.authority.borrow().clone()
    }

    /// Told of every change, and at once of the present one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Authority>> {
        let mut receiver = self.authority.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// Puts another authority in force.
    pub fn set(&self, authority: Authority) {
        self.authority.send_replace(Arc::new(authority));
    }
}

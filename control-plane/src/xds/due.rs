//! A moment that may never come. Enters: the moment, if there is one. Leaves: when it is there. Never: a timer where there is none.

use tokio::time::{Instant, sleep_until};

/// Resolves at this moment; never, if there is none.
pub(super) async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

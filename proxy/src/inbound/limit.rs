//! How many requests the application takes: more are answered 429, and it never hears of them.
//!
//! Enters: a permitted request. Leaves: go on, or when to come back. Never: a request that policy denies counted, a caller told
//! by whose limit.

use std::sync::atomic::Ordering::Relaxed;

use http::HeaderMap;
use weft_engine::route::RequestHead;

use crate::context::Worker;
use crate::policy::Caller;

/// The field that says when to come back (RFC 9110 section 10.2.3).
pub const RETRY_AFTER: &str = "retry-after";
/// Nobody is told to stay away for longer, in seconds.
const LONGEST: u64 = 3_600;

/// Takes a request. `fields` is only asked for if a limit looks at them.
///
/// # Errors
/// It is too many; in so many seconds, at least 1, there is room again.
pub fn take(
    worker: &Worker,
    caller: &Caller,
    head: &RequestHead<'_>,
    fields: impl FnOnce() -> HeaderMap,
) -> Result<(), u64> {
    let view = worker.view();
    let limits = &view.limits;
    if limits.is_empty() {
        return Ok(());
    }
    let identity = caller.peer.as_ref().map(|peer| peer.id.to_string());
    let identity = identity.as_deref().unwrap_or_default();
    let read;
    let head = if limits.looks_at_fields() {
        read = fields();
        &RequestHead {
            headers: &read,
            ..*head
        }
    } else {
        head
    };
    limits
        .take(worker.now(), caller.port, identity, head)
        .map_err(|limited| {
            worker.shared.telemetry.own().rate_limited.fetch_add(1, Relaxed);
            tracing::debug!(
                origin = ?limited.origin,
                by_caller = limited.by_caller,
                caller = %caller.address,
                identity,
                "a request is over a rate limit"
            );
            limited
                .retry_after
                .as_secs_f64()
                .ceil()
                .clamp(1.0, LONGEST as f64) as u64
        })
}

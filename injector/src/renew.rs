//! When to ask the authority for another serving certificate.
//!
//! In: the mesh's roots, as they change, and the clock. Out: the certificate in force: replaced at half of its life, and at once
//! when the roots would not vouch for it any more. Never: a good certificate given up because the authority is away, or a
//! busy loop against one that refuses.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::sleep;

use crate::authority::{Authority, Signed};
use crate::certificate::Current;
use crate::metrics::{LoadResult, Metrics};

/// The longest time between looks at the clock, which may jump.
const LOOK: Duration = Duration::from_secs(5);
/// Shortest and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// What is in force.
#[derive(Debug)]
struct Held {
    signed: Signed,
    renew_at: SystemTime,
}

/// Keeps `current` fresh as long as the roots are watched.
pub async fn run(
    authority: Authority,
    mut roots: watch::Receiver<Option<Arc<str>>>,
    current: &Current,
    metrics: &Metrics,
) {
    let mut held: Option<Held> = None;
    let mut complaint = String::new();
    let mut pause = PAUSES.0;
    loop {
        let pem = roots.borrow_and_update().clone();
        let mut wait = LOOK;
        if let Some(pem) = pem
            && due(&authority, held.as_ref(), &pem, SystemTime::now())
        {
            let count = |result| {
                metrics
                    .certificate_loads
                    .get_or_create(&LoadResult { result })
                    .inc()
            };
            match authority.sign(&pem).await {
                Ok(signed) => {
                    count("ok");
                    let seconds = seconds(signed.not_after);
                    metrics.certificate_expiry.set(seconds);
                    current.install(Arc::clone(&signed.key));
                    tracing::info!(
                        expires = seconds,
                        "serving certificate signed by the mesh's authority"
                    );
                    held = Some(Held {
                        renew_at: half(SystemTime::now(), signed.not_after),
                        signed,
                    });
                    complaint.clear();
                    pause = PAUSES.0;
                }
                Err(error) => {
                    count("error");
                    let text = error.to_string();
                    if text != complaint {
                        let kept = if held.is_some() {
                            "the one before stays"
                        } else {
                            "not ready until there is one"
                        };
                        tracing::warn!(reason = %text, "no new serving certificate; {kept}, trying again");
                        complaint = text;
                    }
                    wait = pause;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
        tokio::select! {
            changed = roots.changed() => if changed.is_err() { return },
            () = sleep(wait) => {}
        }
    }
}

fn due(authority: &Authority, held: Option<&Held>, roots: &str, now: SystemTime) -> bool {
    held.is_none_or(|held| now >= held.renew_at || authority.check(&held.signed, roots).is_err())
}

/// Halfway between now and the end.
fn half(now: SystemTime, end: SystemTime) -> SystemTime {
    now + end.duration_since(now).unwrap_or_default() / 2
}

/// Seconds since the epoch.
fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_at_half_of_its_life() {
        let now = SystemTime::now();
        assert_eq!(
            half(now, now + Duration::from_secs(100)),
            now + Duration::from_secs(50)
        );
        assert_eq!(half(now, now - Duration::from_secs(1)), now);
    }
}

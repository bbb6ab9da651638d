//! A deadline that costs nothing when it is moved forward for every request.
//!
//! Enters: a moment. Leaves: ready once it has passed. Never: a timer of its own for each request: the one of the
//! connection stays where it is and looks, when it fires, how far the deadline has moved.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// The timer of one connection.
#[derive(Debug, Default)]
pub struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Ready when `deadline` has passed.
    pub fn poll_at(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    /// Drops the timer: for a connection that becomes idle.
    pub fn clear(&mut self) {
        self.sleep = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn it_follows_the_deadline_both_ways() {
        let begun = Instant::now();
        let mut alarm = Alarm::default();
        for wanted in [10, 30, 31, 100] {
            // An earlier deadline after a later one was asked for.
            let far = begun + Duration::from_secs(1000);
            let early = poll_fn(|cx| Poll::Ready(alarm.poll_at(cx, far))).await;
            assert!(early.is_pending());
            poll_fn(|cx| alarm.poll_at(cx, begun + Duration::from_secs(wanted))).await;
            assert_eq!(begun.elapsed().as_secs(), wanted);
        }
    }
}

//! Connections that nobody uses.
//!
//! Enters: how many streams live, at every turn of a connection. Leaves: when to tell the client to go, and when to go without it. Never: an
//! end while a stream lives, or sooner than after the bound.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::alarm::Alarm;

/// How long a client that was told may take to go.
const FAREWELL: Duration = Duration::from_secs(10);

/// What is to be done with an idle connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Tell the client that no further request is taken: one that is on its way is served.
    Tell,
    /// Nobody answers: close it.
    Close,
}

/// The clock of one connection.
#[derive(Debug)]
pub struct Idle {
    bound: Duration,
    alarm: Alarm,
    /// When a stream was last known to live.
    last: Instant,
    busy: bool,
    told: bool,
}

impl Idle {
    /// For a connection that begins, and may be without a stream for `bound`.
    pub fn new(bound: Duration) -> Self {
        Self {
            bound,
            alarm: Alarm::default(),
            last: Instant::now(),
            busy: false,
            told: false,
        }
    }

    /// Ready when something is to be done, with `streams` alive now.
    pub fn poll(&mut self, cx: &mut Context<'_>, streams: usize) -> Poll<End> {
        // The turn in which the last one ends counts too.
        if streams > 0 || self.busy {
            self.last = Instant::now();
            self.busy = streams > 0;
        }
        let bound = if self.told { FAREWELL } else { self.bound };
        ready!(self.alarm.poll_at(cx, self.last + bound));
        self.last = Instant::now();
        match std::mem::replace(&mut self.told, true) {
            false => Poll::Ready(End::Tell),
            true => Poll::Ready(End::Close),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn only_time_without_streams_counts() {
        let begun = Instant::now();
        let mut idle = Idle::new(Duration::from_secs(100));
        // (turns as seconds since the begin and streams, what comes then, and when)
        let turns = [(0, 0), (90, 1), (300, 3), (400, 0), (450, 0)];
        for (at, streams) in turns {
            tokio::time::sleep_until(begun + Duration::from_secs(at)).await;
            let now = poll_fn(|cx| Poll::Ready(idle.poll(cx, streams))).await;
            assert_eq!(now, Poll::Pending, "{at} s");
        }
        let end = poll_fn(|cx| idle.poll(cx, 0)).await;
        assert_eq!((end, begun.elapsed().as_secs()), (End::Tell, 500));
        // A request was on its way.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = poll_fn(|cx| Poll::Ready(idle.poll(cx, 1))).await;
        assert_eq!(now, Poll::Pending);
        tokio::time::sleep(Duration::from_secs(50)).await;
        let now = poll_fn(|cx| Poll::Ready(idle.poll(cx, 0))).await;
        assert_eq!(now, Poll::Pending);
        let end = poll_fn(|cx| idle.poll(cx, 0)).await;
        assert_eq!((end, begun.elapsed().as_secs()), (End::Close, 561));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_asks_for_nothing_ends_too() {
        let begun = Instant::now();
        let mut idle = Idle::new(Duration::from_secs(100));
        for (wanted, at) in [(End::Tell, 100), (End::Close, 110)] {
            let end = poll_fn(|cx| idle.poll(cx, 0)).await;
            assert_eq!((end, begun.elapsed().as_secs()), (wanted, at));
        }
    }
}

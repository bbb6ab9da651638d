//! What may end a wait for an endpoint besides its answer.
//!
//! Enters: bounds, and the engine's view of the request in flight. Leaves: [`Stop`]. Never: a timer of its own for each
//! request, the end of a request that must not run twice because its endpoint is silent.

use std::task::{Context, Poll};

use tokio::time::Instant;
use weft_engine::InFlight;

use crate::context::{Watch, Worker};
use crate::drain::Stage;
use crate::http1::exchange::Stop;

/// The bounds of one try.
#[derive(Debug)]
pub struct Wait<'a> {
    worker: &'a Worker,
    watch: &'a mut Watch,
    request: Option<Instant>,
    tried: Option<Instant>,
    /// The engine was told of the endpoint's silence, and another try was not granted.
    looked: bool,
}

impl<'a> Wait<'a> {
    /// Waits at most until `request` and `tried`.
    pub fn new(
        worker: &'a Worker,
        watch: &'a mut Watch,
        request: Option<Instant>,
        tried: Option<Instant>,
    ) -> Self {
        Self {
            worker,
            watch,
            request,
            tried,
            looked: false,
        }
    }

    /// The response's head came: only the bound on the whole request is left.
    pub fn head_came(&mut self) {
        self.tried = None;
        self.looked = true;
    }

    /// No bound is left but the sidecar's own end.
    pub fn forget(&mut self) {
        self.head_came();
        self.request = None;
    }

    /// Ready when the wait is to end. When the endpoint of `flight` has fallen silent, `grant` is asked whether another try
    /// may begin: only then does silence end the wait.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        flight: Option<&InFlight>,
        grant: impl Fn() -> bool,
    ) -> Poll<Stop> {
        while self.watch.watcher.poll_changed(cx).is_ready() {
            if self.worker.stage() == Stage::Ended {
                return Poll::Ready(Stop::Ended);
            }
        }
        loop {
            let clock = self.worker.shared.clock;
            let flight = flight.filter(|_| !self.looked);
            let silence = flight
                .and_then(InFlight::deadline)
                .map(|tick| clock.instant(tick));
            let Some(next) = [self.request, self.tried, silence].into_iter().flatten().min() else {
                return Poll::Pending;
            };
            if self.watch.alarm.poll_at(cx, next).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if self.request.is_some_and(|bound| now >= bound) {
                return Poll::Ready(Stop::RequestTimeout);
            }
            if self.tried.is_some_and(|bound| now >= bound) {
                return Poll::Ready(Stop::TryTimeout);
            }
            if flight.is_some_and(|flight| flight.silent(clock.at(now))) {
                if grant() {
                    return Poll::Ready(Stop::Silent);
                }
                self.looked = true;
            }
        }
    }
}

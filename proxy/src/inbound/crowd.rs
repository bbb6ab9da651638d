//! How many requests wait for the application's answer at once: more are answered 503, and it never hears of them.
//!
//! Enters: a permitted request. Leaves: a place among those that wait, or none. Never: a bound on answers that have begun, however long they
//! take; a request that waits for a place.

use std::sync::atomic::Ordering::Relaxed;

use weft_engine::crowd::Place;

use crate::context::Worker;
use crate::policy::Caller;

/// When somebody who was refused may come back, in seconds.
pub const RETRY_AFTER: u64 = 1;

/// gRPC statuses of an application that can't do what it was asked for: UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL,
/// UNAVAILABLE, DATA_LOSS.
const UNWELL: [u8; 6] = [2, 4, 8, 13, 14, 15];

/// A request that waits for the application. Dropping it gives its place back.
#[derive(Debug)]
pub struct Waiting<'a> {
    worker: &'a Worker,
    /// `None`: nobody counts, or the answer has begun.
    place: Option<Place>,
}

impl<'a> Waiting<'a> {
    /// The request begins; `None`: as many as may be wait already.
    pub fn begin(worker: &'a Worker, caller: &Caller) -> Option<Self> {
        let Some(crowd) = &worker.shared.crowd else {
            return Some(Self { worker, place: None });
        };
        match crowd.enter(worker.now()) {
            Ok(place) => Some(Self {
                worker,
                place: Some(place),
            }),
            Err(crowded) => {
                worker.shared.telemetry.own().crowded.fetch_add(1, Relaxed);
                tracing::debug!(caller = %caller.address, "{crowded}");
                None
            }
        }
    }

    /// The answer has begun. `grpc`: its gRPC status, if that is all there is.
    pub fn answered(&mut self, status: u16, grpc: Option<u8>) {
        let well = status < 500 && !grpc.is_some_and(|grpc| UNWELL.contains(&grpc));
        if let Some(place) = self.place.take() {
            place.answered(self.worker.now(), well);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            place.given_up(self.worker.now());
        }
    }
}

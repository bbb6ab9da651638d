//! Bounds of one caller on all endpoints of a destination together: circuit breaking.
//!
//! In: the bounds as the control plane says, and what begins. Out: a place, or that there is none. Never: a lock, a wait,
//! or a place that is kept for ever (dropping it gives it back).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use weft_proto::model::Limits;

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// Opaque connections, and HTTP/1 connections.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests in flight.
    Requests,
    /// Retries in flight.
    Retries,
}

/// All of them.
pub const BOUNDS: [Bound; 4] = [
    Bound::Connections,
    Bound::Pending,
    Bound::Requests,
    Bound::Retries,
];

/// The bounds of one destination, and what is in use; shared by all threads of a sidecar.
#[derive(Debug)]
pub struct Circuit {
    gauges: [Gauge; BOUNDS.len()],
    /// A connection takes so many requests; 0: any number.
    requests_per_connection: AtomicU32,
    /// In microseconds; 0: not set.
    connect_timeout: AtomicU64,
    idle_timeout: AtomicU64,
    max_connection: AtomicU64,
    /// Those who wait for a connection's place.
    waiting: AtomicU32,
}

/// One who waits; no longer when dropped.
#[derive(Debug)]
pub struct Waiter(Arc<Circuit>);

#[derive(Debug)]
struct Gauge {
    /// `u32::MAX`: no bound.
    most: AtomicU32,
    used: AtomicU32,
    refused: AtomicU64,
}

/// A place under a bound; given back when dropped.
#[derive(Debug)]
pub struct Place {
    /// `None`: there was no bound when it was taken.
    held: Option<(Arc<Circuit>, Bound)>,
}

/// There is no place left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the destination's limit of {most} {} is reached", .bound.noun())]
pub struct Overflow {
    /// Under which bound.
    pub bound: Bound,
    /// How many places there are.
    pub most: u32,
}

impl Bound {
    fn noun(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Pending => "requests waiting for a connection",
            Self::Requests => "requests in flight",
            Self::Retries => "retries in flight",
        }
    }
}

impl Default for Circuit {
    /// No bounds.
    fn default() -> Self {
        Self {
            gauges: std::array::from_fn(|_| Gauge {
                most: AtomicU32::new(u32::MAX),
                used: AtomicU32::new(0),
                refused: AtomicU64::new(0),
            }),
            requests_per_connection: AtomicU32::new(0),
            connect_timeout: AtomicU64::new(0),
            idle_timeout: AtomicU64::new(0),
            max_connection: AtomicU64::new(0),
            waiting: AtomicU32::new(0),
        }
    }
}

impl Circuit {
    /// From now on the bounds are these. What has a place keeps it.
    pub fn tune(&self, limits: &Limits) {
        let bounds = [
            limits.connections,
            limits.pending_requests,
            limits.requests,
            limits.retries,
        ];
        for (gauge, most) in self.gauges.iter().zip(bounds) {
            gauge.most.store(most.unwrap_or(u32::MAX), Relaxed);
        }
        self.requests_per_connection
            .store(limits.requests_per_connection.unwrap_or(0), Relaxed);
        for (cell, time) in [
            (&self.connect_timeout, limits.connect_timeout),
            (&self.idle_timeout, limits.idle_timeout),
            (&self.max_connection, limits.max_connection),
        ] {
            let micros = time.map_or(0, |time| {
                u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
            });
            cell.store(micros, Relaxed);
        }
    }

    /// A place.
    ///
    /// # Errors
    /// All are taken: the request is to be refused at once.
    pub fn enter(self: &Arc<Self>, bound: Bound) -> Result<Place, Overflow> {
        let place = self.try_enter(bound);
        if place.is_err() {
            self.gauge(bound).refused.fetch_add(1, Relaxed);
        }
        place
    }

    /// As [`Circuit::enter`], for one who will wait: it is no refusal.
    ///
    /// # Errors
    /// All are taken.
    pub fn try_enter(self: &Arc<Self>, bound: Bound) -> Result<Place, Overflow> {
        let gauge = self.gauge(bound);
        let most = gauge.most.load(Relaxed);
        if most == u32::MAX {
            return Ok(Place { held: None });
        }
        gauge
            .used
            .fetch_update(Relaxed, Relaxed, |used| (used < most).then_some(used + 1))
            .map_err(|_| Overflow { bound, most })?;
        Ok(Place {
            held: Some((Arc::clone(self), bound)),
        })
    }

    /// Whether there is a bound.
    pub fn is_bound(&self, bound: Bound) -> bool {
        self.gauge(bound).most.load(Relaxed) != u32::MAX
    }

    /// Whether a connection that counts under `one` may serve who counts under `other`: they are the same, or neither has bounds.
    pub fn may_share(one: Option<&Arc<Self>>, other: Option<&Arc<Self>>) -> bool {
        let same = one.zip(other).is_some_and(|(one, other)| Arc::ptr_eq(one, other));
        let free = |circuit: Option<&Arc<Self>>| circuit.is_none_or(|circuit| !circuit.has_bounds());
        same || (free(one) && free(other))
    }

    fn has_bounds(&self) -> bool {
        let times = [&self.idle_timeout, &self.max_connection];
        BOUNDS.iter().any(|bound| self.is_bound(*bound))
            || self.requests_per_connection().is_some()
            || times.iter().any(|cell| cell.load(Relaxed) != 0)
    }

    /// Places in use that count under a bound.
    pub fn used(&self, bound: Bound) -> u32 {
        self.gauge(bound).used.load(Relaxed)
    }

    /// How often there was no place.
    pub fn refused(&self, bound: Bound) -> u64 {
        self.gauge(bound).refused.load(Relaxed)
    }

    /// Waits for a connection's place: others may make room.
    pub fn wait(self: &Arc<Self>) -> Waiter {
        self.waiting.fetch_add(1, Relaxed);
        Waiter(Arc::clone(self))
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    /// Requests that one connection takes; `None`: any number.
    pub fn requests_per_connection(&self) -> Option<u32> {
        match self.requests_per_connection.load(Relaxed) {
            0 => None,
            most => Some(most),
        }
    }

    /// How long a connection may take to stand.
    pub fn connect_timeout(&self) -> Option<Duration> {
        time(&self.connect_timeout)
    }

    /// How long a connection without requests is kept.
    pub fn idle_timeout(&self) -> Option<Duration> {
        time(&self.idle_timeout)
    }

    /// How old a connection may get.
    pub fn max_connection(&self) -> Option<Duration> {
        time(&self.max_connection)
    }

    fn gauge(&self, bound: Bound) -> &Gauge {
        &self.gauges[bound as usize]
    }
}

impl Place {
    /// One that counts nowhere.
    pub fn free() -> Self {
        Self { held: None }
    }

    /// Whether it counts, so that somebody may wait for it.
    pub fn counts(&self) -> bool {
        self.held.is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((circuit, bound)) = &self.held {
            circuit.gauge(*bound).used.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

fn time(cell: &AtomicU64) -> Option<Duration> {
    match cell.load(Relaxed) {
        0 => None,
        micros => Some(Duration::from_micros(micros)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_bound_counts_nothing_and_refuses_nothing() {
        let circuit = Arc::new(Circuit::default());
        let places: Vec<_> = (0..1_000)
            .map(|_| circuit.enter(Bound::Requests).unwrap())
            .collect();
        assert_eq!(circuit.used(Bound::Requests), 0);
        // A bound that comes later isn't upset by those who came before it.
        circuit.tune(&Limits {
            requests: Some(1),
            ..Limits::default()
        });
        let one = circuit.enter(Bound::Requests).unwrap();
        drop(places);
        assert_eq!(circuit.used(Bound::Requests), 1);
        let overflow = circuit.enter(Bound::Requests).unwrap_err();
        assert_eq!(
            overflow.to_string(),
            "the destination's limit of 1 requests in flight is reached"
        );
        assert_eq!(circuit.refused(Bound::Requests), 1);
        drop(one);
        assert!(circuit.enter(Bound::Requests).is_ok());
    }

    #[test]
    fn times_and_uses_are_as_said() {
        let circuit = Circuit::default();
        circuit.tune(&Limits {
            requests_per_connection: Some(3),
            idle_timeout: Some(Duration::from_secs(5)),
            ..Limits::default()
        });
        assert_eq!(circuit.requests_per_connection(), Some(3));
        assert_eq!(circuit.idle_timeout(), Some(Duration::from_secs(5)));
        assert_eq!(circuit.max_connection(), None);
        circuit.tune(&Limits::default());
        assert_eq!(circuit.idle_timeout(), None);
        assert!(BOUNDS.iter().all(|bound| !circuit.is_bound(*bound)));
    }

    #[test]
    fn only_what_has_no_bounds_is_shared() {
        let circuits: [Arc<Circuit>; 3] = Default::default();
        let [free, other, bound] = &circuits;
        bound.tune(&Limits {
            idle_timeout: Some(Duration::from_secs(5)),
            ..Limits::default()
        });
        let share = |one, other| Circuit::may_share(one, other) && Circuit::may_share(other, one);
        assert!(share(Some(free), Some(other)) && share(Some(free), None) && share(Some(bound), Some(bound)));
        assert!(!Circuit::may_share(Some(free), Some(bound)) && !Circuit::may_share(Some(bound), None));
        bound.tune(&Limits::default());
        assert!(share(Some(bound), Some(free)) && share(Some(bound), None));
    }

    proptest! {
        #[test]
        fn never_more_than_the_bound(
            most in 0u32..20,
            steps in prop::collection::vec((prop::bool::ANY, 0usize..20), 1..200),
        ) {
            let circuit = Arc::new(Circuit::default());
            circuit.tune(&Limits { connections: Some(most), ..Limits::default() });
            let mut held = Vec::new();
            for (enter, which) in steps {
                if enter {
                    let place = circuit.enter(Bound::Connections);
                    prop_assert_eq!(place.is_ok(), (held.len() as u32) < most);
                    held.extend(place.ok());
                } else if which < held.len() {
                    held.swap_remove(which);
                }
                prop_assert_eq!(circuit.used(Bound::Connections), held.len() as u32);
            }
        }
    }

    #[test]
    fn threads_that_meet_share_the_bound() {
        let circuit = Arc::new(Circuit::default());
        circuit.tune(&Limits {
            requests: Some(3),
            ..Limits::default()
        });
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let place = circuit.enter(Bound::Requests);
                        assert!(circuit.used(Bound::Requests) <= 3);
                        drop(place);
                    }
                });
            }
        });
        assert_eq!(circuit.used(Bound::Requests), 0);
    }
}

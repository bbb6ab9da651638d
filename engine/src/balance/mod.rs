//! Which endpoint of a tier, a file per algorithm.
//!
//! In: the endpoints of one tier, and what is asked of the choice. Out: one of them that fits. Never: an ejected one (except in panic), one
//! that was tried, a lock, or an allocation on the way of a request: tables are built when the endpoints change.

/// Two random choices by load.
mod least_request;
/// Consistent hashing by a table.
mod maglev;
/// Two random choices by latency times load.
mod peak_ewma;
/// Any.
mod random;
/// Consistent hashing on a ring.
mod ring_hash;
/// One after the other.
mod round_robin;
/// Slow start.
mod warmup;

use crate::Tick;
use crate::endpoint::EndpointState;
use crate::pick::Tried;
use maglev::Maglev;
use rand::{Rng, RngExt};
use ring_hash::Ring;
use round_robin::Schedule;
use std::sync::Arc;
use weft_proto::model::{Algorithm, Balance};

/// Draws before the tier is searched.
const DRAWS: usize = 3;

/// The ready endpoints that are equally near.
#[derive(Debug, Default)]
pub(crate) struct Tier {
    /// What the endpoints have in common.
    pub(crate) name: Box<str>,
    pub(crate) endpoints: Vec<Arc<EndpointState>>,
    /// Running sums of the weights; empty if all are the same.
    sums: Box<[u64]>,
    /// Weight of all that should serve: the ready ones, and those that were ready once and are no longer.
    pub(crate) expected: u64,
    table: Table,
}

/// What an algorithm prepares.
#[derive(Clone, Debug, Default)]
enum Table {
    #[default]
    None,
    Schedule(Arc<Schedule>),
    Ring(Arc<Ring>),
    Maglev(Arc<Maglev>),
}

/// What is asked of the choice.
pub(crate) struct Asks<'a> {
    pub(crate) now: Tick,
    pub(crate) balance: &'a Balance,
    pub(crate) tried: &'a Tried,
    /// For consistent hashing.
    pub(crate) hash: Option<u64>,
    /// Ejected ones are as good as others.
    pub(crate) panic: bool,
}

impl Asks<'_> {
    fn fits(&self, endpoint: &EndpointState) -> bool {
        (self.panic || endpoint.open()) && !self.tried.contains(endpoint.id)
    }

    /// Thousandths of its full share that an endpoint may have now.
    fn share(&self, endpoint: &EndpointState) -> u64 {
        let live = &endpoint.live;
        let restored = live.gate.ramp(self.now);
        match &self.balance.warmup {
            Some(warmup) => restored * warmup::share(warmup, live.warm_since(), self.now) / 1_000,
            None => restored,
        }
    }

    /// Whether an endpoint fits and, if it has less than its full share, luck.
    fn lucky<R: Rng + ?Sized>(&self, endpoint: &EndpointState, rng: &mut R) -> bool {
        self.fits(endpoint)
            && match self.share(endpoint) {
                1_000.. => true,
                share => rng.random_range(0..1_000) < share,
            }
    }
}

/// Whether an algorithm goes by a hash.
pub(crate) fn hashes(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::RingHash | Algorithm::Maglev)
}

/// One endpoint of the tier that fits.
pub(crate) fn choose<'a, R: Rng + ?Sized>(
    tier: &'a Tier,
    asks: &Asks<'_>,
    rng: &mut R,
) -> Option<&'a Arc<EndpointState>> {
    if let [only] = &tier.endpoints[..] {
        return asks.fits(only).then_some(only);
    }
    if tier.endpoints.is_empty() {
        return None;
    }
    match (&tier.table, asks.hash) {
        (Table::Ring(ring), Some(hash)) => ring.choose(tier, hash, |e| asks.fits(e)),
        (Table::Maglev(maglev), Some(hash)) => maglev.choose(tier, hash, |e| asks.fits(e)),
        (Table::Schedule(schedule), _) => schedule.choose(tier, asks, rng),
        _ => match asks.balance.algorithm {
            Algorithm::PeakEwma => peak_ewma::choose(tier, asks, rng),
            Algorithm::LeastRequest => least_request::choose(tier, asks, rng),
            _ => random::choose(tier, asks, rng),
        },
    }
}

/// Two that fit, drawn in proportion to their weights: the second if its cost is less than the first's by a factor.
fn cheaper<'a, R: Rng + ?Sized>(
    tier: &'a Tier,
    asks: &Asks<'_>,
    rng: &mut R,
    same: f64,
    cost: impl Fn(&EndpointState) -> f64,
) -> Option<&'a Arc<EndpointState>> {
    let first = tier.draw(rng, |e| asks.fits(e))?;
    let Some(second) = tier.draw(rng, |e| e.id != first.id && asks.fits(e)) else {
        return Some(first);
    };
    Some(if cost(second) * same < cost(first) {
        second
    } else {
        first
    })
}

impl Tier {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// The same with copies of its endpoints, and a turn of its own.
    pub(crate) fn apart(&self, copy: impl FnMut(&Arc<EndpointState>) -> Arc<EndpointState>) -> Self {
        Self {
            name: self.name.clone(),
            endpoints: self.endpoints.iter().map(copy).collect(),
            sums: self.sums.clone(),
            expected: self.expected,
            table: match &self.table {
                Table::Schedule(schedule) => Table::Schedule(Arc::new((**schedule).clone())),
                table => table.clone(),
            },
        }
    }

    /// Prepares drawing by weight, and what the algorithm needs. What `old` had prepared is used again if it is the same.
    pub(crate) fn seal(&mut self, balance: &Balance, old: Option<(&Self, &Balance)>, seed: u64) {
        let equal = self
            .endpoints
            .windows(2)
            .all(|pair| pair[0].weight == pair[1].weight);
        if !equal {
            let sums = self.endpoints.iter().scan(0, |sum, endpoint| {
                *sum += u64::from(endpoint.weight);
                Some(*sum)
            });
            self.sums = sums.collect();
        }
        if self.endpoints.len() < 2 {
            return;
        }
        let same = |old: &Self, prepared: &Balance| {
            (prepared.algorithm, prepared.size) == (balance.algorithm, balance.size)
                && old.endpoints.len() == self.endpoints.len()
                && std::iter::zip(&old.endpoints, &self.endpoints)
                    .all(|(a, b)| (a.id, a.weight) == (b.id, b.weight))
        };
        if let Some((old, prepared)) = old
            && same(old, prepared)
        {
            self.table = old.table.clone();
            return;
        }
        self.table = match balance.algorithm {
            Algorithm::RoundRobin => {
                let turn = match old.map(|(old, _)| &old.table) {
                    Some(Table::Schedule(schedule)) => schedule.turn(),
                    // Callers don't begin with the same one.
                    _ => (mix(seed, 0) % self.endpoints.len() as u64) as usize,
                };
                Table::Schedule(Arc::new(Schedule::new(self.weights(), turn)))
            }
            Algorithm::RingHash => Table::Ring(Arc::new(Ring::new(&self.endpoints, balance.size))),
            Algorithm::Maglev => Table::Maglev(Arc::new(Maglev::new(&self.endpoints, balance.size))),
            Algorithm::PeakEwma | Algorithm::LeastRequest | Algorithm::Random => Table::None,
        };
    }

    fn weights(&self) -> impl ExactSizeIterator<Item = u32> {
        self.endpoints.iter().map(|endpoint| endpoint.weight)
    }

    /// One that fits, in proportion to the weights.
    fn draw<R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        fits: impl Fn(&EndpointState) -> bool,
    ) -> Option<&Arc<EndpointState>> {
        if self.endpoints.is_empty() {
            return None;
        }
        for _ in 0..DRAWS {
            let endpoint = &self.endpoints[self.index(rng)];
            if fits(endpoint) {
                return Some(endpoint);
            }
        }
        let fitting = || self.endpoints.iter().filter(|e| fits(e));
        let sum: u64 = fitting().map(|e| u64::from(e.weight)).sum();
        let mut point = rng.random_range(0..sum.max(1));
        fitting().find(|e| match point.checked_sub(u64::from(e.weight)) {
            Some(rest) => {
                point = rest;
                false
            }
            None => true,
        })
    }

    /// A random index in proportion to the weights. The tier must not be empty.
    fn index<R: Rng + ?Sized>(&self, rng: &mut R) -> usize {
        match self.sums.last() {
            None => rng.random_range(0..self.endpoints.len()),
            Some(sum) => {
                let point = rng.random_range(0..*sum);
                self.sums.partition_point(|s| *s <= point)
            }
        }
    }

    /// Requests in flight, as if the endpoint's weight were the mean one.
    fn load(&self, endpoint: &EndpointState) -> f64 {
        let mean = match (self.sums.last(), self.endpoints.first()) {
            (Some(sum), _) => *sum as f64 / self.endpoints.len() as f64,
            (None, Some(first)) => f64::from(first.weight),
            (None, None) => 1.0,
        };
        f64::from(endpoint.outstanding()) * mean / f64::from(endpoint.weight)
    }

    /// The endpoint that a hash leads to, whether it fits or not; `None`: the algorithm doesn't go by hashes.
    pub(crate) fn hashed(&self, hash: u64) -> Option<&Arc<EndpointState>> {
        match &self.table {
            Table::Ring(ring) => ring.choose(self, hash, |_| true),
            Table::Maglev(maglev) => maglev.choose(self, hash, |_| true),
            Table::None | Table::Schedule(_) => None,
        }
    }
}

/// A hash of two numbers; the same everywhere, so that all callers make the same choice.
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&a.to_le_bytes());
    bytes[8..].copy_from_slice(&b.to_le_bytes());
    rapidhash::v3::rapidhash_v3(&bytes)
}

/// What an endpoint is hashed by: its address, so that it keeps its place whatever else changes.
fn place(endpoint: &EndpointState) -> u64 {
    let ip = match endpoint.address.ip() {
        std::net::IpAddr::V4(four) => four.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(six) => six.octets(),
    };
    mix(rapidhash::v3::rapidhash_v3(&ip), endpoint.address.port().into())
}

#[cfg(test)]
mod tests;

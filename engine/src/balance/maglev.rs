//! Consistent hashing by a table (Eisenbud et al., "Maglev", NSDI 2016, section 3.4), weighted.
//!
//! In: the endpoints of one tier, and a hash. Out: whom the table's entry names, or the next one that fits. Never: a table that depends on
//! anything but the endpoints' addresses, weights and order, so that all callers agree.

use super::{Tier, mix, place};
use crate::endpoint::EndpointState;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// Sizes of the table, all primes: the first that has room, if nothing is said.
const SIZES: [u64; 3] = [65_537, 655_373, 5_000_011];
/// Entries for each endpoint without which shares would be too rough.
const ROOM: u64 = 10;
/// Entries that are looked at before it is asked whether anybody fits at all.
const PATIENCE: usize = 1_024;

#[derive(Debug)]
pub(super) enum Maglev {
    Small(Box<[u16]>),
    Large(Box<[u32]>),
}

impl Maglev {
    /// A table of this size, a prime.
    pub(super) fn new(endpoints: &[Arc<EndpointState>], size: Option<u64>) -> Self {
        let needed = endpoints.len() as u64;
        let fits = |size: &u64| *size >= needed * ROOM;
        // Every endpoint has a place, whatever was said.
        let size = size.filter(|size| *size >= needed);
        let size = size.or(SIZES.into_iter().find(fits)).unwrap_or(SIZES[2]);
        let table = fill(endpoints, size);
        match u16::try_from(endpoints.len()) {
            Ok(_) => Self::Small(table.iter().map(|index| *index as u16).collect()),
            Err(_) => Self::Large(table),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Small(table) => table.len(),
            Self::Large(table) => table.len(),
        }
    }

    fn at(&self, entry: usize) -> usize {
        match self {
            Self::Small(table) => usize::from(table[entry]),
            Self::Large(table) => table[entry] as usize,
        }
    }

    pub(super) fn choose<'a>(
        &self,
        tier: &'a Tier,
        hash: u64,
        fits: impl Fn(&EndpointState) -> bool,
    ) -> Option<&'a Arc<EndpointState>> {
        let start = (hash % self.len() as u64) as usize;
        // Entries side by side have nothing to do with each other: what one endpoint loses is spread over all.
        for step in 0..self.len() {
            let entry = (start + step) % self.len();
            let endpoint = tier.endpoints.get(self.at(entry))?;
            if fits(endpoint) {
                return Some(endpoint);
            }
            if step == PATIENCE && !tier.endpoints.iter().any(|e| fits(e)) {
                return None;
            }
        }
        None
    }
}

/// Whose entry it is: in turn, each takes the next free one of its own permutation; lighter ones miss turns.
fn fill(endpoints: &[Arc<EndpointState>], size: u64) -> Box<[u32]> {
    const FREE: u32 = u32::MAX;
    let heaviest = endpoints.iter().map(|endpoint| endpoint.weight).max();
    let heaviest = u64::from(heaviest.unwrap_or(1));
    // Where each looks next, and how far it goes from there.
    let mut places: Vec<(u64, u64)> = endpoints
        .iter()
        .map(|endpoint| {
            let key = place(endpoint);
            (mix(key, 0) % size, mix(key, 1) % (size - 1).max(1) + 1)
        })
        .collect();
    let mut table = vec![FREE; size as usize].into_boxed_slice();
    let mut take = |index: usize| {
        let (next, skip) = &mut places[index];
        while table[*next as usize] != FREE {
            *next = (*next + *skip) % size;
        }
        table[*next as usize] = index as u32;
    };
    if endpoints
        .iter()
        .all(|endpoint| u64::from(endpoint.weight) == heaviest)
    {
        for entry in 0..size {
            take((entry % endpoints.len() as u64) as usize);
        }
        return table;
    }
    // By the round of their next turn: in `heaviest` rounds, each has as many as its weight.
    let mut turns: BinaryHeap<_> = (0..endpoints.len()).map(|index| Reverse((0, index, 0))).collect();
    for _ in 0..size {
        let Some(Reverse((_, index, taken))) = turns.pop() else {
            break;
        };
        take(index);
        let next = ((taken + 1) * heaviest).div_ceil(u64::from(endpoints[index].weight));
        turns.push(Reverse((next, index, taken + 1)));
    }
    table
}

//! HTTP/1 connections that wait for their next request.
//!
//! Enters: a connection whose last exchange ended in order. Leaves: the one that was used last, if it still stands. Never:
//! a connection with unread bytes, of another identity, under other bounds, or of the time before its endpoint was found unreachable.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rapidhash::RapidHashMap;
use tokio::time::Instant;
use weft_engine::circuit::Circuit;
use weft_proto::model::SpiffeId;

use super::room::Tenure;
use crate::http1::half::Half;

/// How long a connection waits. Less than any usual server's bound.
const IDLE: Duration = Duration::from_secs(60);
/// Most connections that wait for one endpoint.
const MOST_EACH: usize = 256;

/// What a connection can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Requests to another pod.
    Pod,
    /// Requests to the application.
    App,
}

/// The connections of one thread.
#[derive(Debug, Default)]
pub struct Pool {
    idle: RapidHashMap<(Kind, SocketAddr), Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    half: Half,
    identity: Option<SpiffeId>,
    epoch: u32,
    since: Instant,
    tenure: Tenure,
}

impl Pool {
    /// A connection to `address` that stands, was proven to be `identity`'s, not before `epoch`, may count under `circuit`, and has
    /// not waited longer than `longest`.
    pub fn take(
        &mut self,
        kind: Kind,
        address: SocketAddr,
        identity: Option<&SpiffeId>,
        epoch: u32,
        circuit: Option<&Arc<Circuit>>,
        longest: Duration,
    ) -> Option<(Half, Tenure)> {
        let list = self.idle.get_mut(&(kind, address))?;
        let now = Instant::now();
        // Those of another Service of the same pod, if either has bounds, stay where they are.
        while let Some(at) = list.iter().rposition(|idle| idle.tenure.may_serve(circuit)) {
            let mut idle = list.remove(at);
            if idle.identity.as_ref() != identity || idle.epoch < epoch {
                continue;
            }
            if now.duration_since(idle.since) > longest.min(IDLE) {
                // The others have waited longer. They may still do for someone who is less careful.
                if longest < IDLE {
                    list.insert(at, idle);
                    return None;
                }
                continue;
            }
            if idle.is_of_use(now) && stands(&mut idle.half) {
                return Some((idle.half, idle.tenure));
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub fn put(
        &mut self,
        kind: Kind,
        address: SocketAddr,
        identity: Option<SpiffeId>,
        epoch: u32,
        half: Half,
        tenure: Tenure,
    ) {
        if !half.input.is_empty() || !half.is_flushed() || !tenure.may_stay(Instant::now()) {
            return;
        }
        let list = self.idle.entry((kind, address)).or_default();
        if list.len() < MOST_EACH {
            tenure.is_back();
            list.push(Idle {
                half,
                identity,
                epoch,
                since: Instant::now(),
                tenure,
            });
        }
    }

    /// Closes what was closed by its peer or has waited too long.
    pub fn sweep(&mut self, now: Instant) {
        self.idle.retain(|_, list| {
            list.retain_mut(|idle| {
                let fresh = now.duration_since(idle.since) < IDLE && idle.is_of_use(now);
                fresh && stands(&mut idle.half)
            });
            !list.is_empty()
        });
    }

    /// Closes those that take room which somebody waits for.
    pub fn give_way(&mut self) {
        self.idle.retain(|_, list| {
            list.retain(|idle| !idle.tenure.is_wanted());
            !list.is_empty()
        });
    }

    /// Closes everything.
    pub fn clear(&mut self) {
        self.idle = HashMap::default();
    }

    /// Connections that wait for one use.
    pub fn kept(&self, kind: Kind) -> usize {
        let of_kind = self.idle.iter().filter(|((each, _), _)| *each == kind);
        of_kind.map(|(_, list)| list.len()).sum()
    }

    /// Connections that wait.
    pub fn len(&self) -> usize {
        self.idle.values().map(Vec::len).sum()
    }

    /// None waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Idle {
    /// Not past what its destination allows.
    fn is_of_use(&self, now: Instant) -> bool {
        let idle = now.duration_since(self.since);
        self.tenure.may_stay(now) && self.tenure.idle_timeout().is_none_or(|most| idle < most)
    }
}

/// Neither ended nor with bytes that nobody asked for. TLS may take in what concerns only itself.
fn stands(half: &mut Half) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    matches!(half.poll_fill(&mut cx), Poll::Pending)
}

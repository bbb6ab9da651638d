//! The last requests and what was decided on each of them, by request id.
//!
//! Enters: from each data-plane thread, requests that ended. Leaves: to the admin port, those with an id. Never: a query, a header's value
//! or a body; more than the bound, in number or in bytes; a lock that another data-plane thread holds.
//!
//! A thread has a ring of its own, whose places keep their buffers: in the long run a request that is remembered allocates nothing
//! but the list of its tries.

/// What is remembered, as an explanation.
mod told;
/// The tries of one request.
mod journal;

pub use journal::{Attempt, Journal};
pub use told::Served;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use weft_engine::Tick;
use weft_engine::policy::PolicySet;
use weft_engine::route::RouteTable;
use weft_proto::model::{Inbound, ServiceName};

use crate::gateway::arrival::Arrival;
use crate::identity::Peer;

/// Requests that a sidecar remembers, unless it is told otherwise.
pub const REQUESTS: usize = 1_000;
/// Longest id, method, host and path that are remembered, in bytes; of longer ones the begin.
const LONGEST: [usize; 4] = [64, 16, 128, 512];
/// Most requests that are told of one id.
const MOST_TOLD: usize = 100;

/// What all threads remember. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Recent {
    rings: Arc<Mutex<Vec<Ring>>>,
    /// Of each ring.
    places: usize,
}

/// What one thread remembers. Only it writes here.
#[derive(Clone, Debug)]
pub struct Ring(Arc<Mutex<Places>>);

#[derive(Debug)]
struct Places {
    list: Vec<Remembered>,
    most: usize,
    next: usize,
}

/// A request that ended.
#[derive(Debug)]
pub struct Note<'a> {
    /// Its `x-request-id`; empty: it had none, and isn't remembered.
    pub id: &'a [u8],
    /// Method.
    pub method: &'a str,
    /// Host as asked.
    pub authority: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// Status; 0: there was none.
    pub code: u16,
    /// Envoy's response flags.
    pub flags: &'static str,
    /// From the first byte of the request to the last of the response.
    pub duration: Duration,
    /// When it ended.
    pub at: Tick,
    /// Who called.
    pub caller: SocketAddr,
    /// Which side this sidecar was on.
    pub side: Side,
}

/// Which side of a request the sidecar was on, and what was decided there.
#[derive(Clone, Debug)]
pub enum Side {
    /// The caller's, or a gateway's.
    Outbound {
        /// How it came in, where the sidecar is a gateway.
        entered: Option<Box<Entered>>,
        /// The Service's port that was called, if one was.
        called: Option<(ServiceName, u16)>,
        /// The rule, by its place in the table.
        rule: Option<(Arc<RouteTable>, usize)>,
        /// Where the rule led.
        backend: Option<(ServiceName, u16, Option<Arc<str>>)>,
        /// Its tries.
        tries: Vec<Attempt>,
    },
    /// The application's.
    Inbound {
        /// Who called, as proven.
        peer: Option<Arc<Peer>>,
        /// The pod's port.
        port: u16,
        /// What the sidecar knew of itself.
        own: Option<Arc<Inbound>>,
        /// The policies under which it was decided.
        policies: Arc<PolicySet>,
    },
}

/// How a request of a client outside the mesh came in.
#[derive(Clone, Debug)]
pub struct Entered {
    /// By which door, and what was served behind it.
    pub arrival: Arc<Arrival>,
    /// The policies of the gateway.
    pub policies: Arc<PolicySet>,
}

/// As in [`Note`], owned.
#[derive(Debug)]
struct Remembered {
    /// Id, method, host and path, one after the other.
    text: String,
    ends: [u16; 4],
    /// The path is not all of it.
    cut: bool,
    code: u16,
    flags: &'static str,
    duration: Duration,
    at: Tick,
    caller: SocketAddr,
    side: Side,
}

impl Recent {
    /// Room for `requests`, divided among `workers` threads.
    pub fn new(requests: usize, workers: usize) -> Self {
        Self {
            rings: Arc::default(),
            places: requests.div_ceil(workers.max(1)),
        }
    }

    /// A ring for one more thread.
    pub fn ring(&self) -> Ring {
        let ring = Ring(Arc::new(Mutex::new(Places {
            list: Vec::new(),
            most: self.places,
            next: 0,
        })));
        lock(&self.rings).push(ring.clone());
        ring
    }

    /// Requests with an id, the latest first; without an id, the latest of all.
    pub fn find(&self, id: Option<&str>, now: Tick) -> Vec<Served> {
        let rings = lock(&self.rings).clone();
        let mut found: Vec<(Tick, Served)> = Vec::new();
        for ring in rings {
            let places = lock(&ring.0);
            let wanted = places
                .list
                .iter()
                .filter(|one| id.is_none_or(|id| one.id() == cut(id, LONGEST[0])));
            found.extend(wanted.map(|one| (one.at, told::served(one, now))));
        }
        found.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        found
            .into_iter()
            .map(|(_, served)| served)
            .take(MOST_TOLD)
            .collect()
    }
}

impl Default for Recent {
    /// Remembers [`REQUESTS`].
    fn default() -> Self {
        Self::new(REQUESTS, 1)
    }
}

impl Ring {
    /// Remembers a request in the place of the oldest.
    pub fn remember(&self, note: Note<'_>) {
        let mut places = lock(&self.0);
        let Places { list, most, next } = &mut *places;
        if note.id.is_empty() || *most == 0 {
            return;
        }
        let Ok(id) = std::str::from_utf8(note.id) else {
            return;
        };
        let before = match list.get_mut(*next) {
            Some(old) => std::mem::take(&mut old.text),
            None => String::new(),
        };
        let one = Remembered::new(before, id, note);
        match list.get_mut(*next) {
            Some(old) => *old = one,
            None => list.push(one),
        }
        *next = (*next + 1) % *most;
    }
}

impl Remembered {
    fn new(mut text: String, id: &str, note: Note<'_>) -> Self {
        text.clear();
        let mut ends = [0; 4];
        let parts = [id, note.method, note.authority, note.path];
        let kept = || {
            parts
                .into_iter()
                .zip(LONGEST)
                .map(|(part, longest)| cut(part, longest))
        };
        text.reserve_exact(kept().map(str::len).sum());
        for (part, end) in kept().zip(&mut ends) {
            text.push_str(part);
            *end = u16::try_from(text.len()).unwrap_or(u16::MAX);
        }
        Self {
            text,
            ends,
            cut: parts
                .iter()
                .zip(LONGEST)
                .any(|(part, longest)| part.len() > longest),
            code: note.code,
            flags: note.flags,
            duration: note.duration,
            at: note.at,
            caller: note.caller,
            side: note.side,
        }
    }

    fn part(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text
            .get(usize::from(start)..usize::from(self.ends[index]))
            .unwrap_or_default()
    }

    fn id(&self) -> &str {
        self.part(0)
    }
}

/// The begin of a text, in whole letters.
fn cut(text: &str, longest: usize) -> &str {
    text.get(..text.floor_char_boundary(longest)).unwrap_or(text)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

//! Requests, one after the other, on a clock.
//!
//! In: a town and failures. Out: rates. Never: a choice of an endpoint, an ejection or a retry that isn't the engine's.
//!
//! Each load is played at a rate of its own that gives enough requests in the time that is measured; every request stands for as many
//! as that needs.

mod begin;
mod queue;

use self::queue::{Entry, Event, Id};
use super::callers::Callers;
use super::failure::{Failure, Trouble, troubles};
use super::tally::Tally;
use super::town::Town;
use super::view::Prediction;
use super::{Impossible, Options};
use crate::retry::{Decision, Failure as TryFailure, Policy, Progress, decide};
use crate::{Class, InFlight, Outcome, Tick, Tried, Wish};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::model::Distance;

const SECOND: u64 = 1_000_000;
/// Until clusters know their endpoints' latencies.
const WARM: u64 = 3 * SECOND;
/// The time in which only sidecars notice a failure.
const ONCE: u64 = 10 * SECOND;
/// Until ejections and ramps are over.
const SETTLE: u64 = 40 * SECOND;
/// For the answers of what was measured.
const DRAIN: u64 = 5 * SECOND;
/// Shortest and longest time that is measured.
const MEASURE: [f64; 2] = [30.0, 600.0];
/// Requests per second that are played of each load while nothing is measured.
const IDLE_RATE: f64 = 200.0;
/// Between two looks at endpoints that were put aside, as sidecars do it.
const PROBE: u64 = 100_000;
/// Most events of one run.
const MOST_EVENTS: u64 = 20_000_000;

struct Request {
    /// Where its endpoints are known.
    seen: usize,
    service: usize,
    caller: usize,
    source: Arc<str>,
    class: Class,
    wish: Wish,
    retries: Policy,
    tries: u8,
    tried: Tried,
    begun: u64,
    pod: usize,
    status: u16,
    flight: Option<InFlight>,
    weight: f64,
    /// The part of the play that counts it.
    part: Option<usize>,
    depth: u8,
}

/// Who sends, why, and how it counts.
#[derive(Clone)]
struct Cause {
    caller: Option<usize>,
    /// Counts the requests of a load.
    turn: usize,
    source: Arc<str>,
    weight: f64,
    part: Option<usize>,
    depth: u8,
}

pub(super) struct Run<'a> {
    town: &'a Town,
    options: Options,
    callers: Callers,
    troubles: Vec<Trouble>,
    by_address: HashMap<IpAddr, usize>,
    /// Places of the calls that each pod makes.
    calls_of: Vec<Vec<usize>>,
    rng: StdRng,
    now: u64,
    order: u64,
    events: BinaryHeap<Entry>,
    handled: u64,
    requests: HashMap<Id, Request>,
    next: Id,
    tallies: Vec<Tally>,
    part: Option<usize>,
    /// Requests per second that are played now, of each load.
    rates: Vec<f64>,
    /// Whose turn it is to send, of each load, or to be sent to from outside.
    turns: Vec<usize>,
    failed: Option<Impossible>,
}

impl<'a> Run<'a> {
    pub(super) fn new(town: &'a Town, options: &Options) -> Result<Self, Impossible> {
        if town.loads.iter().all(|load| load.rate <= 0.0) {
            return Err(Impossible::NoLoad);
        }
        let mut calls_of = vec![Vec::new(); town.pods.len()];
        for (place, call) in town.calls.iter().enumerate() {
            for pod in &call.from {
                calls_of[*pod].push(place);
            }
        }
        let addresses = town.pods.iter().enumerate();
        let addresses = addresses.flat_map(|(at, pod)| pod.addresses.iter().map(move |ip| (*ip, at)));
        Ok(Self {
            town,
            options: *options,
            callers: Callers::new(town, options.seed),
            troubles: vec![Trouble::default(); town.pods.len()],
            by_address: addresses.collect(),
            calls_of,
            rng: StdRng::seed_from_u64(options.seed),
            now: 0,
            order: 0,
            events: BinaryHeap::new(),
            handled: 0,
            requests: HashMap::new(),
            next: 0,
            tallies: vec![Tally::default(); 3],
            part: None,
            rates: vec![0.0; town.loads.len()],
            turns: vec![0; town.loads.len()],
            failed: None,
        })
    }

    pub(super) fn play(mut self, failures: &[Failure]) -> Result<Prediction, Impossible> {
        let requests = f64::from(self.options.requests.max(1));
        let busiest = self.town.loads.iter().map(|load| load.rate).fold(0.0, f64::max);
        let measured = (requests / busiest).clamp(MEASURE[0], MEASURE[1]);
        for load in 0..self.town.loads.len() {
            let later = self.rng.random_range(0..SECOND / 10);
            self.at(later, Event::Arrive(load));
        }
        self.part(WARM, None, IDLE_RATE, None)?;
        self.part((measured * 1e6) as u64, Some(0), requests / measured, None)?;
        self.troubles = troubles(self.town, failures);
        // In truth as many as there are, so that those that find out are as many as they will be.
        let at_once = requests / (ONCE as f64 / 1e6);
        self.part(ONCE, Some(1), at_once, Some(at_once))?;
        let down: Vec<usize> = (0..self.troubles.len())
            .filter(|pod| self.troubles[*pod].down.is_some())
            .collect();
        self.callers
            .unready(self.town, &down, Tick::from_micros(self.now));
        self.part(SETTLE, None, IDLE_RATE, None)?;
        self.part((measured * 1e6) as u64, Some(2), requests / measured, None)?;
        self.part(DRAIN, None, IDLE_RATE, None)?;
        // What still waits then waits in vain.
        let mut waiting: Vec<Id> = self.requests.keys().copied().collect();
        waiting.sort_unstable();
        for id in waiting {
            self.end(id, Some("no answer"));
        }
        let mut tallies = std::mem::take(&mut self.tallies).into_iter();
        let mut view = |failing: bool| {
            let down = |pod: usize| failing && self.troubles[pod].down.is_some();
            tallies.next().unwrap_or_default().view(self.town, &down)
        };
        let (mut before, mut at_once, mut settled) = (view(false), view(true), view(true));
        let reference = before.clone();
        for view in [&mut before, &mut at_once, &mut settled] {
            view.relate(&reference);
        }
        Ok(Prediction {
            before,
            at_once,
            settled,
        })
    }

    /// Lets time pass. Each load is played at `rate`, or at its own if that is lower than `most`.
    fn part(
        &mut self,
        time: u64,
        counted: Option<usize>,
        rate: f64,
        most: Option<f64>,
    ) -> Result<(), Impossible> {
        for (place, load) in self.town.loads.iter().enumerate() {
            self.rates[place] = match most {
                Some(most) => load.rate.min(most),
                None => rate,
            };
        }
        self.part = counted;
        if let Some(counted) = counted {
            self.tallies[counted].seconds = time as f64 / 1e6;
        }
        let end = self.now + time;
        while self.events.peek().is_some_and(|entry| entry.at <= end) {
            let Some(entry) = self.events.pop() else { break };
            self.now = entry.at;
            self.handled += 1;
            self.handle(entry.event);
            if let Some(failed) = self.failed.take() {
                return Err(failed);
            }
            if self.handled > MOST_EVENTS {
                return Err(Impossible::TooMany(MOST_EVENTS));
            }
        }
        self.now = end;
        Ok(())
    }

    fn tick(&self) -> Tick {
        Tick::from_micros(self.now)
    }

    fn at(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.events.push(Entry {
            at,
            order: self.order,
            event,
        });
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(load) => self.arrive(load),
            Event::Answer(id, own) if self.is_on(id, own) => self.answer(id),
            Event::Refused(id, own) if self.is_on(id, own) => self.refused(id),
            Event::Look(id, own) if self.is_on(id, own) => self.look(id),
            Event::Answer(..) | Event::Refused(..) | Event::Look(..) => {}
            Event::Again(id) => self.send(id),
            Event::Probes(seen) => self.probes(seen),
            Event::ProbeEnd(probe, passed) => probe.finish(self.tick(), passed),
        }
    }

    fn send(&mut self, id: Id) {
        let now = self.tick();
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        let cluster = &self.callers.at(request.seen).cluster;
        let picked = cluster.pick(now, &mut self.rng, &request.tried, request.class, &request.wish);
        let mut picked = match picked {
            Ok(picked) => picked,
            Err(why) => {
                let reason = why.to_string();
                return self.end(id, Some(&reason));
            }
        };
        let Some(pod) = self.by_address.get(&picked.endpoint.address.ip()).copied() else {
            return self.end(id, Some("the endpoint's address belongs to no pod"));
        };
        let trouble = self.troubles[pod];
        let reached = trouble.down.is_none();
        request.tried.push(&picked.endpoint);
        request.tries += 1;
        request.pod = pod;
        if let Some(part) = request.part {
            let (service, caller, weight) = (request.service, request.caller, request.weight);
            self.tallies[part].sent(service, Some(caller), pod, reached, weight);
        }
        let erring = trouble.errors > 0.0 && self.rng.random_bool(trouble.errors);
        request.status = if erring { trouble.status } else { 200 };
        let far = match picked.tier {
            Distance::Zone => 0,
            Distance::Region => 1,
            Distance::Remote => 2,
        };
        let own = u64::try_from(self.options.latency[far].as_micros()).unwrap_or(u64::MAX);
        let latency = own + trouble.slow + self.rng.random_range(0..=own / 4);
        let flight = picked.begin(now);
        let look = flight.deadline();
        request.flight = Some(flight);
        let (weight, part, depth) = (request.weight, request.part, request.depth);
        let own_try = request.tries;
        if let Some(look) = look {
            self.at(look.as_micros(), Event::Look(id, own_try));
        }
        match trouble.down {
            None => self.at(self.now + latency, Event::Answer(id, own_try)),
            Some(true) => self.at(self.now + own / 4, Event::Refused(id, own_try)),
            Some(false) => {}
        }
        if reached && !erring {
            self.follow(pod, weight, part, depth);
        }
    }

    /// Whether a request is still in this try.
    fn is_on(&self, id: Id, own: u8) -> bool {
        self.requests.get(&id).is_some_and(|request| request.tries == own)
    }

    fn answer(&mut self, id: Id) {
        let now = self.tick();
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        if self.troubles[request.pod].down.is_some() {
            return;
        }
        let Some(mut flight) = request.flight.take() else {
            return;
        };
        let (status, seen) = (request.status, request.seen);
        flight.answered(now, status);
        let outcome = if status >= 500 {
            Outcome::ServerError(status)
        } else {
            Outcome::Success
        };
        flight.finish(now, outcome);
        if status >= 500 {
            self.look_after(seen);
            self.again(id, TryFailure::Status(status), &format!("answered with {status}"));
        } else {
            self.end(id, None);
        }
    }

    fn look(&mut self, id: Id) {
        let now = self.tick();
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        let Some(flight) = &request.flight else { return };
        if !flight.silent(now) {
            if let Some(deadline) = flight.deadline() {
                let own_try = request.tries;
                self.at(deadline.as_micros().max(self.now + 1), Event::Look(id, own_try));
            }
            return;
        }
        let seen = request.seen;
        let gone = self.troubles[request.pod].down.is_some();
        let progress = progress(request.tries, true);
        let budget = self.callers.at(seen).cluster.budget();
        let decision = decide(
            &request.retries,
            request.class,
            TryFailure::Silent,
            progress,
            budget,
            now,
            &mut self.rng,
        );
        match decision {
            Decision::Retry { pause } => {
                if let Some(flight) = request.flight.take() {
                    flight.finish(now, Outcome::Silent);
                }
                self.at(self.now + pause, Event::Again(id));
            }
            // The answer may still come, from those that live.
            Decision::Stop(_) if gone => self.end(id, Some("no answer")),
            Decision::Stop(_) => {}
        }
        self.look_after(seen);
    }

    fn refused(&mut self, id: Id) {
        let now = self.tick();
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        let Some(flight) = request.flight.take() else {
            return;
        };
        flight.finish(now, Outcome::Refused);
        let seen = request.seen;
        self.look_after(seen);
        self.again(id, TryFailure::Connect, "connection refused");
    }

    fn again(&mut self, id: Id, failure: TryFailure, reason: &str) {
        let now = self.tick();
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let progress = progress(request.tries, failure != TryFailure::Connect);
        let budget = self.callers.at(request.seen).cluster.budget();
        match decide(
            &request.retries,
            request.class,
            failure,
            progress,
            budget,
            now,
            &mut self.rng,
        ) {
            Decision::Retry { pause } => self.at(self.now + pause, Event::Again(id)),
            Decision::Stop(_) => self.end(id, Some(reason)),
        }
    }

    /// The request is over; why, if it failed.
    fn end(&mut self, id: Id, reason: Option<&str>) {
        let Some(request) = self.requests.remove(&id) else {
            return;
        };
        let Some(part) = request.part else { return };
        match reason {
            Some(reason) => {
                self.tallies[part].refused(request.service, &request.source, reason, request.weight);
            }
            None => self.tallies[part].answered(request.service, self.now - request.begun),
        }
    }

    /// Starts probing if something was put aside.
    fn look_after(&mut self, place: usize) {
        let seen = self.callers.at_mut(place);
        if !seen.probing && !seen.cluster.all().all(|endpoint| endpoint.open()) {
            seen.probing = true;
            self.at(self.now + PROBE, Event::Probes(place));
        }
    }

    fn probes(&mut self, place: usize) {
        let now = self.tick();
        while let Some(probe) = self.callers.at(place).cluster.probe(now) {
            let pod = self.by_address.get(&probe.endpoint.address.ip());
            let passed = pod.is_some_and(|pod| self.troubles[*pod].down.is_none());
            let wait = if passed { 5_000 } else { 400_000 };
            self.at(self.now + wait, Event::ProbeEnd(probe, passed));
        }
        let seen = self.callers.at_mut(place);
        if seen.cluster.all().all(|endpoint| endpoint.open()) {
            seen.probing = false;
        } else {
            self.at(self.now + PROBE, Event::Probes(place));
        }
    }
}

fn progress(tries: u8, written: bool) -> Progress {
    Progress {
        tries,
        written,
        body_kept: true,
        answered: false,
    }
}

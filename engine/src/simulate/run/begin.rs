//! How requests begin: who sends them, and where routes lead them.
//!
//! In: loads, and requests that cause others. Out: requests with a cluster to pick from, or why there is none. Never: a route that isn't the
//! engine's.

use super::{Cause, Event, Request, Run};
use crate::retry::Policy;
use crate::route::{Choice, RequestHead, hash};
use crate::simulate::Impossible;
use crate::simulate::callers::Key;
use crate::simulate::town::Target;
use crate::{Class, Tried, Wish};
use rand::RngExt;
use std::sync::Arc;
use weft_proto::model::{Hash, Health};

/// How deep calls may follow from one another.
const DEEPEST: u8 = 16;

impl Run<'_> {
    pub(super) fn arrive(&mut self, place: usize) {
        let town = self.town;
        let load = &town.loads[place];
        let played = self.rates[place];
        if load.rate <= 0.0 || played <= 0.0 {
            return;
        }
        let pause = 1e6 / played * self.rng.random_range(0.5..1.5);
        self.at(self.now + (pause as u64).max(1), Event::Arrive(place));
        // They take turns, as people in a queue do: who sends is not left to chance.
        let turn = self.turns[place];
        self.turns[place] = turn.wrapping_add(1);
        let cause = Cause {
            caller: None,
            turn,
            source: Arc::clone(&load.name),
            weight: load.rate / played,
            part: self.part,
            depth: 0,
        };
        if load.from.is_empty() {
            return self.call(cause, &load.to);
        }
        let up = |pod: &&usize| self.troubles[**pod].down.is_none() && town.pods[**pod].ready;
        let up: Vec<usize> = load.from.iter().filter(up).copied().collect();
        match up.as_slice() {
            [] => self.refuse(&cause, load.to.service, "nobody is left who would ask"),
            pods => {
                let caller = Some(pods[turn % pods.len()]);
                self.call(Cause { caller, ..cause }, &load.to);
            }
        }
    }

    fn refuse(&mut self, cause: &Cause, service: usize, reason: &str) {
        if let Some(part) = cause.part {
            self.tallies[part].asked(service, cause.weight);
            self.tallies[part].refused(service, &cause.source, reason, cause.weight);
        }
    }

    /// One request: where it goes, then to whom.
    fn call(&mut self, cause: Cause, target: &Target) {
        let town = self.town;
        if cause.depth > DEEPEST {
            self.failed = Some(Impossible::Circle {
                from: cause.source.to_string(),
                to: town.services[target.service].service.name.to_string(),
            });
            return;
        }
        let caller = match cause.caller {
            Some(caller) if town.pods[caller].meshed => caller,
            _ => return self.unguided(&cause, target),
        };
        let head = RequestHead {
            method: &target.ask.method,
            scheme: "http",
            path: &target.ask.path,
            query: None,
            host: &target.ask.host,
            headers: &target.ask.headers,
        };
        let (mut service, mut port, mut subset) = (target.service, target.port, None);
        let mut retries = Policy::default();
        if let Some(table) = &target.routes {
            match table.choose(port, &head, &mut self.rng) {
                Choice::Service => {}
                Choice::Rule { rule, backend } => {
                    retries = rule.retries.clone();
                    match town.service(&backend.service) {
                        Some(known) => service = known,
                        None => return self.refuse(&cause, service, "the route leads to no Service"),
                    }
                    port = backend.port;
                    subset = backend.subset.clone();
                }
                Choice::Answer { .. } => return self.refuse(&cause, service, "the route answers by itself"),
                Choice::NoMatch => return self.refuse(&cause, service, "no rule of the route matches (404)"),
                Choice::Unavailable { why, .. } => {
                    let reason = format!("the route has nowhere to send it: {why}");
                    return self.refuse(&cause, service, &reason);
                }
            }
        }
        let now = self.tick();
        let key = Key {
            caller,
            service,
            port,
            subset,
        };
        let seen = self.callers.place(town, key, now);
        let cluster = &self.callers.at(seen).cluster;
        cluster.budget().request(now);
        let wish = Wish {
            hash: match &cluster.traffic.balance.hash {
                None => None,
                Some(by @ Hash::Source) => {
                    let own = town.pods[caller].addresses.first();
                    own.and_then(|own| hash::of(by, &head, *own))
                }
                // Whoever is behind the caller: many.
                Some(_) => Some(self.rng.random()),
            },
            address: None,
        };
        if let Some(part) = cause.part {
            self.tallies[part].asked(service, cause.weight);
        }
        let class = if self.rng.random_bool(self.options.unsafe_share.clamp(0.0, 1.0)) {
            Class::Unsafe
        } else {
            Class::of(&target.ask.method.parse().unwrap_or_default())
        };
        let request = Request {
            seen,
            service,
            caller,
            source: cause.source,
            class,
            wish,
            retries,
            tries: 0,
            tried: Tried::none(),
            begun: self.now,
            pod: caller,
            status: 200,
            flight: None,
            weight: cause.weight,
            part: cause.part,
            depth: cause.depth,
        };
        self.next += 1;
        self.requests.insert(self.next, request);
        self.send(self.next);
    }

    /// A request that no sidecar guides: to any endpoint that counts as ready. One from outside comes to pods that are up.
    fn unguided(&mut self, cause: &Cause, target: &Target) {
        let service = target.service;
        let up = |pod: usize| self.troubles[pod].down.is_none();
        let outside = cause.caller.is_none();
        let ready = self.callers.endpoints[service].endpoints.iter();
        let ready = ready.filter(|e| e.health == Health::Ready && e.target_port(target.port).is_some());
        let pods: Vec<usize> = ready
            .filter_map(|e| self.by_address.get(e.addresses.first()?).copied())
            .filter(|pod| !outside || up(*pod))
            .collect();
        let pod = match pods.len() {
            0 => return self.refuse(cause, service, "no endpoint is ready"),
            count if outside => pods[cause.turn % count],
            count => pods[self.rng.random_range(0..count)],
        };
        let trouble = self.troubles[pod];
        let reached = trouble.down.is_none();
        let erring = trouble.errors > 0.0 && self.rng.random_bool(trouble.errors);
        if let Some(part) = cause.part {
            let tally = &mut self.tallies[part];
            tally.asked(service, cause.weight);
            tally.sent(service, cause.caller, pod, reached, cause.weight);
            if !reached {
                let reason = "its pod is down, and the caller has no sidecar";
                tally.refused(service, &cause.source, reason, cause.weight);
            } else if erring {
                let reason = format!("answered with {}", trouble.status);
                tally.refused(service, &cause.source, &reason, cause.weight);
            }
        }
        if reached && !erring {
            self.follow(pod, cause.weight, cause.part, cause.depth);
        }
    }

    /// What a pod asks of others because of a request.
    pub(super) fn follow(&mut self, pod: usize, weight: f64, part: Option<usize>, depth: u8) {
        let town = self.town;
        for at in 0..self.calls_of[pod].len() {
            let call = &town.calls[self.calls_of[pod][at]];
            let whole = call.times.floor();
            let more = self.rng.random_bool((call.times - whole).clamp(0.0, 1.0));
            for _ in 0..whole as u64 + u64::from(more) {
                let cause = Cause {
                    caller: Some(pod),
                    turn: 0,
                    source: Arc::clone(&call.name),
                    weight,
                    part,
                    depth: depth + 1,
                };
                self.call(cause, &call.to);
                if self.failed.is_some() {
                    return;
                }
            }
        }
    }
}

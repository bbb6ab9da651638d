//! A small world of pods on a simulated clock, driven as the sidecar drives the engine.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr};
use weft_engine::pick::Probe;
use weft_engine::retry::{Decision, Failure, Policy, Progress, decide};
use weft_engine::{Caller, Class, Cluster, InFlight, Outcome, Plan, Reason, Settings, Tick, Tried, Wish};
use weft_proto::model::{Distance, Endpoint, Endpoints, Health, Locality, ServiceName, Workload};

const MS: u64 = 1_000;

/// What a pod does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pod {
    Up,
    /// Packets are dropped both ways.
    Cut,
    /// Refuses connections.
    Down,
    /// Answers with this status.
    Failing(u16),
}

#[derive(Debug)]
enum Event {
    Arrive,
    Answer(u64),
    Refused(u64),
    Look(u64),
    Again(u64),
    /// Bounds how long an unsafe request waits.
    GiveUp(u64),
    Probes,
    ProbeEnd(usize, bool),
}

struct Request {
    class: Class,
    arrived: u64,
    tries: u8,
    tried: Tried,
    pod: usize,
    flight: Option<InFlight>,
    status: u16,
    latency: u64,
}

/// One try of a request.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub at: u64,
    pub pod: usize,
    pub reason: Reason,
    pub tier: Distance,
}

/// How a request ended for its caller.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    pub arrived: u64,
    pub latency: u64,
    pub class: Class,
    pub status: u16,
    pub tries: u8,
}

/// Load, pods and what happened.
pub struct World {
    pub now: u64,
    pub cluster: Cluster,
    pub pods: Vec<Pod>,
    pub sent: Vec<Sent>,
    pub done: Vec<Done>,
    /// Requests per second.
    pub rate: u64,
    /// Percentage of requests that must not run twice.
    pub unsafe_percent: u32,
    /// Percentage of requests that take `slow` ms.
    pub slow_percent: u32,
    pub slow: u64,
    /// Milliseconds that a pod of each distance takes.
    pub latency: [u64; 3],
    probing: bool,
    probes: Vec<Option<Probe>>,
    locality: Vec<Locality>,
    rng: StdRng,
    next: u64,
    order: u64,
    requests: BTreeMap<u64, Request>,
    events: BinaryHeap<Reverse<(u64, u64, usize)>>,
    payload: Vec<Option<Event>>,
}

/// A pod in a region and zone, as the control plane would tell of it.
pub fn endpoint(n: usize, locality: &Locality) -> Endpoint {
    Endpoint {
        workload: Workload {
            pod: format!("pod-{n}").into(),
            pod_uid: format!("uid-{n}").into(),
            ..Default::default()
        },
        addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 244, 0, n as u8))],
        ports: vec![(80, 8080)],
        locality: locality.clone(),
        health: Health::Ready,
        weight: 1,
        identity: None,
        labels: Vec::new(),
        hint_zones: Vec::new(),
        hint_nodes: Vec::new(),
        hostname: "".into(),
    }
}

impl World {
    /// `counts`: pods in this zone, in this region's other zone, and in another region.
    pub fn new(seed: u64, counts: [usize; 3], prober: bool) -> Self {
        let here = Locality::new("r1", "a", "n1");
        let places = [
            here.clone(),
            Locality::new("r1", "b", "n2"),
            Locality::new("r2", "a", "n3"),
        ];
        let locality: Vec<_> = places
            .iter()
            .zip(counts)
            .flat_map(|(place, n)| std::iter::repeat_n(place.clone(), n))
            .collect();
        let endpoints = Endpoints {
            service: ServiceName::new("shop", "cart"),
            endpoints: locality
                .iter()
                .enumerate()
                .map(|(n, place)| endpoint(n, place))
                .collect(),
        };
        let settings = Settings {
            seed,
            prober,
            ..Settings::default()
        };
        let cluster = {
            let plan = Plan {
                endpoints: &endpoints,
                port: 80,
                subset: None,
                traffic: &Default::default(),
                caller: Caller {
                    locality: &here,
                    labels: &[],
                },
            };
            Cluster::next(None, &plan, &settings, Tick::START)
        };
        let mut world = Self {
            now: 0,
            cluster,
            pods: vec![Pod::Up; locality.len()],
            sent: Vec::new(),
            done: Vec::new(),
            rate: 100,
            unsafe_percent: 0,
            slow_percent: 0,
            slow: 0,
            latency: [2, 4, 40],
            probing: prober,
            probes: Vec::new(),
            locality,
            rng: StdRng::seed_from_u64(seed),
            next: 0,
            order: 0,
            requests: BTreeMap::new(),
            events: BinaryHeap::new(),
            payload: Vec::new(),
        };
        world.at(MS, Event::Arrive);
        if world.probing {
            world.at(100 * MS, Event::Probes);
        }
        world
    }

    /// Lets time pass until this millisecond.
    pub fn run_to(&mut self, ms: u64) {
        while let Some(&Reverse((at, _, index))) = self.events.peek() {
            if at > ms * MS {
                break;
            }
            self.events.pop();
            self.now = at;
            if let Some(event) = self.payload[index].take() {
                self.handle(event);
            }
        }
        self.now = ms * MS;
    }

    /// Changes what pods do. Those that were cut and are up again deliver late what they got.
    pub fn set(&mut self, pods: std::ops::Range<usize>, state: Pod) {
        for pod in pods.clone() {
            self.pods[pod] = state;
        }
        if state == Pod::Up {
            let stuck: Vec<_> = self
                .requests
                .iter()
                .filter(|(_, r)| r.flight.is_some() && pods.contains(&r.pod))
                .map(|(id, _)| *id)
                .collect();
            for id in stuck {
                // TCP's next retransmission.
                let later = self.now + self.rng.random_range(0..8_000) * MS;
                self.at(later, Event::Answer(id));
            }
        }
    }

    /// Tries within a span of milliseconds.
    pub fn sent_in(&self, span: std::ops::Range<u64>) -> impl Iterator<Item = &Sent> {
        self.sent.iter().filter(move |s| span.contains(&(s.at / MS)))
    }

    /// Safe requests that failed.
    pub fn failed_safe(&self) -> usize {
        self.done
            .iter()
            .filter(|d| d.class == Class::Safe && d.status >= 500)
            .count()
    }

    /// A percentile of the latency of safe requests, in milliseconds.
    pub fn percentile(&self, percent: usize) -> u64 {
        let mut all: Vec<_> = self
            .done
            .iter()
            .filter(|d| d.class == Class::Safe)
            .map(|d| d.latency / MS)
            .collect();
        all.sort_unstable();
        all.get((all.len() * percent / 100).min(all.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    }

    fn tick(&self) -> Tick {
        Tick::from_micros(self.now)
    }

    fn at(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.payload.push(Some(event));
        self.events
            .push(Reverse((at, self.order, self.payload.len() - 1)));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive => {
                let id = self.next;
                self.next += 1;
                let class = if self.rng.random_range(0..100) < self.unsafe_percent {
                    Class::Unsafe
                } else {
                    Class::Safe
                };
                let slow = self.rng.random_range(0..100) < self.slow_percent;
                self.cluster.budget().request(self.tick());
                let request = Request {
                    class,
                    arrived: self.now,
                    tries: 0,
                    tried: Tried::none(),
                    pod: 0,
                    flight: None,
                    status: 200,
                    latency: if slow { self.slow } else { 0 },
                };
                self.requests.insert(id, request);
                self.send(id);
                self.at(self.now + 1_000_000 / self.rate, Event::Arrive);
                self.at(self.now + 30_000 * MS, Event::GiveUp(id));
            }
            Event::Answer(id) => self.answer(id),
            Event::Refused(id) => self.fail(id, Outcome::Refused, Failure::Connect),
            Event::Look(id) => self.look(id),
            Event::Again(id) => self.send(id),
            Event::GiveUp(id) => {
                if let Some(mut request) = self.requests.remove(&id) {
                    if let Some(flight) = request.flight.take() {
                        flight.finish(self.tick(), Outcome::Cancelled);
                    }
                    self.end(request, 504);
                }
            }
            Event::Probes => {
                while let Some(probe) = self.cluster.probe(self.tick()) {
                    let up = self.pods[pod_of(probe.endpoint.address.ip())] == Pod::Up;
                    self.probes.push(Some(probe));
                    let wait = if up { 5 * MS } else { 400 * MS };
                    self.at(self.now + wait, Event::ProbeEnd(self.probes.len() - 1, up));
                }
                self.at(self.now + 100 * MS, Event::Probes);
            }
            Event::ProbeEnd(index, up) => {
                if let Some(probe) = self.probes[index].take() {
                    probe.finish(self.tick(), up);
                }
            }
        }
    }

    fn send(&mut self, id: u64) {
        let now = self.tick();
        let Some(mut request) = self.requests.remove(&id) else {
            return;
        };
        let mut picked = self
            .cluster
            .pick(
                now,
                &mut self.rng,
                &request.tried,
                request.class,
                &Wish::default(),
            )
            .unwrap();
        let pod = pod_of(picked.endpoint.address.ip());
        self.sent.push(Sent {
            at: self.now,
            pod,
            reason: picked.reason,
            tier: picked.tier,
        });
        request.tried.push(&picked.endpoint);
        request.tries += 1;
        request.pod = pod;
        let flight = picked.begin(now);
        let look = flight.deadline().unwrap().as_micros();
        request.flight = Some(flight);
        let own = self.latency[[Distance::Zone, Distance::Region, Distance::Remote]
            .iter()
            .position(|d| *d == picked.tier)
            .unwrap()];
        let latency = (own + request.latency) * MS + self.rng.random_range(0..MS);
        request.status = if let Pod::Failing(status) = self.pods[pod] {
            status
        } else {
            200
        };
        self.requests.insert(id, request);
        match self.pods[pod] {
            Pod::Up | Pod::Failing(_) => self.at(self.now + latency, Event::Answer(id)),
            Pod::Down => self.at(self.now + MS / 4, Event::Refused(id)),
            Pod::Cut => {}
        }
        self.at(look, Event::Look(id));
    }

    fn answer(&mut self, id: u64) {
        let now = self.tick();
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        if matches!(self.pods[request.pod], Pod::Cut | Pod::Down) {
            return;
        }
        let Some(mut flight) = request.flight.take() else {
            return;
        };
        let status = request.status;
        flight.answered(now, status);
        let outcome = if status >= 500 {
            Outcome::ServerError(status)
        } else {
            Outcome::Success
        };
        flight.finish(now, outcome);
        if status >= 500 {
            self.again(id, Failure::Status(status), status);
        } else if let Some(request) = self.requests.remove(&id) {
            self.end(request, status);
        }
    }

    fn look(&mut self, id: u64) {
        let now = self.tick();
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        let Some(flight) = &request.flight else { return };
        if flight.silent(now) {
            let progress = Progress {
                tries: request.tries,
                written: true,
                body_kept: true,
                answered: false,
            };
            let decision = decide(
                &Policy::default(),
                request.class,
                Failure::Silent,
                progress,
                self.cluster.budget(),
                now,
                &mut self.rng,
            );
            if let Decision::Retry { pause } = decision {
                if let Some(flight) = request.flight.take() {
                    flight.finish(now, Outcome::Silent);
                }
                self.at(self.now + pause, Event::Again(id));
            }
        } else if let Some(deadline) = flight.deadline() {
            self.at(deadline.as_micros(), Event::Look(id));
        }
    }

    fn fail(&mut self, id: u64, outcome: Outcome, failure: Failure) {
        let now = self.tick();
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        if let Some(flight) = request.flight.take() {
            flight.finish(now, outcome);
        }
        self.again(id, failure, 503);
    }

    fn again(&mut self, id: u64, failure: Failure, status: u16) {
        let now = self.tick();
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let written = failure != Failure::Connect;
        let progress = Progress {
            tries: request.tries,
            written,
            body_kept: true,
            answered: false,
        };
        match decide(
            &Policy::default(),
            request.class,
            failure,
            progress,
            self.cluster.budget(),
            now,
            &mut self.rng,
        ) {
            Decision::Retry { pause } => self.at(self.now + pause, Event::Again(id)),
            Decision::Stop(_) => {
                if let Some(request) = self.requests.remove(&id) {
                    self.end(request, status);
                }
            }
        }
    }

    fn end(&mut self, request: Request, status: u16) {
        self.done.push(Done {
            arrived: request.arrived,
            latency: self.now - request.arrived,
            class: request.class,
            status,
            tries: request.tries,
        });
    }

    /// How many pods the world has.
    pub fn size(&self) -> usize {
        self.locality.len()
    }
}

fn pod_of(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(v4) => usize::from(v4.octets()[3]),
        IpAddr::V6(_) => unreachable!("pods of this world have IPv4 addresses"),
    }
}

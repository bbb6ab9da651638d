//! What this sidecar subscribes to by name: what is used, and the backends of its routes.
//!
//! Enters: what is wanted, and what the control plane says of it, kind by kind. Leaves: changes for the view, each Service as a whole.
//! Never: a Service in view without its routes, or with routes to a backend that isn't there yet; something given up that is in use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;
use weft_proto::model::{ConnectionRule, Gateway, RouteRule, Routes, ServiceName};
use weft_proto::resource::{Kind, Resource};

use crate::view::{Change, Wanted};

/// Most Services, and most pods, that are subscribed to because somebody calls them, or a route of such a Service leads there.
pub const MAX_WANTED: usize = 4_096;
/// Most Services in all, with those that a gateway leads to: not callers say which they are. The control plane takes 10,000 names.
pub const MAX_BEHIND: usize = 8_192;

/// Kinds that a Service consists of.
const PARTS: [Kind; 3] = [Kind::Service, Kind::Endpoints, Kind::Routes];

/// Everything that is subscribed to by name.
#[derive(Debug, Default)]
pub struct Interest {
    services: BTreeMap<ServiceName, Asked>,
    pods: BTreeMap<IpAddr, Direct>,
    /// The pod's own addresses: always wanted.
    own: BTreeSet<IpAddr>,
    gateway: Served,
}

/// What a gateway serves.
#[derive(Debug, Default)]
struct Served {
    /// Comes into view with the Services behind it.
    pending: Option<Change>,
    /// Services behind what is in view or pending: always wanted.
    backends: BTreeSet<ServiceName>,
}

/// A Service that is subscribed to.
#[derive(Debug)]
struct Asked {
    since: Instant,
    /// Which kinds of [`PARTS`] were answered, with something or nothing.
    answered: [bool; PARTS.len()],
    /// Which of them are there.
    there: [bool; PARTS.len()],
    /// What the view was told: that it is there, or that it isn't.
    shown: Option<bool>,
    /// What comes into view with everything else that it needs.
    pending: Vec<Change>,
    /// Where its routes lead besides itself.
    backends: Arc<[ServiceName]>,
    /// The last answer about it can't be used: nobody waits for it.
    refused: bool,
}

/// A pod that is subscribed to.
#[derive(Debug)]
struct Direct {
    since: Instant,
    answered: bool,
    there: bool,
    /// Headless Services that it is behind, whose routes may hold for its callers.
    headless: Arc<[ServiceName]>,
    /// Comes into view with those.
    pending: Option<Change>,
}

impl Interest {
    /// Nothing but the pod itself.
    pub fn new(own: &[IpAddr]) -> Self {
        let own: BTreeSet<_> = own.iter().map(|address| address.to_canonical()).collect();
        Self {
            services: BTreeMap::new(),
            pods: own.iter().map(|address| (*address, Direct::new())).collect(),
            own,
            gateway: Served::default(),
        }
    }

    /// What the control plane says of the gateway; of a removed one, the change says that. It comes into view with the Services that
    /// it leads to. Returns what comes into view now.
    pub fn serve(&mut self, change: Change) -> Vec<Change> {
        let backends = match &change {
            Change::Put(resource) => match &**resource {
                Resource::Gateway(gateway) => behind(gateway),
                _ => BTreeSet::new(),
            },
            _ => BTreeSet::new(),
        };
        let mut left_out = 0;
        for backend in &backends {
            left_out += usize::from(!self.service_wanted(backend.clone(), MAX_BEHIND));
        }
        if left_out > 0 {
            tracing::warn!(
                left_out,
                most = MAX_BEHIND,
                "the gateway leads to more Services than can be subscribed to; requests to the others are answered with 500"
            );
        }
        self.gateway.backends = backends;
        self.gateway.pending = Some(change);
        let mut now = Vec::new();
        self.release(&mut now);
        now
    }

    /// The last answers about these resources can't be used. Returns what comes into view now, because nobody waits for them.
    pub fn refuse<'a>(&mut self, kind: Kind, names: impl Iterator<Item = &'a str>) -> Vec<Change> {
        for name in names {
            if let Some(Wanted::Service(service)) = wanted(kind, name)
                && let Some(asked) = self.services.get_mut(&service)
            {
                asked.refused = true;
            }
        }
        let mut now = Vec::new();
        self.release(&mut now);
        now
    }

    /// Subscribes to something. `false`: there is no room.
    pub fn want(&mut self, wanted: Wanted) -> bool {
        match wanted {
            Wanted::Service(name) => self.service_wanted(name, MAX_WANTED),
            Wanted::Pod(address) => {
                let room = self.pods.len() < MAX_WANTED || self.pods.contains_key(&address);
                if room {
                    self.pods.entry(address).or_insert_with(Direct::new);
                }
                room
            }
        }
    }

    /// Subscribes to a Service, unless there are `most` already.
    fn service_wanted(&mut self, name: ServiceName, most: usize) -> bool {
        let room = self.services.len() < most || self.services.contains_key(&name);
        if room {
            self.services.entry(name).or_insert_with(Asked::new);
        }
        room
    }

    /// All that is wanted was known as a whole by an earlier run of the sidecar: what its snapshot doesn't have isn't there. Returns
    /// what comes into view now.
    pub fn restored(&mut self) -> Vec<Change> {
        let mut now = Vec::new();
        for asked in self.services.values_mut() {
            asked.answered = [true; PARTS.len()];
        }
        for (address, direct) in &mut self.pods {
            // Its own resource may be new to it.
            if !direct.there && !self.own.contains(address) {
                direct.answered = true;
                now.push(Change::Absent(Wanted::Pod(*address)));
            }
        }
        self.release(&mut now);
        now
    }

    /// Whether a resource is subscribed to.
    pub fn wants(&self, kind: Kind, name: &str) -> bool {
        match wanted(kind, name) {
            Some(Wanted::Service(name)) => self.services.contains_key(&name),
            Some(Wanted::Pod(address)) => self.pods.contains_key(&address),
            None => !kind.on_demand(),
        }
    }

    /// Names of a kind that are subscribed to.
    pub fn names(&self, kind: Kind) -> BTreeSet<String> {
        match kind {
            Kind::Pod => self.pods.keys().map(ToString::to_string).collect(),
            kind if kind.on_demand() => self.services.keys().map(ToString::to_string).collect(),
            _ => BTreeSet::new(),
        }
    }

    /// Everything of which all is known, to be kept over a restart.
    pub fn settled(&self) -> Vec<Wanted> {
        let services = self.services.iter().filter(|(_, asked)| asked.settled());
        let pods = self.pods.iter().filter(|(_, direct)| direct.answered);
        services
            .map(|(name, _)| Wanted::Service(name.clone()))
            .chain(pods.map(|(address, _)| Wanted::Pod(*address)))
            .collect()
    }

    /// How many Services and pods are subscribed to.
    pub fn count(&self) -> usize {
        self.services.len() + self.pods.len()
    }

    /// What the control plane says of a kind: changes, and names that aren't there. Returns what comes into view now.
    pub fn answer(&mut self, kind: Kind, changes: Vec<Change>, removed: &[String]) -> Vec<Change> {
        let mut now = Vec::new();
        for name in removed {
            match wanted(kind, name) {
                Some(Wanted::Service(service)) => {
                    if let Some(asked) = self.services.get_mut(&service) {
                        asked.part(kind, false);
                    }
                }
                Some(Wanted::Pod(address)) => {
                    if let Some(direct) = self.pods.get_mut(&address) {
                        direct.answer(false, Arc::default());
                        now.push(Change::Absent(Wanted::Pod(address)));
                    }
                }
                None => {}
            }
        }
        for change in changes {
            match about(kind, &change) {
                Some(Wanted::Service(name)) => self.service(kind, &name, change, &mut now),
                Some(Wanted::Pod(address)) => self.pod(address, change, &mut now),
                None => now.push(change),
            }
        }
        self.release(&mut now);
        now
    }

    fn pod(&mut self, address: IpAddr, change: Change, now: &mut Vec<Change>) {
        let headless: Arc<[ServiceName]> = match &change {
            Change::Put(resource) => match &**resource {
                Resource::Pod(pod) => pod.headless.as_slice().into(),
                _ => Arc::default(),
            },
            _ => return now.push(change),
        };
        let Some(direct) = self.pods.get_mut(&address) else {
            return now.push(change);
        };
        direct.answer(true, headless.clone());
        direct.pending = Some(change);
        for service in headless.iter() {
            self.want(Wanted::Service(service.clone()));
        }
    }

    fn service(&mut self, kind: Kind, name: &ServiceName, change: Change, now: &mut Vec<Change>) {
        let Some(asked) = self.services.get_mut(name) else {
            return;
        };
        let mut backends = None;
        match &change {
            Change::Put(resource) => {
                asked.part(kind, true);
                if let Resource::Routes(routes) = &**resource {
                    backends = Some(elsewhere(routes));
                }
            }
            _ => {
                if kind == Kind::Routes {
                    backends = Some(Arc::default());
                }
            }
        }
        match backends {
            Some(backends) => {
                // The routes of before are no longer waited for.
                asked
                    .pending
                    .retain(|pending| about(Kind::Routes, pending).is_none());
                asked.pending.push(change);
                asked.backends = backends.clone();
                for backend in backends.iter() {
                    self.want(Wanted::Service(backend.clone()));
                }
            }
            None if asked.shown == Some(true) => now.push(change),
            None => asked.pending.push(change),
        }
    }

    /// Lets come into view what is complete.
    fn release(&mut self, now: &mut Vec<Change>) {
        let waiting: Vec<ServiceName> = self
            .services
            .iter()
            .filter(|(_, asked)| asked.settled() && asked.unsaid())
            .map(|(name, _)| name.clone())
            .collect();
        for name in waiting {
            // What there was no room for doesn't hold up the rest.
            let known = |name: &ServiceName| self.services.get(name).is_none_or(Asked::settled);
            if !self.reached(&name).iter().all(known) {
                continue;
            }
            if let Some(asked) = self.services.get_mut(&name) {
                now.append(&mut asked.pending);
                if asked.shown != Some(asked.callable()) && !asked.callable() {
                    now.push(Change::Absent(Wanted::Service(name)));
                }
                asked.shown = Some(asked.callable());
            }
        }
        // What there was no room for, and what can't be used, isn't waited for.
        let said = |name: &ServiceName| {
            let asked = self.services.get(name);
            asked.is_none_or(|asked| asked.refused || asked.settled() && !asked.unsaid())
        };
        if self.gateway.pending.is_some() && self.gateway.backends.iter().all(said) {
            now.extend(self.gateway.pending.take());
        }
        let waiting = self.pods.iter().filter(|(_, direct)| direct.pending.is_some());
        let ready = waiting.filter(|(_, direct)| direct.headless.iter().all(said));
        let ready: Vec<IpAddr> = ready.map(|(address, _)| *address).collect();
        for address in ready {
            let direct = self.pods.get_mut(&address);
            now.extend(direct.and_then(|direct| direct.pending.take()));
        }
    }

    /// A Service and all that its routes lead to.
    fn reached(&self, name: &ServiceName) -> BTreeSet<ServiceName> {
        let mut reached = BTreeSet::new();
        let mut next = vec![name.clone()];
        while let Some(name) = next.pop() {
            if let Some(asked) = self.services.get(&name) {
                next.extend(
                    asked
                        .backends
                        .iter()
                        .filter(|backend| !reached.contains(*backend))
                        .cloned(),
                );
            }
            reached.insert(name);
        }
        reached
    }

    /// Gives up what `idle` says isn't used (it gets since when it is wanted), unless a route of something that is used leads there.
    pub fn give_up(&mut self, idle: impl Fn(&Wanted, Instant) -> bool) -> Vec<Wanted> {
        let used = self
            .services
            .iter()
            .filter(|(name, asked)| !idle(&Wanted::Service((*name).clone()), asked.since))
            .map(|(name, _)| name.clone());
        let used: Vec<_> = used.collect();
        let unused = |address: &IpAddr, direct: &Direct| {
            !self.own.contains(address) && idle(&Wanted::Pod(*address), direct.since)
        };
        let called = self
            .pods
            .iter()
            .filter(|(address, direct)| !unused(address, direct));
        let called = called.flat_map(|(_, direct)| direct.headless.iter());
        let used = used.iter().chain(&self.gateway.backends).chain(called);
        let needed: BTreeSet<ServiceName> = used.flat_map(|name| self.reached(name)).collect();
        let services = self.services.keys().filter(|name| !needed.contains(*name));
        let pods = self
            .pods
            .iter()
            .filter(|(address, direct)| unused(address, direct));
        let gone: Vec<Wanted> = services
            .map(|name| Wanted::Service(name.clone()))
            .chain(pods.map(|(address, _)| Wanted::Pod(*address)))
            .collect();
        for wanted in &gone {
            match wanted {
                Wanted::Service(name) => drop(self.services.remove(name)),
                Wanted::Pod(address) => drop(self.pods.remove(address)),
            }
        }
        gone
    }
}

impl Direct {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            answered: false,
            there: false,
            headless: Arc::default(),
            pending: None,
        }
    }

    fn answer(&mut self, there: bool, headless: Arc<[ServiceName]>) {
        (self.answered, self.there) = (true, there);
        self.headless = headless;
        self.pending = None;
    }
}

impl Asked {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            answered: Default::default(),
            there: Default::default(),
            shown: None,
            pending: Vec::new(),
            backends: Arc::default(),
            refused: false,
        }
    }

    /// Whether there is an object with endpoints (none of them may be ready).
    fn callable(&self) -> bool {
        self.there[0] && self.there[1]
    }

    /// Whether the view knows less than this.
    fn unsaid(&self) -> bool {
        let callable = self.callable();
        // A part of what isn't there waits for the rest.
        self.shown != Some(callable) || callable && !self.pending.is_empty()
    }

    fn settled(&self) -> bool {
        self.answered.iter().all(|answered| *answered)
    }

    fn part(&mut self, kind: Kind, there: bool) {
        self.refused = false;
        if let Some(index) = PARTS.iter().position(|part| *part == kind) {
            self.answered[index] = true;
            self.there[index] = there;
        }
    }
}

/// What a name of a kind is subscribed to as.
pub fn wanted(kind: Kind, name: &str) -> Option<Wanted> {
    match kind {
        Kind::Pod => name.parse().ok().map(Wanted::Pod),
        kind if kind.on_demand() => {
            let (namespace, name) = name.split_once('/')?;
            Some(Wanted::Service(ServiceName::new(namespace, name)))
        }
        _ => None,
    }
}

/// What a change of a kind is about.
fn about(kind: Kind, change: &Change) -> Option<Wanted> {
    match change {
        Change::Put(resource) if resource.kind() == kind => wanted(kind, &resource.name()),
        Change::Remove(of, name) if *of == kind => wanted(kind, name),
        _ => None,
    }
}

/// Services that routes lead to besides their own.
fn elsewhere(routes: &Routes) -> Arc<[ServiceName]> {
    let of_pods = routes.pods.iter();
    let of_pods = of_pods.flat_map(|pod| led_to(&pod.rules, &pod.connections));
    let services = led_to(&routes.rules, &routes.connections).chain(of_pods);
    let backends: BTreeSet<&ServiceName> = services.filter(|service| **service != routes.service).collect();
    backends.into_iter().cloned().collect()
}

/// Services that a gateway leads to.
fn behind(gateway: &Gateway) -> BTreeSet<ServiceName> {
    let listeners = gateway.listeners.iter();
    let services = listeners.flat_map(|listener| {
        let hosts = listener.hosts.iter();
        let requests = hosts.flat_map(|host| led_to(&host.rules, &[]));
        requests.chain(led_to(&[], &listener.connections))
    });
    services.cloned().collect()
}

fn led_to<'a>(
    rules: &'a [RouteRule],
    connections: &'a [ConnectionRule],
) -> impl Iterator<Item = &'a ServiceName> {
    let rules = rules.iter().flat_map(|rule| {
        let mirrors = rule.mirrors.iter().map(|mirror| &mirror.backend);
        rule.backends.iter().chain(mirrors)
    });
    let backends = rules.chain(connections.iter().flat_map(|rule| &rule.backends));
    backends
        .filter(|backend| backend.invalid.is_none())
        .map(|backend| &backend.service)
}

#[cfg(test)]
mod tests;

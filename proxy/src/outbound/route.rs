//! What becomes of a request: where it goes or what answers it, and what changes on the way.
//!
//! Enters: the target of a connection and a request's head. Leaves: the [`Route`]. Never: another Service than the
//! connection's because of a header: the address that the application chose wins; an allocation where a rule asks for nothing special.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::HeaderMap;
use weft_engine::Wish;
use weft_engine::policy::Operation;
use weft_engine::retry;
use weft_engine::route::session::{self, Held};
use weft_engine::route::{Choice, CompiledRule, Fields, Found, RequestHead, RouteTable, fault};
use weft_proto::model::Backend;

use super::answer::Answer;
use super::backend::{at, is_own};
use super::scene::Scene;
use super::sticky;
use crate::context::Worker;
use crate::failure::Failure;
use crate::gateway::arrival::Arrival;
use crate::policy;
use crate::recent::{Entered, Journal, Side};
use crate::upstream::call::Target;
use crate::view::{Destination, Direct, View, Wanted};

/// What is sent and answered otherwise than it came.
mod edit;

/// What becomes of a request, and under which bounds.
#[derive(Debug)]
pub struct Route {
    /// Where it goes.
    pub way: Way,
    rule: Option<(Arc<RouteTable>, usize)>,
    /// The rule's backend, by its place among them.
    backend: Option<usize>,
    /// Bound on the whole request.
    pub request_timeout: Option<Duration>,
    /// Bound on one try.
    pub try_timeout: Option<Duration>,
    wish: Wish,
    extra: Option<Box<Extra>>,
    journal: Journal,
}

/// Where a request goes.
#[derive(Debug)]
pub enum Way {
    /// To the connection's own target.
    Straight,
    /// To a backend.
    To(Target),
    /// Nowhere: this is the answer.
    Answer(Box<Answer>),
    /// Nowhere.
    Refuse(Failure),
}

/// What few requests have.
#[derive(Debug, Default)]
struct Extra {
    delay: Option<Duration>,
    /// Path and query to send.
    path: Option<String>,
    /// For the answer to a cross-origin request.
    cors: Fields,
    /// The session that the client brought.
    held: Option<Held>,
    /// A cookie for the next request's hash.
    cookie: Option<Arc<str>>,
    /// Which of the rule's mirrors get a copy.
    mirrors: Vec<usize>,
}

impl Route {
    /// Chooses. `head` is only asked for if it matters; `fields`, all header fields, if `head` may lack them and they matter.
    pub fn choose<'a, 'b>(
        worker: &Worker,
        target: &Target,
        source: IpAddr,
        head: impl FnOnce() -> RequestHead<'a>,
        fields: impl FnOnce() -> Cow<'b, HeaderMap>,
    ) -> Self {
        if let Target::Unlearned(service) = target {
            let wanted = Wanted::Service(service.clone());
            return Self::ends(Way::Refuse(match worker.shared.demand.is_refused(&wanted) {
                true => Failure::Unusable,
                false => Failure::NotLearned,
            }));
        }
        if let Target::Listener(arrival) = target {
            let head = head();
            let operation = Operation {
                method: head.method,
                path: head.path,
                host: head.host,
            };
            if policy::client(worker, source, arrival.bind(), Some(&operation)).is_err() {
                return Self::ends(Way::Refuse(Failure::Denied));
            }
            return worker.scene(|scene| Self::decide(scene, target, source, || head, fields));
        }
        worker.scene(|scene| Self::decide(scene, target, source, head, fields))
    }

    /// As [`Route::choose`], whoever asks.
    pub fn decide<'a, 'b>(
        scene: &Scene<'_>,
        target: &Target,
        source: IpAddr,
        head: impl FnOnce() -> RequestHead<'a>,
        fields: impl FnOnce() -> Cow<'b, HeaderMap>,
    ) -> Self {
        let destination = match target {
            Target::Service(destination) => destination,
            Target::Unlearned(_) => return Self::ends(Way::Refuse(Failure::NotLearned)),
            Target::Listener(arrival) => return Self::arrived(scene, arrival, source, &head(), fields),
            Target::Pod(direct, _) if direct.is_ruled() => {
                return Self::dialled(scene, direct, source, &head(), fields);
            }
            Target::Pod(..) | Target::Unknown(_) => return Self::ends(Way::Straight),
        };
        let port = destination.port.port;
        let mut route = Self::ends(Way::Straight);
        let Some(table) = destination.routes.as_ref().filter(|table| table.applies(port)) else {
            if sticky::sticks(destination) {
                route.stick(scene, destination, source, &head(), fields);
            }
            return route;
        };
        let head = head();
        route.follow(scene, destination, table, &head);
        match &route.way {
            Way::Straight if sticky::sticks(destination) => {
                route.stick(scene, destination, source, &head, fields);
            }
            _ => route.stick_to_backend(scene, source, &head, fields),
        }
        route
    }

    /// What becomes of a request to a pod's own address: as the rules say of the headless Service that is meant, else it goes there.
    fn dialled<'b>(
        scene: &Scene<'_>,
        direct: &Direct,
        source: IpAddr,
        head: &RequestHead<'_>,
        fields: impl FnOnce() -> Cow<'b, HeaderMap>,
    ) -> Self {
        let mut route = Self::ends(Way::Straight);
        let meant = direct.meant(scene.view, head.host);
        if let Some((behind, table)) = meant.and_then(|meant| Some((meant, meant.routes.as_ref()?))) {
            route.follow(scene, &behind.destination, table, head);
            route.stick_to_backend(scene, source, head, fields);
        }
        route
    }

    /// Looks for the rule, and does what it says. `own`: whose rules they are.
    fn follow(
        &mut self,
        scene: &Scene<'_>,
        own: &Destination,
        table: &Arc<RouteTable>,
        head: &RequestHead<'_>,
    ) {
        match table.find(own.port.port, head) {
            Found::Rule(rule) => {
                self.rule = Some((table.clone(), rule.index));
                self.obey(scene, Some(own), rule, head);
            }
            Found::Service => {}
            Found::NoMatch => self.way = Way::Refuse(Failure::NoRoute),
        }
    }

    /// What becomes of a request of a client outside the mesh.
    fn arrived<'b>(
        scene: &Scene<'_>,
        arrival: &Arrival,
        source: IpAddr,
        head: &RequestHead<'_>,
        fields: impl FnOnce() -> Cow<'b, HeaderMap>,
    ) -> Self {
        let (table, index) = match arrival.rule(head) {
            Ok(found) => found,
            Err(failure) => return Self::ends(Way::Refuse(failure)),
        };
        let mut route = Self::ends(Way::Refuse(Failure::NoBackend));
        if let Some(rule) = table.rules().get(index) {
            route.rule = Some((table.clone(), index));
            route.obey(scene, None, rule, head);
            route.stick_to_backend(scene, source, head, fields);
        }
        route
    }

    fn stick_to_backend<'b>(
        &mut self,
        scene: &Scene<'_>,
        source: IpAddr,
        head: &RequestHead<'_>,
        fields: impl FnOnce() -> Cow<'b, HeaderMap>,
    ) {
        if let Way::To(Target::Service(backend)) = &self.way
            && sticky::sticks(backend)
        {
            let backend = backend.clone();
            self.stick(scene, &backend, source, head, fields);
        }
    }

    fn ends(way: Way) -> Self {
        Self {
            way,
            rule: None,
            backend: None,
            request_timeout: None,
            try_timeout: None,
            wish: Wish::default(),
            extra: None,
            journal: Journal::default(),
        }
    }

    fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// Does what a rule says. `own`: whose rule it is; `None`: a gateway's.
    fn obey(
        &mut self,
        scene: &Scene<'_>,
        own: Option<&Destination>,
        rule: &CompiledRule,
        head: &RequestHead<'_>,
    ) {
        self.request_timeout = rule.request_timeout;
        self.try_timeout = rule.backend_timeout;
        if let Some(cors) = &rule.cors {
            if let Some(fields) = cors.preflight(head) {
                self.way = Way::Answer(Box::new(Answer::preflight(fields)));
                return;
            }
            if let Some(mut fields) = cors.answer(head) {
                if cors.varies() {
                    fields.push(("vary".into(), "origin".into()));
                }
                self.extra().cors = fields;
            }
        }
        if rule.fault.delay.is_some() || rule.fault.abort.is_some() {
            let drawn = scene.random(|rng| fault::draw(&rule.fault, rng));
            if drawn.delay.is_some() {
                self.extra().delay = drawn.delay;
            }
            if let Some(abort) = drawn.abort {
                self.way = Way::Answer(Box::new(Answer::abort(abort)));
                return;
            }
        }
        let held = rule
            .session
            .as_ref()
            .and_then(|session| sticky::held(session, head, (scene.wall)()));
        self.way = match scene.random(|rng| rule.split_for(held.as_ref(), rng)) {
            Choice::Rule { backend, .. } => {
                self.backend = rule.backends.iter().position(|each| std::ptr::eq(each, backend));
                if let Some(held) = held {
                    self.extra().held = Some(held);
                    if held.backend == session::backend(backend) {
                        self.wish.address = Some(held.address);
                    }
                }
                to(scene.view, own, backend)
            }
            Choice::Answer { .. } => {
                let fields = self.extra.as_mut().map(|extra| std::mem::take(&mut extra.cors));
                let answer = rule.answer.as_ref().ok_or(Failure::NoBackend);
                match answer.and_then(|answer| Answer::of(rule, answer, head, fields.unwrap_or_default())) {
                    Ok(answer) => Way::Answer(Box::new(answer)),
                    Err(failure) => Way::Refuse(failure),
                }
            }
            Choice::Service | Choice::NoMatch | Choice::Unavailable { .. } => Way::Refuse(Failure::NoBackend),
        };
        if matches!(self.way, Way::Refuse(_) | Way::Answer(_)) {
            return;
        }
        if let Some(edit) = &rule.path {
            match edit.apply(head.path) {
                Ok(path) => {
                    let path = match head.query {
                        Some(query) => format!("{path}?{query}"),
                        None => path.into_owned(),
                    };
                    self.extra().path = Some(path);
                }
                Err(_) => self.way = Way::Refuse(Failure::Path),
            }
        }
        for (index, mirror) in rule.mirrors.iter().enumerate() {
            if scene.random(|rng| fault::hits(mirror.millionths, rng)) {
                self.extra().mirrors.push(index);
            }
        }
    }

    /// What consistent hashing goes by, and the session that a client has with a destination: a rule's own counts instead.
    fn stick<'b>(
        &mut self,
        scene: &Scene<'_>,
        destination: &Destination,
        source: IpAddr,
        head: &RequestHead<'_>,
        fields: impl FnOnce() -> Cow<'b, HeaderMap>,
    ) {
        let all;
        let head = match head.headers.is_empty() {
            true => {
                all = fields();
                RequestHead {
                    headers: &all,
                    ..*head
                }
            }
            false => *head,
        };
        let of_rule = self.rule().is_some_and(|rule| rule.session.is_some());
        if let Some(session) = destination.traffic.session.as_ref().filter(|_| !of_rule)
            && let Some(held) = sticky::held(session, &head, (scene.wall)())
            && held.backend == sticky::backend(destination)
        {
            self.wish.address = Some(held.address);
            self.extra().held = Some(held);
        }
        if let Some(what) = &destination.traffic.balance.hash {
            let (hash, cookie) = sticky::hashed(scene, what, &head, source);
            self.wish.hash = hash;
            if cookie.is_some() {
                self.extra().cookie = cookie;
            }
        }
    }

    /// The rule that was obeyed.
    pub fn rule(&self) -> Option<&CompiledRule> {
        let (table, index) = self.rule.as_ref()?;
        table.rules().get(*index)
    }

    /// The request's tries.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The request's own side, to be remembered: policies are those in force now.
    pub fn side(&self, worker: &Worker, own: &Target) -> Side {
        let entered = match own {
            Target::Listener(arrival) => Some(Box::new(Entered {
                arrival: arrival.clone(),
                policies: worker.view().policies.clone(),
            })),
            _ => None,
        };
        let called = own.destination().map(|to| (to.service.clone(), to.port.port));
        let backend = match &self.way {
            Way::To(Target::Service(to)) => Some((to.service.clone(), to.port.port, to.subset.clone())),
            _ => None,
        };
        Side::Outbound {
            entered,
            called,
            rule: self.rule.clone(),
            backend,
            tries: self.journal.take(),
        }
    }

    /// Its table, and its place there.
    pub fn ruled(&self) -> Option<(&Arc<RouteTable>, usize)> {
        self.rule.as_ref().map(|(table, index)| (table, *index))
    }

    /// The rule's backend that was drawn.
    pub fn chosen(&self) -> Option<&Backend> {
        self.rule()?.backends.get(self.backend?)
    }

    /// The target of the request.
    pub fn target<'a>(&'a self, own: &'a Target) -> &'a Target {
        match &self.way {
            Way::To(target) => target,
            _ => own,
        }
    }

    /// How long it waits first, on purpose.
    pub fn delay(&self) -> Option<Duration> {
        self.extra.as_ref()?.delay
    }

    /// Envoy's response flags, with what was done on purpose.
    pub fn flags(&self, flags: &'static str) -> &'static str {
        match (self.delay(), flags) {
            (None, flags) => flags,
            (Some(_), "-") => "DI",
            (Some(_), "FI") => "DI,FI",
            (Some(_), flags) => flags,
        }
    }

    /// What is tried again.
    pub fn retries(&self) -> &retry::Policy {
        static OWN: LazyLock<retry::Policy> = LazyLock::new(retry::Policy::default);
        self.rule().map_or(&OWN, |rule| &rule.retries)
    }

    /// Which endpoint the request would like.
    pub fn wish(&self) -> Wish {
        self.wish
    }
}

/// The way to a backend.
fn to(view: &View, own: Option<&Destination>, backend: &Backend) -> Way {
    if own.is_some_and(|own| is_own(own, backend)) {
        return Way::Straight;
    }
    match at(view, backend) {
        Some(target) => Way::To(target),
        None => Way::Refuse(Failure::NoBackend),
    }
}

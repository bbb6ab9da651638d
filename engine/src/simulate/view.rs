//! Rates, gathered for people and programs.
//!
//! In: sums. Out: who serves, at what load, over which links, what is refused. Never: a judgement; bounds are the asker's.

use serde::Serialize;
use std::sync::Arc;
use weft_proto::model::ServiceName;

/// A region and zone.
pub type Place = (Arc<str>, Arc<str>);

/// What would happen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Nothing is wrong yet.
    pub before: View,
    /// The first ten seconds, in which only the sidecars notice.
    pub at_once: View,
    /// When readiness tells everybody, and everything is as it will stay.
    pub settled: View,
}

/// Rates, in requests per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct View {
    /// Services that are called.
    pub services: Vec<ServiceView>,
    /// Between places.
    pub links: Vec<Link>,
    /// What nobody serves, or is answered with an error.
    pub refused: Vec<Refused>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceView {
    /// Which one.
    pub name: ServiceName,
    /// Requests of callers.
    pub asked: f64,
    /// Of these, those that fail.
    pub refused: f64,
    /// Median of how long an answer takes, in milliseconds, as far as it is known.
    pub p50_ms: f64,
    /// 99th percentile of it.
    pub p99_ms: f64,
    /// Its endpoints by place, by region and zone.
    pub groups: Vec<Group>,
}

/// The endpoints of a Service in one zone.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Group {
    /// Region; empty: unknown.
    pub region: Arc<str>,
    /// Zone; empty: unknown.
    pub zone: Arc<str>,
    /// How many there are.
    pub endpoints: usize,
    /// Of these, those that serve.
    pub up: usize,
    /// Requests per second that reach them, retries included.
    pub rate: f64,
    /// Its part of what reaches the Service, 0 to 1.
    pub share: f64,
    /// Of the endpoint that gets most.
    pub busiest: f64,
    /// What they can serve, if it is known.
    pub capacity: Option<f64>,
    /// Rate by capacity, 1 is full; without a capacity by the busiest endpoint's rate before.
    pub load: Option<f64>,
}

/// Requests of one Service from place to place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Link {
    /// `None`: from outside the mesh.
    pub from: Option<Place>,
    /// To.
    pub to: Place,
    /// Whose.
    pub service: ServiceName,
    /// Requests per second.
    pub rate: f64,
}

/// What is not served.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refused {
    /// Who was asked.
    pub service: ServiceName,
    /// Who asked.
    pub from: Arc<str>,
    /// Why.
    pub reason: String,
    /// Requests per second.
    pub rate: f64,
}

impl Link {
    /// Whether it leads from one region to another.
    pub fn crosses_regions(&self) -> bool {
        self.from.as_ref().is_some_and(|(region, _)| *region != self.to.0)
    }

    /// Whether it leads from one zone to another.
    pub fn crosses_zones(&self) -> bool {
        self.from.as_ref().is_some_and(|from| *from != self.to)
    }
}

impl View {
    /// A Service.
    pub fn service(&self, name: &ServiceName) -> Option<&ServiceView> {
        self.services.iter().find(|service| service.name == *name)
    }

    /// Gives Services without a capacity a load: each endpoint's rate by the highest that one had before.
    pub(super) fn relate(&mut self, before: &Self) {
        for service in &mut self.services {
            let groups = before
                .service(&service.name)
                .map_or(&[][..], |known| &known.groups);
            let each = |group: &Group| group.rate / group.up.max(1) as f64;
            let most = groups.iter().map(each).fold(0.0, f64::max);
            for group in service.groups.iter_mut().filter(|group| group.capacity.is_none()) {
                group.load = (most > 0.0).then(|| each(group) / most);
            }
        }
    }
}

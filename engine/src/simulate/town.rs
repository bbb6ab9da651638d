//! What there is: pods, Services, and who calls whom how often.
//!
//! In: what the control plane tells sidecars, and the load. Out: the same, as the simulation needs it. Never: a guess at a load.

use crate::route::RouteTable;
use http::HeaderMap;
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::model::{self, Endpoints, Locality, ServiceName};

/// Everything that takes part.
#[derive(Clone, Debug, Default)]
pub struct Town {
    /// Pods, and addresses that stand for one.
    pub pods: Vec<Pod>,
    /// Services; targets name them by their place here.
    pub services: Vec<Service>,
    /// Where requests begin.
    pub loads: Vec<Load>,
    /// Requests that follow from requests.
    pub calls: Vec<Call>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Namespace and name.
    pub name: ServiceName,
    /// Where it runs.
    pub locality: Locality,
    /// Its labels, by key.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// It has a sidecar, which decides where its requests go; without one they go to any ready endpoint.
    pub meshed: bool,
    /// It takes requests.
    pub ready: bool,
}

/// A Service.
#[derive(Clone, Debug)]
pub struct Service {
    /// As callers see it.
    pub service: model::Service,
    /// Its endpoints.
    pub endpoints: Endpoints,
    /// Requests per second that each endpoint can serve; `None`: unknown.
    pub capacity: Option<f64>,
}

/// Requests per second that nobody's requests cause.
#[derive(Clone, Debug)]
pub struct Load {
    /// What people call the source.
    pub name: Arc<str>,
    /// Pods that send them, each as much, those that are down aside; empty: they come from outside the mesh, evenly to every pod that
    /// is up.
    pub from: Vec<usize>,
    /// Where to.
    pub to: Target,
    /// Requests per second.
    pub rate: f64,
}

/// Requests that each request causes.
#[derive(Clone, Debug)]
pub struct Call {
    /// What people call the source.
    pub name: Arc<str>,
    /// Pods that send them when they serve a request.
    pub from: Vec<usize>,
    /// Where to.
    pub to: Target,
    /// How many for one request, a part of one too.
    pub times: f64,
}

/// Whom a request is for.
#[derive(Clone, Debug)]
pub struct Target {
    /// Place in [`Town::services`].
    pub service: usize,
    /// The Service's port.
    pub port: u16,
    /// The routes of the Service that hold for the caller.
    pub routes: Option<Arc<RouteTable>>,
    /// What is asked.
    pub ask: Ask,
}

/// What routes look at.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The host.
    pub host: String,
    /// Header fields.
    pub headers: HeaderMap,
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            host: String::new(),
            headers: HeaderMap::new(),
        }
    }
}

impl Town {
    /// The place of a Service.
    pub fn service(&self, name: &ServiceName) -> Option<usize> {
        self.services
            .iter()
            .position(|service| service.service.name == *name)
    }

    /// Places of the pods behind a Service.
    pub fn pods_of(&self, service: usize) -> Vec<usize> {
        let addresses = |endpoint: &model::Endpoint| endpoint.addresses.clone();
        let behind: Vec<IpAddr> = self
            .services
            .get(service)
            .into_iter()
            .flat_map(|service| &service.endpoints.endpoints)
            .flat_map(addresses)
            .collect();
        (0..self.pods.len())
            .filter(|at| self.pods[*at].addresses.iter().any(|ip| behind.contains(ip)))
            .collect()
    }
}

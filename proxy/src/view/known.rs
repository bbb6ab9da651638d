//! Pods that are called by their own address.
//!
//! Enters: what the control plane says of a pod. Leaves: whom to expect at each of its ports. Never: plain text to a port that takes TLS.

use std::sync::Arc;

use arc_swap::ArcSwap;
use weft_engine::{Caller, Cluster, Plan, Settings};
use weft_proto::model::{Endpoint, Endpoints, Health, Pod, ServiceName, ServicePort, Traffic};

use super::{Destination, Direct, Usage};
use crate::clock::Clock;

/// A pod with a sidecar.
#[derive(Debug)]
pub(super) struct Known {
    pod: Pod,
    secure: Arc<Endpoint>,
    plain: Arc<Endpoint>,
    destinations: Vec<Arc<Destination>>,
    pub(super) usage: Arc<Usage>,
}

impl Known {
    /// As the control plane says; how it is used is kept from `old`.
    pub(super) fn new(pod: Pod, old: Option<&Self>, settings: &Settings, clock: Clock) -> Self {
        let usage = match old {
            Some(old) => old.usage.clone(),
            None => Arc::new(Usage::new(clock)),
        };
        let secure = Endpoint {
            workload: pod.workload.clone(),
            addresses: vec![pod.address],
            ports: Vec::new(),
            locality: pod.locality.clone(),
            health: Health::Ready,
            weight: 1,
            identity: Some(pod.identity.clone()),
            labels: Vec::new(),
            hint_zones: Vec::new(),
            hint_nodes: Vec::new(),
            hostname: "".into(),
        };
        let plain = Endpoint {
            identity: None,
            ..secure.clone()
        };
        let traffic = Arc::<Traffic>::default();
        let destinations = pod.ports.iter().map(|port| {
            let endpoints = Endpoints {
                service: port.service.clone(),
                endpoints: Vec::new(),
            };
            // Nothing is picked from it: the pod's address is chosen already.
            let cluster = Cluster::next(
                None,
                &Plan {
                    endpoints: &endpoints,
                    port: port.port,
                    subset: None,
                    traffic: &traffic,
                    caller: Caller {
                        locality: &pod.locality,
                        labels: &[],
                    },
                },
                settings,
                clock.now(),
            );
            Arc::new(Destination {
                service: port.service.clone(),
                host: port.host.clone(),
                port: ServicePort {
                    port: port.port,
                    name: "".into(),
                    protocol: port.protocol,
                },
                routes: None,
                subset: None,
                traffic: traffic.clone(),
                cluster: Arc::new(ArcSwap::from_pointee(cluster)),
            })
        });
        Self {
            destinations: destinations.collect(),
            secure: Arc::new(secure),
            plain: Arc::new(plain),
            pod,
            usage,
        }
    }

    /// Headless Services whose rules may hold for its callers.
    pub(super) fn headless(&self) -> &[ServiceName] {
        &self.pod.headless
    }

    /// Whom to expect at a port, and the Service that says what is spoken there.
    pub(super) fn at(&self, port: u16) -> Direct {
        let endpoint = match self.pod.is_plain(port) {
            true => &self.plain,
            false => &self.secure,
        };
        let destination = self
            .destinations
            .iter()
            .find(|destination| destination.port.port == port);
        Direct::new(endpoint.clone(), destination)
    }
}

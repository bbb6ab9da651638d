//! Services of the store, as rules of the fabric.
//!
//! Enters: Services and their EndpointSlices. Leaves: [`ServicePort`]s for [`Fabric::set_services`], all of them after each
//! change. Never: a wait between the change of an endpoint and its rule.

use crate::api::object::{self, list, string};
use crate::api::{Event, Store};
use crate::fabric::{Fabric, ServicePort};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use weft_netlink::nft::Protocol;

const SERVICES: &str = "services";
const SLICES: &str = "endpointslices.discovery.k8s.io";

/// Keeps the fabric's rules as the store says; never returns.
pub async fn run(store: Arc<Store>, fabric: Arc<Fabric>) {
    let mut written: Vec<ServicePort> = Vec::new();
    let mut watch = store.watch();
    loop {
        let wanted = compile(&store);
        if wanted != written {
            match fabric.set_services(&wanted) {
                Ok(()) => written = wanted,
                Err(error) => {
                    tracing::error!(%error, "the kernel refused the rules of the services; the last good ones stay")
                }
            }
        }
        loop {
            match watch.next().await {
                Ok(events) if events.iter().any(concerns) => break,
                Ok(_) => {}
                Err(_) => {
                    watch = store.watch();
                    break;
                }
            }
        }
    }
}

fn concerns(event: &Event) -> bool {
    matches!(&*event.kind, SERVICES | SLICES)
}

fn compile(store: &Store) -> Vec<ServicePort> {
    let (services, _) = store.list(SERVICES, None);
    let (slices, _) = store.list(SLICES, None);
    services
        .iter()
        .flat_map(|service| ports(service, &slices))
        .collect()
}

/// Every port of a Service at every cluster address, and at those of its load balancer.
fn ports(service: &Value, slices: &[Arc<Value>]) -> Vec<ServicePort> {
    let mine: Vec<&Arc<Value>> = slices
        .iter()
        .filter(|slice| object::namespace(slice) == object::namespace(service))
        .filter(|slice| object::label(slice, "kubernetes.io/service-name") == Some(object::name(service)))
        .collect();
    let mut found = Vec::new();
    let own = list(service, "/spec/clusterIPs").iter();
    let own = own.map(|ip| (ip.as_str(), true));
    let balancers = list(service, "/status/loadBalancer/ingress").iter();
    let all = own.chain(balancers.map(|entry| (entry["ip"].as_str(), false)));
    for (address, on_nodes) in all.filter_map(|(ip, own)| Some((ip?.parse::<IpAddr>().ok()?, own))) {
        for port in list(service, "/spec/ports") {
            let protocol = match string(port, "/protocol") {
                Some("UDP") => Protocol::Udp,
                Some("TCP") | None => Protocol::Tcp,
                Some(_) => continue,
            };
            let Some(number) = number(port, "/port") else {
                continue;
            };
            let name = string(port, "/name").unwrap_or_default();
            found.push(ServicePort {
                name: format!(
                    "{}/{}:{number}",
                    object::namespace(service),
                    object::name(service)
                ),
                address,
                protocol,
                port: number,
                node_port: self::number(port, "/nodePort").filter(|_| on_nodes),
                endpoints: mine.iter().flat_map(|slice| endpoints(slice, name)).collect(),
            });
        }
    }
    found
}

/// The ready endpoints of a slice, at the port of this name.
fn endpoints(slice: &Value, port_name: &str) -> Vec<SocketAddr> {
    let port = list(slice, "/ports")
        .iter()
        .find(|port| string(port, "/name").unwrap_or_default() == port_name)
        .and_then(|port| number(port, "/port"));
    let Some(port) = port else { return Vec::new() };
    list(slice, "/endpoints")
        .iter()
        .filter(|endpoint| {
            endpoint
                .pointer("/conditions/ready")
                .and_then(Value::as_bool)
                .unwrap_or(true)
        })
        .filter_map(|endpoint| endpoint.pointer("/addresses/0")?.as_str()?.parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, port))
        .collect()
}

fn number(value: &Value, pointer: &str) -> Option<u16> {
    object::number(value, pointer)
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ready_endpoints_of_the_named_port_at_each_address() {
        let service = json!({"metadata": {"namespace": "shop", "name": "cart"},
            "spec": {"clusterIPs": ["10.96.0.9", "fd00:10:96::9"],
                     "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "10.97.0.9"}]}}});
        let slice = |address: &str, ready: bool| {
            Arc::new(json!({"metadata": {"namespace": "shop", "name": "x",
                    "labels": {"kubernetes.io/service-name": "cart"}},
                "ports": [{"name": "http", "port": 8080}],
                "endpoints": [{"addresses": [address], "conditions": {"ready": ready}}]}))
        };
        let slices = [
            slice("10.244.1.2", true),
            slice("10.244.1.3", false),
            slice("fd00:10:244:1::2", true),
        ];
        let ports = ports(&service, &slices);
        assert_eq!(ports.len(), 6);
        assert_eq!(
            (&ports[4].endpoints, ports[4].node_port),
            (&ports[0].endpoints, None)
        );
        assert_eq!(
            ports[0].endpoints,
            [
                "10.244.1.2:8080".parse().unwrap(),
                "[fd00:10:244:1::2]:8080".parse().unwrap()
            ]
        );
        assert_eq!(ports[0].node_port, Some(30080));
        assert!(ports[1].endpoints.is_empty() && ports[1].protocol == Protocol::Udp);
        assert_eq!(ports[2].address, "fd00:10:96::9".parse::<IpAddr>().unwrap());
    }
}

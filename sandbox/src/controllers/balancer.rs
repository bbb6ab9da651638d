//! Load balancers: what a cloud gives to Services of type LoadBalancer.
//!
//! In: Services. Out: an address in their status, which every pod reaches. Never: an address that two Services have: it follows from the
//! Service's own cluster address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::{Api, object};

const SERVICES: &str = "services";

/// Where the addresses lie.
pub const NETWORKS: [&str; 2] = ["10.97.0.0/16", "fd00:10:97::/112"];

/// Keeps the status of all Services true, for ever.
pub async fn run(api: Arc<Api>) {
    let mut watch = api.store.watch();
    loop {
        for service in api.store.list(SERVICES, None).0 {
            settle(&api, &service);
        }
        loop {
            match watch.next().await {
                Ok(events) if events.iter().any(|event| &*event.kind == SERVICES) => break,
                Ok(_) => {}
                Err(_) => {
                    watch = api.store.watch();
                    break;
                }
            }
        }
    }
}

fn settle(api: &Api, service: &Value) {
    let wanted: Vec<Value> = addresses(service)
        .into_iter()
        .map(|ip| json!({ "ip": ip.to_string(), "ipMode": "VIP" }))
        .collect();
    if object::list(service, "/status/loadBalancer/ingress") == wanted.as_slice() {
        return;
    }
    let (namespace, name) = (object::namespace(service), object::name(service));
    let written = api.set_status(SERVICES, namespace, name, |service| {
        service["status"]["loadBalancer"] = match wanted.is_empty() {
            true => json!({}),
            false => json!({ "ingress": wanted }),
        };
    });
    if let Err(error) = written {
        tracing::debug!("Service {namespace}/{name}: {error}");
    }
}

/// The addresses of a Service's load balancer; none: it asks for none.
fn addresses(service: &Value) -> Vec<IpAddr> {
    if object::string(service, "/spec/type") != Some("LoadBalancer") {
        return Vec::new();
    }
    let own = object::list(service, "/spec/clusterIPs").iter();
    own.filter_map(|ip| Some(beside(ip.as_str()?.parse().ok()?)))
        .collect()
}

/// The address in the balancers' network for one in the Services' network.
fn beside(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let [_, _, high, low] = address.octets();
            Ipv4Addr::new(10, 97, high, low).into()
        }
        IpAddr::V6(address) => {
            let host = address.segments()[7];
            Ipv6Addr::new(0xfd00, 0x10, 0x97, 0, 0, 0, 0, host).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balancer_has_the_address_beside_its_service() {
        let service =
            |kind: &str| json!({"spec": {"type": kind, "clusterIPs": ["10.96.1.2", "fd00:10:96::102"]}});
        let text = |kind: &str| {
            addresses(&service(kind))
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(text("LoadBalancer"), ["10.97.1.2", "fd00:10:97::102"]);
        assert_eq!(text("NodePort"), [""; 0]);
    }
}

//! Addresses and node ports for Services.
//!
//! In: a Service before and after a write. Out: the Service with its addresses. Never: a change to the addresses of a
//! Service that has some already.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::allocate::Allocator;
use super::object;

/// What a Service holds.
fn held(service: &Value) -> (Vec<IpAddr>, Vec<u16>) {
    let addresses = object::list(service, "/spec/clusterIPs")
        .iter()
        .filter_map(|a| a.as_str()?.parse().ok())
        .collect();
    let ports = object::list(service, "/spec/ports")
        .iter()
        .filter_map(|p| u16::try_from(p["nodePort"].as_u64()?).ok())
        .collect();
    (addresses, ports)
}

/// Gives back what a deleted Service held.
pub fn release(service: &Value, all: &mut Allocator) {
    let (addresses, ports) = held(service);
    all.release(&addresses, &ports);
}

/// Gives a new or changed Service its addresses and node ports. On an error nothing stays taken.
///
/// # Errors
/// The field and what is wrong with it.
pub fn allocate(
    service: &mut Value,
    before: Option<&Value>,
    all: &mut Allocator,
) -> Result<(), (String, String)> {
    let (had_addresses, had_ports) = before.map(held).unwrap_or_default();
    let mut got = (Vec::new(), Vec::new());
    let result = fill(service, &had_addresses, &had_ports, all, &mut got);
    if result.is_err() {
        all.release(&got.0, &got.1);
        return result;
    }
    let (addresses, ports) = held(service);
    let gone: Vec<IpAddr> = had_addresses
        .into_iter()
        .filter(|a| !addresses.contains(a))
        .collect();
    let closed: Vec<u16> = had_ports.into_iter().filter(|p| !ports.contains(p)).collect();
    all.release(&gone, &closed);
    Ok(())
}

fn fill(
    service: &mut Value,
    had_addresses: &[IpAddr],
    had_ports: &[u16],
    all: &mut Allocator,
    got: &mut (Vec<IpAddr>, Vec<u16>),
) -> Result<(), (String, String)> {
    let kind = object::string(service, "/spec/type")
        .unwrap_or("ClusterIP")
        .to_owned();
    let Some(spec) = service["spec"].as_object_mut() else {
        return Ok(());
    };
    if kind == "ExternalName" {
        spec.retain(|k, _| {
            !matches!(
                k.as_str(),
                "clusterIP" | "clusterIPs" | "ipFamilies" | "ipFamilyPolicy"
            )
        });
        return Ok(());
    }
    let families: Vec<String> = spec
        .get("ipFamilies")
        .and_then(Value::as_array)
        .map(|l| l.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    let single = spec.get("ipFamilyPolicy").is_some_and(|p| p == "SingleStack");
    let mut families = if families.is_empty() {
        vec!["IPv4".to_owned()]
    } else {
        families
    };
    if !single && families.len() == 1 {
        families.push(if families[0] == "IPv4" { "IPv6" } else { "IPv4" }.to_owned());
    }
    if spec.get("clusterIP").is_some_and(|a| a == "None") {
        if kind != "ClusterIP" {
            return Err((
                "spec.clusterIP".into(),
                format!("may not be None with type {kind}"),
            ));
        }
        spec.insert("clusterIPs".into(), json!(["None"]));
    } else {
        let mut wanted: Vec<String> = spec
            .get("clusterIPs")
            .and_then(Value::as_array)
            .map(|l| l.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default();
        if wanted.is_empty()
            && let Some(one) = spec
                .get("clusterIP")
                .and_then(Value::as_str)
                .filter(|a| !a.is_empty())
        {
            wanted.push(one.to_owned());
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for text in &wanted {
            let bad = |why: String| ("spec.clusterIPs".to_owned(), why);
            let address: IpAddr = text
                .parse()
                .map_err(|_| bad(format!("{text:?} is not an IP address")))?;
            if !had_addresses.contains(&address) {
                all.take_address(address).map_err(bad)?;
                got.0.push(address);
            }
            addresses.push(address);
        }
        if wanted.is_empty() {
            addresses.extend(had_addresses);
        }
        for family in &families {
            let ipv6 = family == "IPv6";
            if !addresses.iter().any(|a| a.is_ipv6() == ipv6) {
                let address = all
                    .address(ipv6)
                    .map_err(|why| ("spec.clusterIP".to_owned(), why))?;
                got.0.push(address);
                addresses.push(address);
            }
        }
        if wanted.is_empty() || had_addresses.is_empty() {
            addresses.sort_by_key(|a| families.iter().position(|f| (f == "IPv6") == a.is_ipv6()));
        }
        families = addresses
            .iter()
            .map(|a| if a.is_ipv6() { "IPv6" } else { "IPv4" }.to_owned())
            .collect();
        let text: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        spec.insert("clusterIP".into(), json!(text.first()));
        spec.insert("clusterIPs".into(), json!(text));
    }
    let policy = if families.len() == 1 {
        "SingleStack"
    } else {
        "PreferDualStack"
    };
    if spec.get("ipFamilyPolicy").is_none_or(Value::is_null) {
        spec.insert("ipFamilyPolicy".into(), policy.into());
    }
    spec.insert("ipFamilies".into(), json!(families));
    let node_ports = kind == "NodePort" || kind == "LoadBalancer";
    let ports = spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten();
    for (index, port) in ports.filter_map(Value::as_object_mut).enumerate() {
        let field = || format!("spec.ports[{index}].nodePort");
        match port.get("nodePort").and_then(Value::as_u64).filter(|p| *p != 0) {
            _ if !node_ports => {
                port.remove("nodePort");
            }
            Some(asked) => {
                let asked = u16::try_from(asked).map_err(|_| (field(), "is not a port".to_owned()))?;
                if !had_ports.contains(&asked) {
                    all.take_port(asked).map_err(|why| (field(), why))?;
                    got.1.push(asked);
                }
            }
            None => {
                let free = all.port().map_err(|why| (field(), why))?;
                got.1.push(free);
                port.insert("nodePort".into(), free.into());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_and_stable() {
        let mut all = Allocator::default();
        let mut service = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        allocate(&mut service, None, &mut all).unwrap();
        assert_eq!(service["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
        assert_eq!(service["spec"]["clusterIPs"].as_array().map(Vec::len), Some(2));
        let port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
        // A client that sends the Service without addresses keeps them.
        let mut update = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}});
        allocate(&mut update, Some(&service), &mut all).unwrap();
        assert_eq!(update["spec"]["clusterIPs"], service["spec"]["clusterIPs"]);
    }

    #[test]
    fn headless_and_fixed() {
        let mut all = Allocator::default();
        let mut headless = json!({"spec": {"clusterIP": "None"}});
        allocate(&mut headless, None, &mut all).unwrap();
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
        let mut fixed = json!({"spec": {"clusterIP": "10.96.0.10"}});
        allocate(&mut fixed, None, &mut all).unwrap();
        assert_eq!(fixed["spec"]["clusterIP"], "10.96.0.10");
        let mut again = json!({"spec": {"clusterIP": "10.96.0.10"}});
        assert!(allocate(&mut again, None, &mut all).is_err());
        let mut external = json!({"spec": {"type": "ExternalName", "externalName": "a.b"}});
        allocate(&mut external, Some(&fixed), &mut all).unwrap();
        assert!(
            allocate(&mut again, None, &mut all).is_ok(),
            "the address was given back"
        );
    }
}

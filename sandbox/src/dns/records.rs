//! Which records a name has (Kubernetes DNS specification 1.1.0).
//!
//! Enters: a question. Leaves: answers from the store. Never: I/O.

use super::CLUSTER_DOMAIN;
use crate::api::Store;
use crate::api::object::{self, list, string};
use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use serde_json::Value;
use std::net::IpAddr;
use std::str::FromStr as _;
use std::sync::Arc;

/// Seconds that an answer may be kept, as CoreDNS has it by default for the cluster.
const TTL: u32 = 5;

/// What is known of a name.
#[derive(Debug)]
pub(super) struct Found {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
}

/// Most names on the way from an alias to addresses.
const MOST_ALIASES: usize = 8;

/// Answers a question; of an alias of the cluster's own also what it leads to, because resolvers of libc don't ask again.
pub(super) fn find(store: &Store, question: &Query) -> Found {
    let mut found = direct(store, question);
    for _ in 0..MOST_ALIASES {
        let Some(RData::CNAME(target)) = found.answers.last().map(|record| &record.data) else {
            break;
        };
        if question.query_type() == RecordType::CNAME || question.query_type() == RecordType::ANY {
            break;
        }
        let next = direct(store, &Query::query(target.0.clone(), question.query_type()));
        if next.answers.is_empty() {
            break;
        }
        found.answers.extend(next.answers);
    }
    found
}

/// Answers a question. A name that exists without records of the asked type gets an empty answer; one that
/// doesn't exist, NXDOMAIN. Names outside the cluster are refused.
fn direct(store: &Store, question: &Query) -> Found {
    let text = question.name().to_lowercase().to_ascii();
    let labels: Vec<&str> = text.trim_end_matches('.').split('.').collect();
    if question.query_class() != DNSClass::IN {
        return nothing(ResponseCode::NotImp);
    }
    if text.ends_with(".arpa.") {
        return found(question, pointer(store, &labels));
    }
    let Some(inside) = text.trim_end_matches('.').strip_suffix(CLUSTER_DOMAIN) else {
        return nothing(ResponseCode::NXDomain);
    };
    let inside: Vec<&str> = inside
        .trim_end_matches('.')
        .split('.')
        .filter(|label| !label.is_empty())
        .collect();
    let records = match inside.as_slice() {
        [] | ["svc"] | ["pod"] => Some(Vec::new()),
        [namespace, "svc"] => store.get("namespaces", "", namespace).map(|_| Vec::new()),
        [service, namespace, "svc"] => with_service(store, namespace, service, |service| {
            addresses(store, service, None)
        }),
        [host, service, namespace, "svc"] if !host.starts_with('_') => {
            with_service(store, namespace, service, |service| {
                addresses(store, service, Some(host))
            })
        }
        [port, protocol, service, namespace, "svc"] if port.starts_with('_') && protocol.starts_with('_') => {
            with_service(store, namespace, service, |service| {
                srv(store, service, &port[1..], &protocol[1..])
            })
        }
        [address, namespace, "pod"] => pod(store, namespace, address),
        _ => None,
    };
    found(question, records)
}

fn nothing(code: ResponseCode) -> Found {
    Found {
        code,
        answers: Vec::new(),
        authorities: Vec::new(),
    }
}

/// `None`: there is no such name.
fn found(question: &Query, records: Option<Vec<RData>>) -> Found {
    let exists = records.is_some();
    let wanted = |data: &RData| match question.query_type() {
        RecordType::ANY => true,
        kind => data.record_type() == kind || data.record_type() == RecordType::CNAME,
    };
    let answers: Vec<Record> = records
        .unwrap_or_default()
        .into_iter()
        .filter(wanted)
        .map(|data| Record::from_rdata(question.name().clone(), TTL, data))
        .collect();
    let code = if exists {
        ResponseCode::NoError
    } else {
        ResponseCode::NXDomain
    };
    // RFC 2308: the SOA says how long the absence may be remembered.
    let authorities = if answers.is_empty() {
        soa().into_iter().collect()
    } else {
        Vec::new()
    };
    Found {
        code,
        answers,
        authorities,
    }
}

fn soa() -> Option<Record> {
    let zone = Name::from_str(&format!("{CLUSTER_DOMAIN}.")).ok()?;
    let server = Name::from_str(&format!("ns.dns.{CLUSTER_DOMAIN}.")).ok()?;
    let mailbox = Name::from_str(&format!("hostmaster.{CLUSTER_DOMAIN}.")).ok()?;
    Some(Record::from_rdata(
        zone,
        TTL,
        RData::SOA(SOA::new(server, mailbox, 1, 7200, 1800, 86400, TTL)),
    ))
}

fn with_service(
    store: &Store,
    namespace: &str,
    name: &str,
    records: impl Fn(&Value) -> Option<Vec<RData>>,
) -> Option<Vec<RData>> {
    records(&*store.get("services", namespace, name)?)
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(four) => RData::A(A(four)),
        IpAddr::V6(six) => RData::AAAA(AAAA(six)),
    }
}

fn ips<'a>(values: &'a [Value]) -> impl Iterator<Item = IpAddr> + 'a {
    values.iter().filter_map(|value| value.as_str()?.parse().ok())
}

/// Cluster addresses, or the pods' of a headless Service; with a host name only those of that pod.
fn addresses(store: &Store, service: &Value, host: Option<&str>) -> Option<Vec<RData>> {
    if let Some(target) = string(service, "/spec/externalName") {
        let mut target = Name::from_str(target).ok()?;
        target.set_fqdn(true);
        return host.is_none().then(|| vec![RData::CNAME(CNAME(target))]);
    }
    let cluster: Vec<RData> = ips(list(service, "/spec/clusterIPs")).map(address).collect();
    if !cluster.is_empty() {
        return host.is_none().then_some(cluster);
    }
    let pods: Vec<RData> = endpoints(store, service)
        .filter(|(_, endpoint)| host.is_none_or(|host| host_name(endpoint).is_some_and(|name| name == host)))
        .flat_map(|(_, endpoint)| {
            ips(list(&endpoint, "/addresses"))
                .map(address)
                .collect::<Vec<_>>()
        })
        .collect();
    (host.is_none() || !pods.is_empty()).then_some(pods)
}

/// The endpoint's own host name, else its address with dashes, as CoreDNS has it.
fn host_name(endpoint: &Value) -> Option<String> {
    let given = string(endpoint, "/hostname").map(str::to_owned);
    given.or_else(|| Some(string(endpoint, "/addresses/0")?.replace(['.', ':'], "-")))
}

/// The ready endpoints of a Service with the slice that each is in.
fn endpoints(store: &Store, service: &Value) -> impl Iterator<Item = (Arc<Value>, Value)> {
    let (slices, _) = store.list(
        "endpointslices.discovery.k8s.io",
        Some(object::namespace(service)),
    );
    let name = object::name(service).to_owned();
    let unready_too = service
        .pointer("/spec/publishNotReadyAddresses")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    slices
        .into_iter()
        .filter(move |slice| object::label(slice, "kubernetes.io/service-name") == Some(&name))
        .flat_map(move |slice| {
            let ready = |endpoint: &&Value| {
                unready_too
                    || endpoint
                        .pointer("/conditions/ready")
                        .and_then(Value::as_bool)
                        .unwrap_or(true)
            };
            let ready: Vec<Value> = list(&slice, "/endpoints").iter().filter(ready).cloned().collect();
            ready.into_iter().map(move |endpoint| (slice.clone(), endpoint))
        })
}

/// `_http._tcp.cart.shop.svc`: port and target of each address.
fn srv(store: &Store, service: &Value, port: &str, protocol: &str) -> Option<Vec<RData>> {
    let declared = list(service, "/spec/ports").iter().find(|declared| {
        string(declared, "/name") == Some(port)
            && string(declared, "/protocol")
                .unwrap_or("TCP")
                .eq_ignore_ascii_case(protocol)
    })?;
    let base = format!(
        "{}.{}.svc.{CLUSTER_DOMAIN}.",
        object::name(service),
        object::namespace(service)
    );
    if !list(service, "/spec/clusterIPs").is_empty()
        && ips(list(service, "/spec/clusterIPs")).next().is_some()
    {
        let port = u16::try_from(object::number(declared, "/port")?).ok()?;
        return Some(vec![RData::SRV(SRV::new(
            0,
            100,
            port,
            Name::from_str(&base).ok()?,
        ))]);
    }
    let records = endpoints(store, service).filter_map(|(slice, endpoint)| {
        let port = list(&slice, "/ports")
            .iter()
            .find(|p| string(p, "/name") == Some(port))?;
        let port = u16::try_from(object::number(port, "/port")?).ok()?;
        let target = Name::from_str(&format!("{}.{base}", host_name(&endpoint)?)).ok()?;
        Some(RData::SRV(SRV::new(0, 100, port, target)))
    });
    Some(records.collect())
}

/// `10-244-1-2.shop.pod`: the address itself, if such a pod is there.
fn pod(store: &Store, namespace: &str, dashed: &str) -> Option<Vec<RData>> {
    let ip: IpAddr = dashed
        .replace('-', ".")
        .parse()
        .or_else(|_| dashed.replace('-', ":").parse())
        .ok()?;
    let (pods, _) = store.list("pods", Some(namespace));
    let there = pods.iter().any(|pod| {
        list(pod, "/status/podIPs")
            .iter()
            .any(|entry| string(entry, "/ip").and_then(|text| text.parse().ok()) == Some(ip))
    });
    there.then(|| vec![address(ip)])
}

/// Names of cluster addresses and of the pods of headless Services.
fn pointer(store: &Store, labels: &[&str]) -> Option<Vec<RData>> {
    let ip: IpAddr = match labels {
        [d, c, b, a, "in-addr", "arpa"] => format!("{a}.{b}.{c}.{d}").parse().ok()?,
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let digits: Vec<&str> = nibbles.iter().rev().copied().collect();
            digits
                .chunks(4)
                .map(<[&str]>::concat)
                .collect::<Vec<_>>()
                .join(":")
                .parse()
                .ok()?
        }
        _ => return None,
    };
    let (services, _) = store.list("services", None);
    let name = services.iter().find_map(|service| {
        let base = format!(
            "{}.{}.svc.{CLUSTER_DOMAIN}.",
            object::name(service),
            object::namespace(service)
        );
        if ips(list(service, "/spec/clusterIPs")).any(|own| own == ip) {
            return Some(base);
        }
        let (_, endpoint) = endpoints(store, service)
            .find(|(_, endpoint)| ips(list(endpoint, "/addresses")).any(|own| own == ip))?;
        Some(format!("{}.{base}", host_name(&endpoint)?))
    })?;
    Some(vec![RData::PTR(PTR(Name::from_str(&name).ok()?))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn store() -> Store {
        let store = Store::default();
        let add = |kind: &str, object: Value| drop(store.create(kind, object).unwrap());
        add("namespaces", json!({"metadata": {"name": "shop"}}));
        add(
            "services",
            json!({"metadata": {"namespace": "shop", "name": "cart"},
            "spec": {"clusterIPs": ["10.96.0.9", "fd00:10:96::9"], "ports": [{"name": "http", "port": 80}]}}),
        );
        add(
            "services",
            json!({"metadata": {"namespace": "shop", "name": "db"},
            "spec": {"clusterIPs": ["None"], "ports": [{"name": "sql", "port": 5432}]}}),
        );
        add(
            "services",
            json!({"metadata": {"namespace": "shop", "name": "out"},
            "spec": {"externalName": "example.org"}}),
        );
        add(
            "services",
            json!({"metadata": {"namespace": "shop", "name": "alias"},
            "spec": {"externalName": "cart.shop.svc.cluster.local"}}),
        );
        add(
            "services",
            json!({"metadata": {"namespace": "shop", "name": "loop"},
            "spec": {"externalName": "loop.shop.svc.cluster.local"}}),
        );
        add(
            "endpointslices.discovery.k8s.io",
            json!({"metadata": {"namespace": "shop", "name": "db-1",
                "labels": {"kubernetes.io/service-name": "db"}},
            "ports": [{"name": "sql", "port": 5432}],
            "endpoints": [{"addresses": ["10.244.1.2"], "hostname": "db-0"},
                          {"addresses": ["10.244.1.3"], "conditions": {"ready": false}}]}),
        );
        store
    }

    fn ask(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let found = find(&store(), &Query::query(Name::from_str(name).unwrap(), kind));
        (
            found.code,
            found
                .answers
                .iter()
                .map(|record| record.data.to_string())
                .collect(),
        )
    }

    #[test]
    fn names_of_the_specification() {
        let ok = |answers: &[&str]| {
            (
                ResponseCode::NoError,
                answers.iter().map(ToString::to_string).collect::<Vec<_>>(),
            )
        };
        for (name, kind, expected) in [
            ("cart.shop.svc.cluster.local.", RecordType::A, ok(&["10.96.0.9"])),
            (
                "CART.shop.svc.Cluster.Local.",
                RecordType::AAAA,
                ok(&["fd00:10:96::9"]),
            ),
            ("cart.shop.svc.cluster.local.", RecordType::TXT, ok(&[])),
            ("shop.svc.cluster.local.", RecordType::A, ok(&[])),
            (
                "nope.shop.svc.cluster.local.",
                RecordType::A,
                (ResponseCode::NXDomain, vec![]),
            ),
            (
                "cart.shop.cluster.local.",
                RecordType::A,
                (ResponseCode::NXDomain, vec![]),
            ),
            ("example.org.", RecordType::A, (ResponseCode::NXDomain, vec![])),
            ("db.shop.svc.cluster.local.", RecordType::A, ok(&["10.244.1.2"])),
            (
                "db-0.db.shop.svc.cluster.local.",
                RecordType::A,
                ok(&["10.244.1.2"]),
            ),
            (
                "db-1.db.shop.svc.cluster.local.",
                RecordType::A,
                (ResponseCode::NXDomain, vec![]),
            ),
            (
                "out.shop.svc.cluster.local.",
                RecordType::A,
                ok(&["example.org."]),
            ),
            (
                "alias.shop.svc.cluster.local.",
                RecordType::A,
                ok(&["cart.shop.svc.cluster.local.", "10.96.0.9"]),
            ),
            (
                "alias.shop.svc.cluster.local.",
                RecordType::CNAME,
                ok(&["cart.shop.svc.cluster.local."]),
            ),
            (
                "loop.shop.svc.cluster.local.",
                RecordType::A,
                ok(&["loop.shop.svc.cluster.local."; MOST_ALIASES + 1]),
            ),
            (
                "_http._tcp.cart.shop.svc.cluster.local.",
                RecordType::SRV,
                ok(&["0 100 80 cart.shop.svc.cluster.local."]),
            ),
            (
                "_sql._tcp.db.shop.svc.cluster.local.",
                RecordType::SRV,
                ok(&["0 100 5432 db-0.db.shop.svc.cluster.local."]),
            ),
            (
                "9.0.96.10.in-addr.arpa.",
                RecordType::PTR,
                ok(&["cart.shop.svc.cluster.local."]),
            ),
            (
                "2.1.244.10.in-addr.arpa.",
                RecordType::PTR,
                ok(&["db-0.db.shop.svc.cluster.local."]),
            ),
        ] {
            assert_eq!(ask(name, kind), expected, "{name} {kind}");
        }
    }
}

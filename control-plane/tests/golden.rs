//! Manifests in, resources and findings out, compared with what is kept beside them.
//!
//! `tests/golden/<case>/in/` is read as a folder, translated for the pod of `scope.json` and compared with `out.json`.
//! `UPDATE=1 cargo test -p weft-control-plane --test golden` writes `out.json` anew; look at the difference before it
//! lands.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weft_control_plane::ingest::files;
use weft_control_plane::mesh::{Change, Diagnostic, Mesh, Settings, Store};
use weft_control_plane::translate::{self, Items, Scope, Shared};
use weft_proto::model::{
    Backend, ConnectionRule, Endpoint, HeaderChanges, HostPattern, Inbound, Listener, Operation, Origin,
    PeerAuthentication, Policy, RouteRule, Routes, Source, StringMatch, Traffic, TrustDomain, VirtualHost,
};
use weft_proto::resource::{Kind, Resource};

const CASES: [&str; 9] = [
    "bad",
    "connections",
    "filters",
    "gateway",
    "policies",
    "routes",
    "shop",
    "traffic",
    "virtual-services",
];

fn folder(case: &str) -> PathBuf {
    Path::new("tests/golden").join(case)
}

fn scope(case: &str) -> Scope {
    let scope: BTreeMap<String, Arc<str>> =
        serde_json::from_slice(&std::fs::read(folder(case).join("scope.json")).unwrap()).unwrap();
    Scope {
        namespace: scope["namespace"].clone(),
        service_account: scope["serviceAccount"].clone(),
        pod: scope["pod"].clone(),
        pod_uid: scope["uid"].clone(),
    }
}

fn store() -> Store {
    Store::new(Settings::new(TrustDomain::new("cluster.local").unwrap())).0
}

fn load(case: &str) -> (Vec<files::Object>, Vec<Diagnostic>) {
    files::load(&[folder(case).join("in")])
}

fn mesh(changes: impl IntoIterator<Item = Change>) -> Arc<Mesh> {
    let mut store = store();
    store.apply(changes);
    Arc::new(store.mesh().clone())
}

#[test]
fn resources_and_findings_are_as_kept() {
    let update = std::env::var_os("UPDATE").is_some();
    for case in CASES {
        let (objects, mut findings) = load(case);
        let mesh = mesh(files::changes(&objects));
        let shared = Shared::new(mesh.clone());
        findings.extend(shared.findings().iter().cloned());
        findings.sort();
        let resources = translate::resources(&mesh, &scope(case));
        let shown: Vec<Value> = resources.iter().map(show).collect();
        let findings: Vec<Value> = findings
            .iter()
            .map(|found| json!(format!("{:?}: {found}", found.severity)))
            .collect();
        let text = format!("{:#}\n", json!({"resources": shown, "findings": findings}));
        let path = folder(case).join("out.json");
        if update {
            std::fs::write(&path, &text).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(
            kept == text,
            "{case}: not as kept; see UPDATE=1 in tests/golden.rs. Now it is:\n{text}"
        );
    }
}

#[test]
fn a_sidecar_accepts_what_is_translated() {
    for case in CASES {
        let mesh = mesh(files::changes(&load(case).0));
        for resource in translate::resources(&mesh, &scope(case)) {
            let read = Resource::decode(resource.kind(), resource.encode());
            assert_eq!(read.as_ref(), Ok(&resource), "{case}: {}", resource.name());
        }
    }
}

#[test]
fn there_is_nothing_to_say_about_the_packaged_scenarios() {
    let (objects, findings) = files::load(&[PathBuf::from("../demo")]);
    assert_eq!(findings, []);
    assert!(!objects.is_empty());
    let found = translate::findings(&mesh(files::changes(&objects)));
    assert!(
        found.is_empty(),
        "{}",
        found.iter().map(|one| format!("{one}\n")).collect::<String>()
    );
}

/// Every resource as text, through the path that the control plane takes.
fn served(shared: &Shared, scope: &Scope) -> Vec<Resource> {
    let scoped = shared.scoped(scope);
    let nothing = Items::default();
    let mut all = Vec::new();
    for kind in Kind::ALL {
        let own = scoped.as_ref().map(|scoped| match kind {
            Kind::Inbound => &scoped.inbound,
            Kind::Policy => &scoped.policies,
            Kind::Service => &scoped.services,
            Kind::Gateway => scoped.gateway.as_ref().unwrap_or(&nothing),
            Kind::Routes => &scoped.routes,
            Kind::TrustBundle | Kind::Names | Kind::Endpoints | Kind::Pod => &nothing,
        });
        let mut items: BTreeMap<_, _> = shared.items(kind).iter().collect();
        if let Some(own) = own {
            items.extend(own.iter());
        }
        all.extend(items.into_values().map(|item| item.resource().clone()));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_of_reading_does_not_matter(case in 0..CASES.len(), seed in any::<u64>()) {
        let case = CASES[case];
        let scope = scope(case);
        let (mut objects, _) = load(case);
        let wanted = translate::resources(&mesh(files::changes(&objects)), &scope);
        objects.sort_by_cached_key(|object| seed.rotate_left(object.origin.line % 64) ^ u64::from(object.origin.line).wrapping_mul(seed));
        prop_assert_eq!(&translate::resources(&mesh(files::changes(&objects)), &scope), &wanted);
    }

    #[test]
    fn step_by_step_is_as_all_at_once(
        case in 0..CASES.len(),
        steps in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..40),
    ) {
        let case = CASES[case];
        let scope = scope(case);
        let (objects, _) = load(case);
        let mut store = store();
        store.apply(files::changes(&objects));
        let mut shared = Shared::new(Arc::new(store.mesh().clone()));
        for (index, there) in steps {
            // An object goes, or comes (back).
            let object = index.get(&objects);
            let all = files::changes(std::slice::from_ref(object));
            let read = all.into_iter().find_map(|change| match change {
                Change::Replace { mut objects, .. } => objects.pop(),
                _ => None,
            });
            let Some(read) = read else { continue };
            store.apply([if there { Change::Put(Box::new(read)) } else { Change::Remove(read.key) }]);
            let next = shared.next(Arc::new(store.mesh().clone()));
            if next.scoped_same(&shared, &scope) {
                let of = |shared: &Shared| shared.scoped(&scope).map(|scoped| {
                    let gateway = scoped.gateway.clone().unwrap_or_default();
                    [&scoped.inbound, &scoped.policies, &scoped.routes, &scoped.services, &gateway].map(|items| {
                        items.values().map(|item| item.resource().clone()).collect::<Vec<_>>()
                    })
                });
                prop_assert_eq!(of(&next), of(&shared));
            }
            shared = next;
            let fresh = Shared::new(shared.mesh().clone());
            prop_assert_eq!(served(&shared, &scope), served(&fresh, &scope));
            prop_assert_eq!(served(&shared, &scope), translate::resources(shared.mesh(), &scope));
        }
    }
}

fn show(resource: &Resource) -> Value {
    let what = match resource {
        Resource::TrustBundle(bundle) => json!(bundle.roots.len()),
        Resource::Inbound(inbound) => show_inbound(inbound),
        Resource::Policy(policy) => show_policy(policy),
        Resource::Service(service) => without_empty(json!({
            "hostnames": service.hostnames,
            "addresses": service.addresses,
            "ports": service.ports.iter().map(|p| format!("{} {:?} {:?}", p.port, p.name, p.protocol)).collect::<Vec<_>>(),
            "origin": service.origin.to_string(),
            "traffic": service.traffic.iter().map(show_traffic).collect::<Vec<_>>(),
            "subsets": service.subsets.iter().map(|s| format!("{}: {:?}", s.name, s.labels)).collect::<Vec<_>>(),
        })),
        Resource::Names(names) => json!({
            "services": names.services().map(|named| format!("{}/{}{}", named.namespace, named.name, if named.plain { " plain" } else { "" })).collect::<Vec<_>>(),
            "addresses": names.addresses(),
            "podNetworks": names.networks().iter().map(|network| format!("{network:?}")).collect::<Vec<_>>(),
        }),
        Resource::Pod(pod) if !pod.headless.is_empty() => json!({
            "workload": pod.workload,
            "ports": pod.ports.iter().map(|p| format!("{} {} {:?}", p.port, p.service, p.protocol)).collect::<Vec<_>>(),
            "headless": pod.headless.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }),
        Resource::Pod(pod) => json!({
            "workload": pod.workload,
            "locality": pod.locality,
            "identity": pod.identity,
            "ports": pod.ports.iter().map(|p| format!("{} {} {} {:?}", p.port, p.service, p.host, p.protocol)).collect::<Vec<_>>(),
            "plain": pod.plain,
            "exceptions": pod.exceptions,
        }),
        Resource::Endpoints(endpoints) => endpoints.endpoints.iter().map(show_endpoint).collect(),
        Resource::Routes(routes) => show_routes(routes),
        Resource::Gateway(gateway) => gateway.listeners.iter().map(show_listener).collect(),
    };
    json!({"kind": format!("{:?}", resource.kind()), "name": resource.name(), "is": what})
}

/// What differs from Weft's defaults.
fn show_traffic(traffic: &Traffic) -> Value {
    fn part<T: std::fmt::Debug + Default + PartialEq>(part: &T) -> Option<String> {
        (*part != T::default()).then(|| format!("{part:?}"))
    }
    without_empty(json!({
        "origin": show_origin(&traffic.origin),
        "port": traffic.port,
        "subset": traffic.subset,
        "balance": part(&traffic.balance),
        "locality": part(&traffic.locality),
        "outliers": part(&traffic.outliers),
        "limits": part(&traffic.limits),
        "healthCheck": part(&traffic.health_check),
        "retryBudget": part(&traffic.retry_budget),
        "plain": part(&traffic.plain),
        "session": part(&traffic.session),
    }))
}

fn show_endpoint(endpoint: &Endpoint) -> Value {
    without_empty(json!({
        "workload": endpoint.workload,
        "addresses": endpoint.addresses,
        "ports": endpoint.ports.iter().map(|(port, target)| format!("{port} -> {target}")).collect::<Vec<_>>(),
        "locality": endpoint.locality,
        "health": endpoint.health,
        "weight": endpoint.weight,
        "identity": endpoint.identity,
        "labels": endpoint.labels,
        "hintZones": endpoint.hint_zones,
        "hintNodes": endpoint.hint_nodes,
        "hostname": Some(&endpoint.hostname).filter(|name| !name.is_empty()),
    }))
}

fn show_origin(origin: &Origin) -> String {
    origin.to_string()
}

fn show_auth(authentication: &PeerAuthentication) -> Value {
    json!({"mode": authentication.mode, "origin": authentication.origin.as_ref().map(show_origin)})
}

fn show_inbound(inbound: &Inbound) -> Value {
    let ports = inbound.ports.iter().map(|port| {
        json!({"port": port.port, "protocol": port.protocol, "authentication": port.authentication.as_ref().map(show_auth)})
    });
    let limits = inbound.rate_limits.iter().map(|limit| {
        without_empty(json!({
            "origin": show_origin(&limit.origin),
            "port": limit.port,
            "matches": limit.matches.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>(),
            "requests": limit.requests,
            "requestsPerIdentity": limit.requests_per_identity,
            "interval": format!("{:?}", limit.interval),
            "burst": limit.burst,
        }))
    });
    without_empty(json!({
        "workload": inbound.workload,
        "locality": inbound.locality,
        "authentication": show_auth(&inbound.authentication),
        "ports": ports.collect::<Vec<_>>(),
        "labels": inbound.labels,
        "rateLimits": limits.collect::<Vec<_>>(),
    }))
}

fn show_matches(matches: &[StringMatch]) -> Value {
    matches.iter().map(|one| json!(one)).collect()
}

fn without_empty(value: Value) -> Value {
    let Value::Object(mut map) = value else {
        return value;
    };
    map.retain(|_, value| {
        !matches!(value, Value::Null) && value.as_array().is_none_or(|list| !list.is_empty())
    });
    Value::Object(map)
}

fn show_policy(policy: &Policy) -> Value {
    let source = |source: &Source| {
        without_empty(json!({
            "principals": show_matches(&source.principals),
            "notPrincipals": show_matches(&source.not_principals),
            "namespaces": show_matches(&source.namespaces),
            "notNamespaces": show_matches(&source.not_namespaces),
            "ipBlocks": source.ip_blocks,
            "notIpBlocks": source.not_ip_blocks,
        }))
    };
    let operation = |operation: &Operation| {
        without_empty(json!({
            "ports": operation.ports,
            "notPorts": operation.not_ports,
            "methods": show_matches(&operation.methods),
            "notMethods": show_matches(&operation.not_methods),
            "paths": show_matches(&operation.paths),
            "notPaths": show_matches(&operation.not_paths),
            "hosts": show_matches(&operation.hosts),
            "notHosts": show_matches(&operation.not_hosts),
        }))
    };
    let rules = policy.rules.iter().map(|rule| {
        without_empty(json!({
            "origin": show_origin(&rule.origin),
            "from": rule.from.iter().map(source).collect::<Vec<_>>(),
            "to": rule.to.iter().map(operation).collect::<Vec<_>>(),
            "unsupported": rule.unsupported,
        }))
    });
    json!({"origin": show_origin(&policy.origin), "action": policy.action, "rules": rules.collect::<Vec<_>>()})
}

fn show_backend(backend: &Backend) -> String {
    let subset = backend
        .subset
        .as_ref()
        .map(|subset| format!(" subset {subset}"))
        .unwrap_or_default();
    let changes = |what: &str, changes: &HeaderChanges| match *changes == HeaderChanges::default() {
        true => String::new(),
        false => format!(" {what} {}", show_headers(changes)),
    };
    let invalid = backend
        .invalid
        .as_ref()
        .map(|reason| format!(" INVALID: {reason}"))
        .unwrap_or_default();
    format!(
        "{}:{} weight {}{subset}{}{}{invalid}",
        backend.service,
        backend.port,
        backend.weight,
        changes("requests", &backend.request_headers),
        changes("responses", &backend.response_headers),
    )
}

fn show_headers(changes: &HeaderChanges) -> Value {
    without_empty(json!({"set": changes.set, "add": changes.add, "remove": changes.remove}))
}

/// As it is printed, if it isn't as it is by itself.
fn unless_default<T: Default + PartialEq + std::fmt::Debug>(value: &T) -> Option<String> {
    (*value != T::default()).then(|| format!("{value:?}"))
}

fn show_connection(rule: &ConnectionRule) -> Value {
    without_empty(json!({
        "origin": show_origin(&rule.origin),
        "port": rule.port,
        "serverNames": rule.server_names,
        "destinations": rule.destinations,
        "backends": rule.backends.iter().map(show_backend).collect::<Vec<_>>(),
    }))
}

fn show_listener(listener: &Listener) -> Value {
    let host = |host: &VirtualHost| {
        let rules = host.rules.iter().map(show_route);
        let label = matches!(host.host, HostPattern::Label(_));
        let label = if label { " (one label)" } else { "" };
        json!({"host": format!("{}{label}", host.host), "rules": rules.collect::<Vec<_>>()})
    };
    without_empty(json!({
        "origin": show_origin(&listener.origin),
        "is": format!("{} {:?} {} -> {} {}", listener.name, listener.protocol, listener.port, listener.bind, listener.host),
        "certificates": listener.certificates.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>(),
        "hosts": listener.hosts.iter().map(host).collect::<Vec<_>>(),
        "connections": listener.connections.iter().map(show_connection).collect::<Vec<_>>(),
    }))
}

fn show_routes(routes: &Routes) -> Value {
    let rules: Vec<Value> = routes.rules.iter().map(show_route).collect();
    let connections: Vec<Value> = routes.connections.iter().map(show_connection).collect();
    if connections.is_empty() && routes.pods.is_empty() {
        return json!(rules);
    }
    let pods = routes.pods.iter().map(|pod| {
        json!({
            "hostname": pod.hostname,
            "rules": pod.rules.iter().map(show_route).collect::<Vec<_>>(),
            "connections": pod.connections.iter().map(show_connection).collect::<Vec<_>>(),
        })
    });
    let mut shown = json!({"rules": rules, "connections": connections});
    if !routes.pods.is_empty() {
        shown["pods"] = pods.collect();
    }
    shown
}

fn show_route(rule: &RouteRule) -> Value {
    let matches = without_empty(json!({
        "path": rule.matches.path,
        "pathIgnoresCase": rule.matches.path_ignores_case.then_some(true),
        "headers": rule.matches.headers,
        "withoutHeaders": rule.matches.without_headers,
        "query": rule.matches.query,
        "method": rule.matches.method,
        "authority": rule.matches.authority,
        "scheme": rule.matches.scheme,
    }));
    let mirrors = rule.mirrors.iter();
    let mirrors = mirrors.map(|mirror| format!("{} {}", mirror.millionths, show_backend(&mirror.backend)));
    without_empty(json!({
        "origin": show_origin(&rule.origin),
        "port": rule.port,
        "matches": matches,
        "backends": rule.backends.iter().map(show_backend).collect::<Vec<_>>(),
        "requestTimeout": rule.request_timeout.map(|bound| format!("{bound:?}")),
        "backendTimeout": rule.backend_timeout.map(|bound| format!("{bound:?}")),
        "requestHeaders": show_headers(&rule.request_headers),
        "responseHeaders": show_headers(&rule.response_headers),
        "answer": unless_default(&rule.answer),
        "rewrite": unless_default(&rule.rewrite),
        "mirrors": mirrors.collect::<Vec<_>>(),
        "cors": unless_default(&rule.cors),
        "fault": unless_default(&rule.fault),
        "retries": unless_default(&rule.retries),
        "session": unless_default(&rule.session),
    }))
}

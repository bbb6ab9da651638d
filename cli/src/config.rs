//! `weft config POD`: what a sidecar knows.
//!
//! Enters: a pod. Leaves: tables or JSON of its sidecar's own pages (port 15000, on the pod's loopback only). Never: a key, a change, what
//! the control plane thinks that the sidecar knows.

use crate::reach::{self, Door, Place, Reach};
use crate::status::{Output, columns};
use crate::target;
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use std::time::{Duration, SystemTime};
use weft_proto::model::annotations::PORT_ADMIN;

mod listeners;

/// How long the sidecar may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Show what a sidecar knows
#[derive(Args, Debug)]
#[command(after_help = "\
The sidecar is asked itself, by way of the sandbox or the API server's port-forward (the right `create` on `pods/portforward`).")]
pub struct Config {
    #[command(flatten)]
    place: Place,
    /// The pod's namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// POD, NAMESPACE/POD, deployment/NAME or NAMESPACE/deployment/NAME
    pod: String,
    /// What to show [default: everything but versions]
    #[arg(value_enum)]
    sections: Vec<Section>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// A part of what a sidecar knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// The workload itself, and who may speak plain text to it.
    Workload,
    /// What a gateway serves.
    Listeners,
    /// Services.
    Services,
    /// Endpoints of services, their place and health.
    Endpoints,
    /// Routes of services.
    Routes,
    /// Policies in force.
    Policies,
    /// The certificate.
    Certificate,
    /// Versions of all resources, and what is refused.
    Versions,
}

impl Section {
    const USUAL: [Self; 7] = [
        Self::Workload,
        Self::Listeners,
        Self::Services,
        Self::Endpoints,
        Self::Routes,
        Self::Policies,
        Self::Certificate,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Listeners => "listeners",
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::Routes => "routes",
            Self::Policies => "policies",
            Self::Certificate => "certificate",
            Self::Versions => "versions",
        }
    }
}

/// Prints it.
pub fn run(args: &Config) -> anyhow::Result<()> {
    reach::runtime()?.block_on(show(args))
}

async fn show(args: &Config) -> anyhow::Result<()> {
    let reach = args.place.reach().await?;
    let (namespace, text) = target::pod(&args.pod, &args.namespace);
    let known = Known::read(&reach, namespace, text).await?;
    let sections: &[Section] = match args.sections.as_slice() {
        [] if args.output == Output::Json => Section::value_variants(),
        [] => &Section::USUAL,
        asked => asked,
    };
    if args.output == Output::Json {
        let parts = sections
            .iter()
            .map(|section| (section.name().to_owned(), known.json(*section)));
        let parts: Map<String, Value> = parts.collect();
        println!("{}", serde_json::to_string_pretty(&parts)?);
        return Ok(());
    }
    let tables: Vec<String> = sections
        .iter()
        .map(|section| known.table(*section, SystemTime::now()))
        .filter(|table| !table.is_empty())
        .collect();
    print!("{}", tables.join("\n"));
    Ok(())
}

/// A sidecar's pages.
struct Known {
    view: Value,
    listeners: Value,
    certificate: Value,
    versions: Value,
}

impl Known {
    async fn read(reach: &Reach, namespace: &str, text: &str) -> anyhow::Result<Self> {
        let pod = reach.pod_named(namespace, text).await?;
        let door = Door {
            namespace,
            pod: &pod,
            port: PORT_ADMIN,
        };
        let view = reach.page(door, "/view", PATIENCE).await;
        let view = view.with_context(|| {
            format!("the sidecar of {namespace}/{pod} can't be asked (`weft status` lists those that run)")
        })?;
        Ok(Self {
            view,
            listeners: reach.page(door, "/listeners", PATIENCE).await.unwrap_or_default(),
            certificate: reach.page(door, "/certificates", PATIENCE).await?,
            versions: reach.page(door, "/config/versions", PATIENCE).await?,
        })
    }

    fn json(&self, section: Section) -> Value {
        match section {
            Section::Workload => self.view["inbound"].clone(),
            Section::Listeners => self.listeners["ports"].clone(),
            Section::Services => self.view["services"].clone(),
            Section::Endpoints => self.rows(endpoints),
            Section::Routes => self.rows(routes),
            Section::Policies => serde_json::json!({
                "names": names(&self.versions["versions"]["Policy"]),
                "problems": self.view["policyProblems"],
            }),
            Section::Certificate => self.certificate.clone(),
            Section::Versions => self.versions.clone(),
        }
    }

    fn rows(&self, of: fn(&Value) -> Vec<Value>) -> Value {
        list(&self.view["services"]).flat_map(of).collect()
    }

    fn table(&self, section: Section, now: SystemTime) -> String {
        let mut out = String::new();
        match section {
            Section::Workload => workload(&mut out, &self.view),
            Section::Listeners => return listeners::table(&self.listeners),
            Section::Services => services(&mut out, &self.view),
            Section::Endpoints => {
                let row = |row: &Value| {
                    vec![
                        text(&row["service"]),
                        text(&row["port"]),
                        text(&row["endpoint"]["address"]),
                        pod(&row["endpoint"]),
                        place(&row["endpoint"]),
                        tier(&row["endpoint"]),
                        health(&row["endpoint"]),
                        text(&row["endpoint"]["identity"]),
                    ]
                };
                let rows = self.rows(endpoints);
                let head = [
                    "SERVICE", "PORT", "ENDPOINT", "POD", "PLACE", "TIER", "HEALTH", "IDENTITY",
                ];
                columns(&mut out, &head, list(&rows).map(row).collect());
            }
            Section::Routes => {
                let row = |row: &Value| {
                    vec![
                        text(&row["service"]),
                        text(&row["rule"]["port"]),
                        backends(&row["rule"]),
                        text(&row["rule"]["origin"]),
                    ]
                };
                let rows = self.rows(routes);
                columns(
                    &mut out,
                    &["SERVICE", "PORT", "BACKENDS", "FROM"],
                    list(&rows).map(row).collect(),
                );
            }
            Section::Policies => {
                let names = names(&self.versions["versions"]["Policy"]);
                columns(
                    &mut out,
                    &["POLICY"],
                    names.into_iter().map(|name| vec![name]).collect(),
                );
                for problem in list(&self.view["policyProblems"]) {
                    out.push_str(&format!("problem: {}\n", text(problem)));
                }
            }
            Section::Certificate => certificate(&mut out, &self.certificate, now),
            Section::Versions => versions(&mut out, &self.versions),
        }
        out
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A value as people read it.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn names(versions: &Value) -> Vec<String> {
    let names = versions.as_object().into_iter().flat_map(Map::keys);
    names.cloned().collect()
}

/// An endpoint's pod; an address that is no pod's has none.
fn pod(endpoint: &Value) -> String {
    match text(&endpoint["pod"]) {
        none if none == "/" => "-".to_owned(),
        pod => pod,
    }
}

/// Every endpoint of a service, once a port.
fn endpoints(service: &Value) -> Vec<Value> {
    let of_port = |port: &Value| -> Vec<Value> {
        let row = |endpoint: &Value| serde_json::json!({"service": service["name"], "port": number(port), "endpoint": endpoint});
        list(&port["endpoints"]).map(row).collect()
    };
    list(&service["ports"]).flat_map(of_port).collect()
}

/// A port; of a subset, `80 (v1)`.
fn number(port: &Value) -> Value {
    match port["subset"].as_str() {
        Some(subset) => format!("{} ({subset})", text(&port["port"])).into(),
        None => port["port"].clone(),
    }
}

/// Which endpoints it stands with: none, if it isn't for this caller.
fn tier(endpoint: &Value) -> String {
    endpoint["tier"].as_str().unwrap_or("-").to_owned()
}

fn routes(service: &Value) -> Vec<Value> {
    let row = |rule: &Value| serde_json::json!({"service": service["name"], "rule": rule});
    list(&service["routes"]).map(row).collect()
}

fn place(endpoint: &Value) -> String {
    match (endpoint["region"].as_str(), endpoint["zone"].as_str()) {
        (None | Some(""), None | Some("")) => "-".to_owned(),
        (region, zone) => format!("{}/{}", region.unwrap_or_default(), zone.unwrap_or_default()),
    }
}

/// What the control plane says of it, and what the sidecar has seen itself.
fn health(endpoint: &Value) -> String {
    let said = text(&endpoint["health"]);
    match &endpoint["live"]["ejected"] {
        Value::Null => said,
        why => format!("{said}, ejected: {}", text(why)),
    }
}

fn backends(rule: &Value) -> String {
    let one = |backend: &Value| {
        let name = format!("{}:{}", text(&backend["service"]), text(&backend["port"]));
        let weight = backend["weight"].as_u64().filter(|weight| *weight != 1);
        let weight = weight.map(|weight| format!(" x{weight}")).unwrap_or_default();
        let invalid = match &backend["invalid"] {
            Value::Null | Value::Bool(false) => String::new(),
            why => format!(" ({})", text(why)),
        };
        format!("{name}{weight}{invalid}")
    };
    match list(&rule["backends"]).map(one).collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "-".to_owned(),
        some => some,
    }
}

fn workload(out: &mut String, view: &Value) {
    let inbound = &view["inbound"];
    if inbound.is_null() {
        out.push_str("the sidecar doesn't know its own workload yet: nothing is let in\n");
        return;
    }
    let workload = &inbound["workload"];
    let rows = vec![vec![
        text(&workload["namespace"]),
        text(&workload["name"]),
        place(&inbound["locality"]),
        text(&view["stage"]),
        text(&inbound["mtls"]),
        text(&inbound["by"]),
    ]];
    columns(
        out,
        &["NAMESPACE", "WORKLOAD", "PLACE", "STAGE", "MTLS", "FROM"],
        rows,
    );
    let ports: Vec<_> = list(&inbound["ports"])
        .map(|port| {
            vec![
                text(&port["port"]),
                text(&port["protocol"]),
                text(&port["mtls"]),
                text(&port["by"]),
            ]
        })
        .collect();
    if !ports.is_empty() {
        out.push('\n');
        columns(out, &["OWN PORT", "PROTOCOL", "MTLS", "FROM"], ports);
    }
}

fn services(out: &mut String, view: &Value) {
    let row = |service: &Value| {
        let port = |port: &Value| format!("{}/{}", text(&port["port"]), text(&port["protocol"]));
        let whole = |port: &&Value| port["subset"].is_null();
        let ports: Vec<String> = list(&service["ports"]).filter(whole).map(port).collect();
        let count = endpoints(service)
            .iter()
            .filter(|row| row["port"].is_number())
            .count();
        vec![
            text(&service["name"]),
            text(&service["addresses"]),
            ports.join(","),
            count.to_string(),
            routes(service).len().to_string(),
        ]
    };
    let rows = list(&view["services"]).map(row).collect();
    columns(
        out,
        &["SERVICE", "ADDRESSES", "PORTS", "ENDPOINTS", "ROUTES"],
        rows,
    );
}

fn certificate(out: &mut String, certificate: &Value, now: SystemTime) {
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let left = |value: &Value| match value.as_u64() {
        Some(at) if at >= now => format!("in {}", span(at - now)),
        Some(at) => format!("{} ago", span(now - at)),
        None => text(value),
    };
    let rows = vec![vec![
        text(&certificate["identity"]),
        text(&certificate["serial"]),
        left(&certificate["notAfter"]),
        text(&certificate["valid"]),
        text(&certificate["roots"]),
        text(&certificate["rotations"]),
    ]];
    columns(
        out,
        &["IDENTITY", "SERIAL", "EXPIRES", "VALID", "ROOTS", "ROTATIONS"],
        rows,
    );
}

/// Seconds as people read them.
fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn versions(out: &mut String, page: &Value) {
    let kinds = page["versions"].as_object().into_iter().flatten();
    let rows = kinds.flat_map(|(kind, versions)| {
        let versions = versions.as_object().into_iter().flatten();
        versions.map(move |(name, version)| vec![kind.clone(), name.clone(), text(version)])
    });
    columns(out, &["KIND", "RESOURCE", "VERSION"], rows.collect());
    let refused: Vec<_> = list(&page["refused"])
        .map(|refused| {
            ["kind", "name", "field", "reason"]
                .map(|field| text(&refused[field]))
                .to_vec()
        })
        .collect();
    if !refused.is_empty() {
        out.push('\n');
        columns(out, &["REFUSED", "RESOURCE", "FIELD", "REASON"], refused);
    }
    if page["connected"] == false {
        out.push_str(&format!("\nnot connected: {}\n", text(&page["lastError"])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn known() -> Known {
        Known {
            listeners: Value::Null,
            view: json!({"stage": "running", "inbound": {"workload": {"namespace": "shop", "name": "web"},
                    "locality": {"region": "eu", "zone": "a"}, "mtls": "strict", "by": null,
                    "ports": [{"port": 8080, "protocol": "http1", "mtls": "permissive", "by": "PeerAuthentication shop/p"}]},
                "services": [{"name": "shop/cart", "addresses": ["10.0.0.1"], "ports": [{"port": 80, "protocol": "http1",
                    "endpoints": [{"address": "10.1.0.1:8080", "pod": "shop/cart-1", "identity": "spiffe://x", "region": "eu",
                        "zone": "b", "distance": "zone", "tier": "same zone", "health": "healthy", "live": {"ejected": "silent"}}]}],
                    "routes": [{"origin": "HTTPRoute shop/r", "port": 80, "backends": [
                        {"service": "shop/cart", "port": 80, "weight": 9, "invalid": false}]}]}],
                "policyProblems": ["spec.x: bad"]}),
            certificate: json!({"identity": "spiffe://x", "serial": "01", "notAfter": 7200, "valid": true, "roots": 1, "rotations": 0}),
            versions: json!({"connected": true, "versions": {"Policy": {"shop/deny": "v1"}}, "refused": [
                {"kind": "Policy", "name": "shop/bad", "field": "rules", "reason": "too many"}]}),
        }
    }

    #[test]
    fn tables_of_every_section() {
        let known = known();
        let now = SystemTime::UNIX_EPOCH;
        for (section, cells) in [
            (
                Section::Workload,
                &["web", "eu/a", "strict", "8080", "PeerAuthentication shop/p"][..],
            ),
            (Section::Services, &["shop/cart", "10.0.0.1", "80/http1"]),
            (
                Section::Endpoints,
                &[
                    "10.1.0.1:8080",
                    "shop/cart-1",
                    "eu/b",
                    "same zone",
                    "healthy, ejected: silent",
                ],
            ),
            (Section::Routes, &["shop/cart:80 x9", "HTTPRoute shop/r"]),
            (Section::Policies, &["shop/deny", "problem: spec.x: bad"]),
            (Section::Certificate, &["spiffe://x", "in 2 h"]),
            (Section::Versions, &["v1", "shop/bad", "rules", "too many"]),
        ] {
            let table = known.table(section, now);
            for cell in cells {
                assert!(table.contains(cell), "{cell} in\n{table}");
            }
        }
        assert_eq!(
            known.json(Section::Endpoints)[0]["endpoint"]["pod"],
            "shop/cart-1"
        );
        assert_eq!(known.json(Section::Policies)["names"][0], "shop/deny");
    }

    #[test]
    fn spans() {
        for (seconds, words) in [(5, "5 s"), (300, "5 min"), (86_400, "24 h"), (864_000, "10 d")] {
            assert_eq!(span(seconds), words);
        }
    }
}

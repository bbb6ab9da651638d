//! Istio DestinationRule (`networking.istio.io/v1`).
//!
//! Enters: an object. Leaves: its policies as declared, each field within the bounds that sidecars take. Never: a wrong value
//! that is taken for another one: such a field is left out with a finding, and the rest holds.

mod balance;
mod limits;
mod locality;
mod values;

use super::Metadata;
use super::fields::{Fields, Notes};
use crate::mesh::{DeclaredSubset, DestinationRule, Export, Item, Labels, Policies, TrafficPolicy};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most subsets of one rule.
const MOST_SUBSETS: usize = 100;
/// Most ports with a policy of their own, in one place.
const MOST_PORTS: usize = 64;
/// Most labels of one subset.
const MOST_LABELS: usize = 32;
/// Most namespaces that a rule is exported to.
const MOST_EXPORTS: usize = 256;

/// Reads a rule; one that can't hold for what it says isn't acted on at all.
pub(super) fn read(metadata: &Metadata, body: &Value, notes: &Notes) -> Item {
    let mut root = Fields::new(body, "", notes);
    root.ignore(&["apiVersion", "kind", "metadata", "status"]);
    let spec = root.object("spec");
    root.finish();
    let Some(mut spec) = spec else {
        notes.invalid("spec", "is missing", "say which host the rule is about");
        return Item::Noted;
    };
    let host = host(&mut spec, notes);
    let mark = notes.mark();
    let export = export(&mut spec, notes);
    let callers = callers(&mut spec, notes);
    // For whom it holds can't be told: not for more than were meant.
    let unclear = notes.error_since(mark).is_some();
    let policies = match spec.object("trafficPolicy") {
        Some(policy) => policies(policy, notes),
        None => Policies::default(),
    };
    let subsets = subsets(&mut spec, notes);
    spec.finish();
    let Some(host) = host.filter(|_| !unclear) else {
        return Item::Noted;
    };
    Item::DestinationRule(Box::new(DestinationRule {
        created: metadata.created,
        host,
        export,
        callers,
        policies,
        subsets,
        origin: notes.object().clone(),
    }))
}

/// A name, or `*` and the end of one.
fn host(spec: &mut Fields<'_>, notes: &Notes) -> Option<Arc<str>> {
    let host = spec.text("host").unwrap_or_default();
    let rest = host.strip_prefix('*').unwrap_or(host);
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let wild = rest.len() < host.len();
    let good = host.len() <= 253
        && rest.bytes().all(fits)
        && (wild && (rest.is_empty() || rest.starts_with('.')) || !wild && !host.is_empty());
    if !good {
        let reason = if host.is_empty() {
            "is missing".to_owned()
        } else {
            format!("{host:?} is no host name")
        };
        notes.invalid(
            "spec.host",
            reason,
            "name a Service, like cart or cart.shop.svc.cluster.local",
        );
    }
    good.then(|| host.to_ascii_lowercase().into())
}

pub(super) fn export(spec: &mut Fields<'_>, notes: &Notes) -> Export {
    let own = &notes.object().namespace;
    let list = spec.texts("exportTo");
    if list.is_empty() {
        return Export::All;
    }
    if list.len() > MOST_EXPORTS {
        let reason = format!("has {} entries; at most {MOST_EXPORTS} are read", list.len());
        notes.invalid("spec.exportTo", reason, "export it to all: *");
    }
    let mut namespaces: Vec<Arc<str>> = Vec::new();
    for (path, text) in list.into_iter().take(MOST_EXPORTS) {
        match text {
            "*" => return Export::All,
            "." => namespaces.push(own.clone()),
            "~" => {}
            name if values::is_name(name) => namespaces.push(name.into()),
            _ => notes.invalid(
                &path,
                format!("{text:?} is no namespace"),
                "use *, ., or the name of one",
            ),
        }
    }
    namespaces.sort();
    namespaces.dedup();
    Export::To(namespaces)
}

fn callers(spec: &mut Fields<'_>, notes: &Notes) -> Option<Labels> {
    let mut selector = spec.object("workloadSelector")?;
    let labels = selector.labels("matchLabels");
    selector.finish();
    if labels.as_ref().is_some_and(|labels| labels.len() > MOST_LABELS) {
        notes.invalid(
            "spec.workloadSelector.matchLabels",
            "has too many labels",
            "use fewer",
        );
    }
    labels.filter(|labels| !labels.is_empty())
}

fn subsets(spec: &mut Fields<'_>, notes: &Notes) -> Vec<DeclaredSubset> {
    let mut subsets: Vec<DeclaredSubset> = Vec::new();
    let declared = spec.objects("subsets");
    if declared.len() > MOST_SUBSETS {
        let reason = format!(
            "has {} entries; the first {MOST_SUBSETS} are read",
            declared.len()
        );
        notes.invalid("spec.subsets", reason, "use fewer subsets");
    }
    for mut fields in declared.into_iter().take(MOST_SUBSETS) {
        let field: Arc<str> = fields.path().into();
        let name = fields.text("name").unwrap_or_default();
        let labels = fields.labels("labels").unwrap_or_default();
        let policies = match fields.object("trafficPolicy") {
            Some(policy) => policies(policy, notes),
            None => Policies::default(),
        };
        let at = fields.at("name");
        fields.finish();
        let label = |(key, value): (&Arc<str>, &Arc<str>)| {
            values::is_label_key(key) && value.len() <= 63 && value.bytes().all(|b| b.is_ascii_graphic())
        };
        if !values::is_name(name) {
            notes.invalid(
                &at,
                format!("{name:?} is no name of a subset"),
                "use a-z, 0-9, '-' and '.'",
            );
        } else if subsets.iter().any(|subset| *subset.name == *name) {
            notes.invalid(
                &at,
                format!("{name:?} is there twice; the first counts"),
                "rename one",
            );
        } else if labels.len() > MOST_LABELS || !labels.iter().all(label) {
            let action = "use labels that pods can have";
            notes.invalid(
                &format!("{field}.labels"),
                "can't be selected by; the subset is left out",
                action,
            );
        } else {
            subsets.push(DeclaredSubset {
                name: name.into(),
                labels,
                policies,
                field,
            });
        }
    }
    subsets
}

fn policies(mut fields: Fields<'_>, notes: &Notes) -> Policies {
    let mut ports = BTreeMap::new();
    let levels = fields.objects("portLevelSettings");
    if levels.len() > MOST_PORTS {
        let reason = format!("has {} entries; the first {MOST_PORTS} are read", levels.len());
        notes.invalid(&fields.at("portLevelSettings"), reason, "use fewer");
    }
    for mut level in levels.into_iter().take(MOST_PORTS) {
        let port = match level.object("port") {
            Some(mut port) => {
                let number = port.port("number");
                port.finish();
                number
            }
            None => None,
        };
        let path = level.at("port");
        let policy = policy(&mut level, notes);
        level.finish();
        match port {
            None => notes.invalid(&path, "names no port", "name the Service's port by its number"),
            Some(port) if ports.contains_key(&port) => {
                notes.invalid(
                    &path,
                    format!("{port} is there twice; the first counts"),
                    "remove one",
                );
            }
            Some(port) => {
                ports.insert(port, policy);
            }
        }
    }
    let mut all = policy(&mut fields, notes);
    all.retry_budget = limits::retry_budget(&mut fields, notes);
    for (name, reason) in [
        ("tunnel", "Weft makes no tunnels by CONNECT"),
        ("proxyProtocol", "Weft doesn't send the PROXY protocol"),
    ] {
        if fields.value(name).is_some() {
            notes.not_acted_on(&fields.at(name), reason, "don't rely on it");
        }
    }
    fields.finish();
    Policies { all, ports }
}

/// What both the whole and a port can have.
fn policy(fields: &mut Fields<'_>, notes: &Notes) -> TrafficPolicy {
    let balancing = fields
        .object("loadBalancer")
        .map(|fields| balance::read(fields, notes));
    let limits = fields
        .object("connectionPool")
        .map(|fields| limits::pool(fields, notes));
    let (outliers, panic_percent) = match fields.object("outlierDetection") {
        Some(fields) => {
            let (outliers, panic) = limits::outliers(fields, notes);
            (Some(outliers), panic)
        }
        None => (None, None),
    };
    TrafficPolicy {
        balancing,
        limits,
        outliers,
        panic_percent,
        plain: fields.object("tls").and_then(|fields| tls(fields, notes)),
        retry_budget: None,
    }
}

/// Whether plain text is sent although there is a sidecar; `None`: not said.
fn tls(mut fields: Fields<'_>, notes: &Notes) -> Option<bool> {
    let path = fields.at("mode");
    let plain = match fields.text("mode") {
        Some("DISABLE") => Some(true),
        Some("ISTIO_MUTUAL") => Some(false),
        mode @ (None | Some("SIMPLE" | "MUTUAL")) => {
            let mode = mode.unwrap_or("DISABLE by default");
            let reason = format!(
                "sidecars make no TLS of their own ({mode}) towards applications: endpoints with a sidecar get the mesh's, others plain text"
            );
            notes.not_acted_on(
                &path,
                reason,
                "use ISTIO_MUTUAL or DISABLE, or let the application make the connection",
            );
            None
        }
        Some(other) => {
            notes.invalid(
                &path,
                format!("{other:?} is no mode"),
                "use ISTIO_MUTUAL or DISABLE",
            );
            None
        }
    };
    for name in [
        "clientCertificate",
        "privateKey",
        "caCertificates",
        "credentialName",
        "subjectAltNames",
        "sni",
        "insecureSkipVerify",
        "caCrl",
    ] {
        if fields.value(name).is_some() {
            let reason = "sidecars prove and check the mesh's own identities";
            notes.not_acted_on(&fields.at(name), reason, "remove it");
        }
    }
    fields.finish();
    plain
}

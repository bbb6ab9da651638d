//! What a gateway serves, for people.
//!
//! Enters: a listener. Leaves: JSON. Never: a certificate's key.

use serde_json::{Value, json};
use weft_proto::model::{Backend, HostPattern, Listener};

/// A listener with its rules.
pub fn listener(listener: &Listener) -> Value {
    let certificates = listener.certificates.iter();
    let certificates: Vec<_> = certificates.map(|each| each.origin.to_string()).collect();
    let hosts: Vec<_> = listener
        .hosts
        .iter()
        .map(|host| {
            let rules = host.rules.iter();
            let rules: Vec<_> = rules
                .map(
                    |rule| json!({ "origin": rule.origin.to_string(), "backends": backends(&rule.backends) }),
                )
                .collect();
            json!({ "host": shown(&host.host), "rules": rules })
        })
        .collect();
    let connections: Vec<_> = listener
        .connections
        .iter()
        .map(|rule| {
            json!({
                "origin": rule.origin.to_string(),
                "serverNames": rule.server_names,
                "backends": backends(&rule.backends),
            })
        })
        .collect();
    json!({
        "name": listener.name,
        "origin": listener.origin.to_string(),
        "port": listener.port,
        "protocol": listener.protocol,
        "host": shown(&listener.host),
        "certificates": certificates,
        "hosts": hosts,
        "connections": connections,
    })
}

/// A host pattern. Ingresses and Gateways write the same and mean something else.
pub fn shown(host: &HostPattern) -> String {
    match host {
        HostPattern::Label(_) => format!("{host} (one label)"),
        host => host.to_string(),
    }
}

fn backends(backends: &[Backend]) -> Vec<Value> {
    backends
        .iter()
        .map(|backend| {
            json!({
                "service": backend.service.to_string(),
                "port": backend.port,
                "weight": backend.weight,
                "invalid": backend.invalid,
            })
        })
        .collect()
}

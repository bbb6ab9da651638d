//! Objects to intent: the one conversion that files and the Kubernetes API share.
//!
//! Enters: an object as JSON, with its metadata and where it came from. Leaves: a [`Read`]: intent and findings. Never:
//! a look at any other object.
//!
//! Small structs of its own instead of the generated Kubernetes types: only what Weft acts on is parsed, one odd
//! object never spoils a list, and for the policies and routes a field that nobody asked for is noticed.

mod fields;
mod core;
mod service;
mod slice;
mod annotations;
mod duration;
mod metadata;
mod syntax;
mod route;
mod route_match;
mod route_filter;
mod cors;
mod route_backend;
mod route_policy;
mod route_connection;
mod grant;
mod gateway;
mod ingress;
mod secret;
mod virtual_service;
mod destination_rule;
mod backend_policy;
mod peer;
mod policy;

#[cfg(test)]
mod recorder;
#[cfg(test)]
mod supported;

pub use metadata::Metadata;

use super::kind::{Kind, Role};
use crate::mesh::{Diagnostic, Item, Key, Read};
use fields::Notes;
use serde_json::Value;
use weft_proto::model::Origin;

/// Reads an object. `body` is the object, with or without `apiVersion`, `kind` and `metadata`.
pub fn read(kind: &Kind, metadata: &Metadata, body: &Value, origin: Origin) -> Read {
    let key = Key {
        kind: kind.table().into(),
        namespace: origin.namespace.clone(),
        name: origin.name.clone(),
    };
    let notes = Notes::new(&origin);
    if kind.namespaced && origin.namespace.is_empty() {
        notes.invalid("metadata.namespace", "is missing", "name the namespace");
        return Read {
            key,
            item: None,
            findings: notes.into_findings(),
        };
    }
    if matches!(kind.role, Role::Required | Role::Optional | Role::Referenced) {
        for (field, text) in [
            ("metadata.name", &origin.name),
            ("metadata.namespace", &origin.namespace),
        ] {
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
            if text.len() > 253 || !text.bytes().all(allowed) {
                notes.invalid(
                    field,
                    "is no name of a Kubernetes object",
                    "use a-z, 0-9, '-' and '.'",
                );
                return Read {
                    key,
                    item: None,
                    findings: notes.into_findings(),
                };
            }
        }
    }
    let item = match kind.kind {
        "Namespace" => Ok(core::namespace(metadata, &origin)),
        "Node" => Ok(core::node(metadata, &origin)),
        "Pod" => core::pod(metadata, body, &origin),
        "Service" => service::service(metadata, body, &notes),
        "EndpointSlice" => slice::slice(metadata, body, &notes),
        "HTTPRoute" => Ok(Item::Route(route::http(metadata, body, &notes))),
        "GRPCRoute" => Ok(Item::Route(route::grpc(metadata, body, &notes))),
        "TCPRoute" => Ok(Item::Route(route_connection::tcp(metadata, body, &notes))),
        "TLSRoute" => Ok(Item::Route(route_connection::tls(metadata, body, &notes))),
        "VirtualService" => Ok(virtual_service::read(metadata, body, &notes)),
        "ReferenceGrant" => Ok(Item::Grant(grant::read(body, &notes))),
        "GatewayClass" => Ok(gateway::class(metadata, body, &notes)),
        "Gateway" if kind.role == Role::Optional => Ok(gateway::read(metadata, body, &notes)),
        "IngressClass" => Ok(ingress::class(metadata, body, &notes)),
        "Ingress" => Ok(ingress::read(metadata, body, &notes)),
        "Secret" => Ok(secret::read(body, &notes)),
        "DestinationRule" => Ok(destination_rule::read(metadata, body, &notes)),
        "XBackendTrafficPolicy" => Ok(Item::BackendPolicy(backend_policy::read(metadata, body, &notes))),
        "PeerAuthentication" => Ok(peer::read(metadata, body, &notes)),
        "AuthorizationPolicy" => Ok(Item::Policy(policy::read(body, &notes))),
        _ => {
            // Those of Weft's own charts are for the cluster's network plugin.
            let part_of = metadata.labels.get("app.kubernetes.io/part-of");
            let own = kind.kind == "NetworkPolicy" && part_of.is_some_and(|part_of| **part_of == *"weft");
            if let Role::Reported(severity, reason, action) = kind.role
                && !own
            {
                let finding = Diagnostic {
                    severity,
                    ..Diagnostic::info("kind-unsupported", &origin)
                };
                notes.add(finding.at(spec_fields(body)).because(reason).so(action));
            }
            Ok(Item::Noted)
        }
    };
    let item = match item {
        Ok(item) => Some(item),
        Err(error) => {
            let finding = Diagnostic::error("object-unreadable", &origin)
                .because(format!("can't be read: {error}"))
                .so("correct it; what was known of it before stays in force");
            notes.add(finding);
            None
        }
    };
    Read {
        key,
        item,
        findings: notes.into_findings(),
    }
}

/// Most fields that are named.
const MOST_FIELDS: usize = 12;

/// What a `spec` asks for, for a kind of which nothing is carried out.
fn spec_fields(body: &Value) -> String {
    let Some(spec) = body.get("spec").and_then(Value::as_object) else {
        return String::new();
    };
    let mut names: Vec<String> = spec
        .keys()
        .take(MOST_FIELDS)
        .map(|name| format!("spec.{}", name.chars().take(64).collect::<String>()))
        .collect();
    if spec.len() > MOST_FIELDS {
        names.push("…".to_owned());
    }
    names.join(", ")
}

/// Kinds that are read by structs, and what fills them with one of everything.
#[cfg(test)]
fn structures() -> [(&'static str, fn()); 5] {
    let nothing: fn() = || {};
    [
        ("Namespace", nothing),
        ("Node", nothing),
        ("Pod", core::structure),
        ("Service", service::structure),
        ("EndpointSlice", slice::structure),
    ]
}

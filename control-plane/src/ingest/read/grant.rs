//! Gateway API ReferenceGrant: who may refer to the Services and Secrets of its namespace.

use super::fields::{Fields, Notes};
use crate::mesh::ReferenceGrant;
use serde_json::Value;
use std::sync::Arc;

const GATEWAY: &str = "gateway.networking.k8s.io";

pub(super) fn read(body: &Value, notes: &Notes) -> ReferenceGrant {
    let mut grant = ReferenceGrant {
        from: vec![],
        to: vec![],
        secrets: vec![],
        origin: notes.object().clone(),
    };
    let mut root = Fields::new(body, "", notes);
    root.ignore(&["apiVersion", "kind", "metadata", "status"]);
    let Some(mut spec) = root.object("spec") else {
        return grant;
    };
    root.finish();
    for mut from in spec.objects("from") {
        let (group, kind) = (from.text("group").unwrap_or_default(), from.text("kind"));
        let namespace = from.text("namespace");
        if let (GATEWAY, Some(kind), Some(namespace)) = (group, kind, namespace) {
            grant.from.push((kind.into(), namespace.into()));
        }
        from.finish();
    }
    for mut to in spec.objects("to") {
        let (group, kind) = (
            to.text("group").unwrap_or_default(),
            to.text("kind").unwrap_or_default(),
        );
        let name: Option<Arc<str>> = to.text("name").filter(|name| !name.is_empty()).map(Into::into);
        match (group, kind) {
            ("" | "core", "Service") => grant.to.push(name),
            ("" | "core", "Secret") => grant.secrets.push(name),
            _ => {}
        }
        to.finish();
    }
    spec.finish();
    grant
}

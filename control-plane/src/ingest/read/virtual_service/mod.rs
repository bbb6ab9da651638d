//! Istio VirtualService, as far as sidecars obey it: hosts, `http`, `tls` and `tcp`.
//!
//! A match that can't be evaluated is left out; a rule with something that Weft can't carry out answers its requests with 500.

/// Rules for requests.
mod http;
/// Whom and what a rule is about.
mod matching;
/// Timeouts, retries, faults, headers and the like.
mod settings;
/// Where to.
mod destination;
/// Rules for opaque connections.
mod connection;

use super::Metadata;
use super::annotations::{Annotations, OF_ROUTES};
use super::destination_rule::export;
use super::fields::{Fields, Notes};
use crate::mesh::{Export, Item, VirtualService};
use serde_json::Value;
use std::sync::Arc;
use weft_proto::model::{Retries, annotations};

/// The gateway that stands for all sidecars.
const MESH: &str = "mesh";
/// Most hosts that are read.
const MOST_HOSTS: usize = 1_024;

pub(super) fn read(metadata: &Metadata, body: &Value, notes: &Notes) -> Item {
    let mut root = Fields::new(body, "", notes);
    root.ignore(&["apiVersion", "kind", "metadata", "status"]);
    let Some(mut spec) = root.object("spec") else {
        return Item::Noted;
    };
    let gateways = spec.texts("gateways");
    if !gateways.is_empty() && !gateways.iter().any(|(_, name)| *name == MESH) {
        // A gateway's: not the mesh's, and nothing to say about it.
        return Item::Noted;
    }
    root.finish();
    // Rates are about a Service's pods, and a VirtualService may be about many.
    let read: Vec<&str> = OF_ROUTES
        .into_iter()
        .filter(|name| *name == annotations::HEDGE_AFTER)
        .collect();
    let hedge_after = Annotations::new(metadata, &read, notes).hedge_after();
    let mut found = VirtualService {
        created: metadata.created,
        hosts: hosts(&mut spec, notes),
        export: Export::All,
        http: Vec::new(),
        connections: Vec::new(),
        origin: notes.object().clone(),
    };
    found.export = export(&mut spec, notes);
    let (http, tls, tcp) = (spec.objects("http"), spec.objects("tls"), spec.objects("tcp"));
    spec.finish();
    for (i, fields) in http.into_iter().enumerate() {
        let mut rule = http::rule(i, fields, notes);
        if hedge_after.is_some() {
            // Without a rule for retries Weft's own hold beside it.
            let retries = rule.then.retries.get_or_insert_with(|| Retries {
                attempts: 2,
                ..Retries::default()
            });
            retries.hedge_after = hedge_after;
        }
        found.http.push(rule);
    }
    for (i, fields) in tls.into_iter().enumerate() {
        found.connections.push(connection::rule("tls", i, fields, notes));
    }
    for (i, fields) in tcp.into_iter().enumerate() {
        found.connections.push(connection::rule("tcp", i, fields, notes));
    }
    Item::VirtualService(found)
}

fn hosts(spec: &mut Fields<'_>, notes: &Notes) -> Vec<(Arc<str>, Arc<str>)> {
    let listed = spec.texts("hosts");
    if listed.len() > MOST_HOSTS {
        let reason = format!("has {} hosts; {MOST_HOSTS} are read", listed.len());
        notes.invalid("spec.hosts", reason, "make several objects of it");
    }
    let mut hosts = Vec::new();
    for (at, host) in listed.into_iter().take(MOST_HOSTS) {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-.*_:".contains(&b);
        if host.is_empty() || host.len() > 253 || !host.bytes().all(fits) {
            notes.invalid(&at, "is no host", "write the Service's name");
        } else if host.strip_prefix('*').unwrap_or(host).contains('*') {
            notes.invalid(
                &at,
                "has a wildcard that isn't its first character",
                "write it like *.shop",
            );
        } else {
            hosts.push((host.to_ascii_lowercase().into(), at.into()));
        }
    }
    hosts
}

/// Whether something that names gateways is about sidecars.
fn of_mesh(fields: &mut Fields<'_>) -> bool {
    let gateways = fields.texts("gateways");
    gateways.is_empty() || gateways.iter().any(|(_, name)| *name == MESH)
}

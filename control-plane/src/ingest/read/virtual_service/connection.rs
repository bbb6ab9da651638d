//! Rules for opaque connections: `tcp` and `tls`.

use super::super::fields::{Fields, Notes};
use super::matching::{callers, server_names};
use super::{destination, of_mesh};
use crate::mesh::VirtualConnection;
use crate::mesh::virtual_service::ConnectionMatch;
use ipnet::IpNet;
use std::net::IpAddr;

/// Most server names, and most destinations, of one match that a sidecar takes.
const MOST_NAMES: usize = 256;

/// A rule of `tcp` or `tls`.
pub(super) fn rule(list: &str, i: usize, mut fields: Fields<'_>, notes: &Notes) -> VirtualConnection {
    let listed = fields.objects("match");
    let tls = list == "tls";
    if tls && listed.is_empty() {
        notes.invalid(&fields.at("match"), "is missing", "say which server names");
    }
    let matches = (tls || !listed.is_empty()).then(|| {
        let read = listed.into_iter();
        read.filter_map(|fields| one(fields, tls, notes)).collect()
    });
    let backends = destination::weighted(&mut fields, notes, |_| Default::default());
    if backends.is_empty() {
        notes.invalid(
            &fields.at("route"),
            "is missing: its connections are refused",
            "name a Service",
        );
    }
    fields.finish();
    VirtualConnection {
        rule: format!("{list}[{i}]").into(),
        matches,
        backends,
    }
}

fn one(mut fields: Fields<'_>, tls: bool, notes: &Notes) -> Option<ConnectionMatch> {
    let mark = notes.mark();
    let mesh = of_mesh(&mut fields);
    let server_names = match tls {
        true => server_names(&mut fields, notes),
        false => Vec::new(),
    };
    if tls && server_names.is_empty() && notes.error_since(mark).is_none() {
        notes.invalid(&fields.at("sniHosts"), "names nothing", "say which server names");
    }
    let mut destinations = Vec::new();
    for (at, text) in fields.texts("destinationSubnets") {
        destinations.extend(block(text, &at, notes));
    }
    let mut of = callers(&mut fields);
    if !tls && let Some(text) = fields.text("sourceSubnet") {
        of.pods.block = block(text, &fields.at("sourceSubnet"), notes);
    }
    if server_names.len().max(destinations.len()) > MOST_NAMES {
        let reason = format!("lists more than {MOST_NAMES} names or blocks");
        notes.invalid(fields.path(), reason, "make several matches of it");
    }
    fields.finish();
    let good = notes.error_since(mark).is_none();
    (good && mesh).then_some(ConnectionMatch {
        server_names,
        destinations,
        of,
    })
}

/// An address, or a block of them in CIDR notation.
fn block(text: &str, at: &str, notes: &Notes) -> Option<IpNet> {
    let single = || text.parse::<IpAddr>().ok().map(IpNet::from);
    let block = text.parse::<IpNet>().ok().or_else(single);
    if block.is_none() {
        notes.invalid(at, "is no block of addresses", "write it like 10.0.0.0/8");
    }
    block
}

//! Where requests and connections go.

use super::super::fields::{Fields, Notes};
use crate::mesh::{BackendRef, Target};
use weft_proto::model::HeaderChanges;

/// Most destinations of one rule that a sidecar takes.
const MOST: usize = 256;
/// Largest weight that a sidecar takes.
const LARGEST_WEIGHT: i64 = 1_000_000;

/// The weighted destinations of a rule; `headers` reads what changes for one of them.
pub(super) fn weighted(
    fields: &mut Fields<'_>,
    notes: &Notes,
    headers: impl Fn(&mut Fields<'_>) -> (HeaderChanges, HeaderChanges),
) -> Vec<BackendRef> {
    let listed = fields.objects("route");
    let alone = listed.len() == 1;
    if listed.len() > MOST {
        let reason = format!("has {} destinations; a sidecar takes {MOST}", listed.len());
        notes.invalid(&fields.at("route"), reason, "use fewer");
    }
    let read = |mut fields: Fields<'_>| {
        let mark = notes.mark();
        // The only one needs no weight.
        let weight = fields.number("weight").filter(|weight| !(alone && *weight == 0));
        let weight = weight.unwrap_or(if alone { 100 } else { 0 });
        if !(0..=LARGEST_WEIGHT).contains(&weight) {
            let reason = format!("{weight} is no weight");
            notes.invalid(&fields.at("weight"), reason, "use 0 to 1000000");
        }
        let mut backend = match fields.object("destination") {
            Some(destination) => one(destination, notes),
            None => {
                notes.invalid(&fields.at("destination"), "is missing", "name a Service");
                nowhere(&fields, notes)
            }
        };
        backend.weight = u32::try_from(weight.clamp(0, LARGEST_WEIGHT)).unwrap_or(0);
        (backend.request_headers, backend.response_headers) = headers(&mut fields);
        fields.finish();
        backend.invalid = notes.error_since(mark);
        backend
    };
    let mut backends: Vec<BackendRef> = listed.into_iter().take(MOST).map(read).collect();
    if !backends.is_empty() && backends.iter().all(|backend| backend.weight == 0) {
        let reason = "no destination has a weight: what matches is answered with 500";
        notes.invalid(&fields.at("route"), reason, "give one a weight");
        for backend in &mut backends {
            backend.invalid.get_or_insert_with(|| reason.into());
        }
    }
    backends
}

fn nowhere(fields: &Fields<'_>, notes: &Notes) -> BackendRef {
    BackendRef {
        target: Target::Host {
            host: "invalid".into(),
            namespace: notes.object().namespace.clone(),
        },
        port: None,
        weight: 1,
        invalid: None,
        subset: None,
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
        field: fields.path().into(),
    }
}

/// `host`, `subset` and `port`.
pub(super) fn one(mut fields: Fields<'_>, notes: &Notes) -> BackendRef {
    let mut backend = nowhere(&fields, notes);
    let mark = notes.mark();
    match fields.text("host") {
        Some(host) if !host.is_empty() && host.len() <= 253 => {
            backend.target = Target::Host {
                host: host.to_ascii_lowercase().into(),
                namespace: notes.object().namespace.clone(),
            };
        }
        _ => notes.invalid(&fields.at("host"), "names no Service", "name one"),
    }
    backend.subset = fields
        .text("subset")
        .filter(|name| !name.is_empty())
        .map(Into::into);
    if let Some(subset) = &backend.subset {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if subset.len() > 253 || !subset.bytes().all(fits) {
            notes.invalid(&fields.at("subset"), "is no name of a subset", "correct it");
            backend.subset = None;
        }
    }
    if let Some(mut port) = fields.object("port") {
        backend.port = port.port("number");
        port.finish();
    }
    fields.finish();
    backend.invalid = notes.error_since(mark);
    backend
}

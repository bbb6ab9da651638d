//! References to Services of the Gateway API's routes.

use super::fields::{Fields, Notes};
use super::route_filter;
use crate::mesh::{BackendRef, Target};
use weft_proto::model::ServiceName;

/// Largest weight of the API.
const LARGEST_WEIGHT: i64 = 1_000_000;
/// Most backends of one rule that a sidecar takes.
const MOST_BACKENDS: usize = 256;

/// The backends of a rule; `filtered`: each may have filters of its own.
pub(super) fn backends(fields: &mut Fields<'_>, notes: &Notes, filtered: bool) -> Vec<BackendRef> {
    let listed = fields.objects("backendRefs");
    let (field, most) = (fields.at("backendRefs"), listed.len());
    let mut backends: Vec<_> = listed
        .into_iter()
        .take(MOST_BACKENDS)
        .map(|mut fields| {
            let mark = notes.mark();
            let mut backend = reference(&mut fields, notes);
            let weight = fields.number("weight").unwrap_or(1);
            if !(0..=LARGEST_WEIGHT).contains(&weight) {
                let reason = format!("{weight} is no weight");
                notes.invalid(&fields.at("weight"), reason, "use 0 to 1000000");
            }
            backend.weight = u32::try_from(weight.clamp(0, LARGEST_WEIGHT)).unwrap_or(1);
            if filtered {
                (backend.request_headers, backend.response_headers) =
                    route_filter::of_backend(&mut fields, notes);
            }
            fields.finish();
            backend.invalid = notes.error_since(mark);
            backend
        })
        .collect();
    if most > MOST_BACKENDS {
        let reason =
            format!("has {most} backends; a sidecar takes {MOST_BACKENDS}, and the rule's requests get 500");
        notes.invalid(&field, reason.as_str(), "use fewer");
        for backend in &mut backends {
            backend.invalid.get_or_insert_with(|| reason.as_str().into());
        }
    }
    backends
}

/// A reference without a weight. The caller finishes the fields, and sees to errors.
pub(super) fn reference(fields: &mut Fields<'_>, notes: &Notes) -> BackendRef {
    let (group, kind) = (
        fields.text("group").unwrap_or_default(),
        fields.text("kind").unwrap_or("Service"),
    );
    let name = fields.text("name").unwrap_or_default();
    let own = &*notes.object().namespace;
    let namespace = fields.text("namespace").unwrap_or(own);
    let mark = notes.mark();
    let port = fields.port("port");
    if !matches!((group, kind), ("" | "core", "Service")) {
        let reason = format!("Weft sends to Services, not to kind {kind:?} of group {group:?}");
        notes.unsupported(fields.path(), reason, "name a Service");
    } else if name.is_empty() {
        notes.invalid(&fields.at("name"), "is missing", "name a Service");
    } else if !is_name(name) || !is_name(namespace) {
        notes.invalid(
            fields.path(),
            "names nothing that can be there",
            "correct name and namespace",
        );
    } else if port.is_none() && notes.error_since(mark).is_none() {
        notes.invalid(
            &fields.at("port"),
            "is missing",
            "name one of the Service's ports",
        );
    }
    BackendRef {
        target: Target::Service(ServiceName::new(
            if is_name(namespace) { namespace } else { own },
            if is_name(name) { name } else { "invalid" },
        )),
        port,
        weight: 1,
        invalid: notes.error_since(mark),
        subset: None,
        request_headers: Default::default(),
        response_headers: Default::default(),
        field: fields.path().into(),
    }
}

/// What the API server takes for the name of an object.
fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    (1..=253).contains(&name.len()) && name.bytes().all(fits)
}

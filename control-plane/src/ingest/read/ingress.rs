//! `networking.k8s.io` Ingress and IngressClass.
//!
//! A path or backend that can't be read is left out, or answers 500: it never widens what others are for.

use super::Metadata;
use super::fields::{Fields, Notes};
use super::syntax;
use crate::mesh::gateway::{CertificateRef, Class, Ingress, IngressBackend, IngressPath, IngressTls};
use crate::mesh::{BackendRef, Item, Target};
use serde_json::Value;
use std::sync::Arc;
use weft_proto::model::{HostPattern, ServiceName};

/// Most paths of one Ingress.
const MOST_PATHS: usize = 10_000;

pub(super) fn class(metadata: &Metadata, body: &Value, notes: &Notes) -> Item {
    let mut root = Fields::new(body, "", notes);
    root.ignore(&["apiVersion", "kind", "metadata"]);
    let mut controller = "";
    if let Some(mut spec) = root.object("spec") {
        controller = spec.text("controller").unwrap_or_default();
        // What other implementations' classes have besides is theirs.
        spec.ignore(&["parameters"]);
        spec.finish();
    }
    Item::IngressClass(Class {
        controller: controller.into(),
        generation: metadata.generation,
        origin: notes.object().clone(),
    })
}

pub(super) fn read(metadata: &Metadata, body: &Value, notes: &Notes) -> Item {
    let origin = notes.object().clone();
    let mut ingress = Ingress {
        name: ServiceName::new(&origin.namespace, &origin.name),
        created: metadata.created,
        class: None,
        default_backend: None,
        paths: vec![],
        tls: vec![],
        origin,
    };
    let mut root = Fields::new(body, "", notes);
    root.ignore(&["apiVersion", "kind", "metadata", "status"]);
    let Some(mut spec) = root.object("spec") else {
        return Item::Ingress(ingress);
    };
    root.finish();
    ingress.class = spec.text("ingressClassName").map(Into::into);
    ingress.default_backend = spec.object("defaultBackend").map(|fields| backend(fields, notes));
    for mut fields in spec.objects("tls") {
        ingress.tls.extend(tls(&mut fields, notes));
        fields.finish();
    }
    for mut fields in spec.objects("rules") {
        let host = host(fields.text("host").unwrap_or_default(), &fields.at("host"), notes);
        let place = fields.path().strip_prefix("spec.").unwrap_or_default().to_owned();
        if let Some(mut http) = fields.object("http") {
            for (i, path) in http.objects("paths").into_iter().enumerate() {
                let at = path.path().to_owned();
                let read = self::path(path, notes);
                let (Some(host), Some((path, exact, backend))) = (&host, read) else {
                    continue;
                };
                if ingress.paths.len() == MOST_PATHS {
                    notes.invalid(&at, format!("is after the {MOST_PATHS}th path"), "use fewer");
                    continue;
                }
                ingress.paths.push(IngressPath {
                    rule: format!("{place}.paths[{i}]").into(),
                    host: host.clone(),
                    path,
                    exact,
                    backend,
                });
            }
            http.finish();
        } else {
            notes.not_acted_on(fields.path(), "has no paths", "add `http.paths`, or remove it");
        }
        fields.finish();
    }
    spec.finish();
    Item::Ingress(ingress)
}

/// Its wildcard stands for one label (networking.k8s.io, IngressRule).
fn host(text: &str, at: &str, notes: &Notes) -> Option<HostPattern> {
    let host = HostPattern::parse(text).map(HostPattern::of_one_label);
    if host.is_none() {
        notes.invalid(at, "is no host name", "write a DNS name, or `*.` and one");
    }
    host
}

fn tls(fields: &mut Fields<'_>, notes: &Notes) -> Option<IngressTls> {
    let listed = fields.texts("hosts");
    let all = listed.len();
    let hosts: Vec<_> = listed
        .into_iter()
        .filter_map(|(at, name)| host(name, &at, notes))
        .collect();
    let field: Arc<str> = fields.path().into();
    let Some(name) = fields.text("secretName").filter(|name| !name.is_empty()) else {
        let reason = "names no Secret: its hosts aren't served over TLS";
        notes.not_acted_on(&field, reason, "add secretName");
        return None;
    };
    // Not for every host, if none of those that it names can be read.
    (all == 0 || !hosts.is_empty()).then(|| IngressTls {
        hosts,
        secret: CertificateRef {
            secret: Ok(ServiceName::new(&notes.object().namespace, name)),
            field: fields.at("secretName").into(),
        },
        field,
    })
}

fn path(mut fields: Fields<'_>, notes: &Notes) -> Option<(Arc<str>, bool, IngressBackend)> {
    let text = fields.text("path").filter(|text| !text.is_empty()).unwrap_or("/");
    let exact = match fields.text("pathType") {
        Some("Exact") => true,
        Some("Prefix") => false,
        // Weft's meaning of it: that of a prefix.
        Some("ImplementationSpecific") => false,
        _ => {
            notes.invalid(
                &fields.at("pathType"),
                "is no type of path",
                "use Exact, Prefix or ImplementationSpecific",
            );
            return None;
        }
    };
    let path = match syntax::path(text) {
        // Prefixes are made of whole segments: a slash at the end has no meaning.
        Some(path) if !exact && path.len() > 1 => Some(path.trim_end_matches('/').into()),
        path => path,
    };
    if path.is_none() {
        notes.invalid(&fields.at("path"), "is no absolute path", "begin it with `/`");
    }
    let backend = match fields.object("backend") {
        Some(backend) => self::backend(backend, notes),
        None => {
            notes.invalid(&fields.at("backend"), "is missing", "name a Service");
            return None;
        }
    };
    fields.finish();
    let path: Arc<str> = path?;
    Some((if path.is_empty() { "/".into() } else { path }, exact, backend))
}

fn backend(mut fields: Fields<'_>, notes: &Notes) -> IngressBackend {
    let (mut name, mut port, mut port_name) = ("", None, None);
    let mark = notes.mark();
    if fields.value("resource").is_some() {
        let reason = "Weft sends to Services only";
        notes.unsupported(&fields.at("resource"), reason, "name a Service");
    }
    let field: Arc<str> = fields.at("service").into();
    match fields.object("service") {
        Some(mut service) => {
            name = service.text("name").unwrap_or_default();
            if name.is_empty() {
                notes.invalid(&service.at("name"), "is missing", "name a Service");
            }
            if let Some(mut declared) = service.object("port") {
                port = declared.value("number").and_then(|_| declared.port("number"));
                port_name = declared
                    .text("name")
                    .filter(|name| !name.is_empty())
                    .map(Into::into);
                declared.finish();
            }
            if port.is_none() && port_name.is_none() && notes.error_since(mark).is_none() {
                notes.invalid(
                    &service.at("port"),
                    "is missing",
                    "name one of the Service's ports, by number or name",
                );
            }
            service.finish();
        }
        None if notes.error_since(mark).is_none() => {
            notes.invalid(&field, "is missing", "name a Service");
        }
        None => {}
    }
    fields.finish();
    let known = if name.is_empty() { "invalid" } else { name };
    IngressBackend {
        reference: BackendRef {
            target: Target::Service(ServiceName::new(&notes.object().namespace, known)),
            port,
            weight: 1,
            invalid: notes.error_since(mark),
            subset: None,
            request_headers: Default::default(),
            response_headers: Default::default(),
            field,
        },
        port_name,
    }
}

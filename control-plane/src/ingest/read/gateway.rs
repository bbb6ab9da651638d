//! Gateway API Gateway and GatewayClass.
//!
//! A listener of which something can't be read is kept with the reason and carries nothing: it must not take what it wasn't meant for.

use super::Metadata;
use super::fields::{Fields, Notes};
use crate::mesh::Item;
use crate::mesh::gateway::{
    CertificateRef, Class, DeclaredGateway, DeclaredListener, Expression, Namespaces, Selector,
};
use serde_json::Value;
use std::sync::Arc;
use weft_proto::model::{HostPattern, ListenerProtocol, ServiceName};

const GATEWAY: &str = "gateway.networking.k8s.io";
/// Most listeners of one Gateway, as the API has it.
const MOST_LISTENERS: usize = 64;

pub(super) fn class(metadata: &Metadata, body: &Value, notes: &Notes) -> Item {
    let mut root = Fields::new(body, "", notes);
    root.ignore(&["apiVersion", "kind", "metadata", "status"]);
    let mut controller = "";
    if let Some(mut spec) = root.object("spec") {
        controller = spec.text("controllerName").unwrap_or_default();
        // What other implementations' classes have besides is theirs.
        spec.ignore(&["description", "parametersRef"]);
        spec.finish();
    }
    Item::GatewayClass(Class {
        controller: controller.into(),
        generation: metadata.generation,
        origin: notes.object().clone(),
    })
}

pub(super) fn read(metadata: &Metadata, body: &Value, notes: &Notes) -> Item {
    let origin = notes.object().clone();
    let mut gateway = DeclaredGateway {
        name: ServiceName::new(&origin.namespace, &origin.name),
        created: metadata.created,
        generation: metadata.generation,
        class: "".into(),
        listeners: vec![],
        origin,
    };
    let mut root = Fields::new(body, "", notes);
    root.ignore(&["apiVersion", "kind", "metadata", "status"]);
    let Some(mut spec) = root.object("spec") else {
        return Item::Gateway(gateway);
    };
    root.finish();
    gateway.class = spec.text("gatewayClassName").unwrap_or_default().into();
    for (name, reason, action) in [
        (
            "addresses",
            "Weft gives no addresses: those of the Service that leads to the gateway's pods hold",
            "ask for them in that Service",
        ),
        (
            "infrastructure",
            "Weft makes no pods of a Gateway: its chart does",
            "set labels and annotations in the values of the chart weft-gateway",
        ),
        (
            "allowedListeners",
            "ListenerSets aren't acted on",
            "put their listeners into the Gateway",
        ),
        (
            "defaultScope",
            "routes are attached to a Gateway only where they name it",
            "name the Gateway in the routes",
        ),
    ] {
        if spec.value(name).is_some() {
            notes.not_acted_on(&spec.at(name), reason, action);
        }
    }
    let validated = tls(&mut spec, notes);
    let listeners = spec.objects("listeners");
    spec.finish();
    for fields in listeners {
        let field = fields.path().to_owned();
        let Some(mut listener) = listener(fields, notes) else {
            continue;
        };
        if gateway.listeners.len() == MOST_LISTENERS {
            notes.invalid(&field, format!("is after the {MOST_LISTENERS}th"), "use fewer");
            break;
        }
        if gateway.listeners.iter().any(|other| other.name == listener.name) {
            let reason = format!("the name {:?} is there twice; the first counts", listener.name);
            notes.invalid(&field, reason, "give it another name");
            continue;
        }
        if listener.protocol == Ok(ListenerProtocol::Https) && listener.invalid.is_none() {
            listener.invalid = validated.clone();
        }
        gateway.listeners.push(listener);
    }
    Item::Gateway(gateway)
}

/// `spec.tls`. Returns why HTTPS can't be served: clients would get in whose certificates somebody wanted to see.
fn tls(spec: &mut Fields<'_>, notes: &Notes) -> Option<Arc<str>> {
    let mut tls = spec.object("tls")?;
    let mark = notes.mark();
    if tls.value("frontend").is_some() {
        let reason =
            "Weft doesn't check certificates of clients outside the mesh: HTTPS listeners are refused";
        notes.unsupported(
            &tls.at("frontend"),
            reason,
            "check clients in the application, and remove it",
        );
    }
    let invalid = notes.error_since(mark);
    if tls.value("backend").is_some() {
        let reason = "backends are reached with the gateway's identity in the mesh";
        notes.not_acted_on(&tls.at("backend"), reason, "remove it");
    }
    tls.finish();
    invalid
}

fn listener(mut fields: Fields<'_>, notes: &Notes) -> Option<DeclaredListener> {
    let field: Arc<str> = fields.path().into();
    let mark = notes.mark();
    let (name, port) = (fields.text("name"), fields.port("port"));
    let protocol = match fields.text("protocol") {
        Some("HTTP") => Ok(ListenerProtocol::Http),
        Some("HTTPS") => Ok(ListenerProtocol::Https),
        Some("TLS") => Ok(ListenerProtocol::Tls),
        Some("TCP") => Ok(ListenerProtocol::Tcp),
        other => Err(other
            .unwrap_or_default()
            .chars()
            .take(64)
            .collect::<String>()
            .into()),
    };
    let host = fields.text("hostname").unwrap_or_default();
    let host = HostPattern::parse(host).unwrap_or_else(|| {
        notes.invalid(
            &fields.at("hostname"),
            "is no host name",
            "write a DNS name, or `*.` and one",
        );
        HostPattern::Any
    });
    let (mut passthrough, mut certificates, mut invalid_tls) = (false, vec![], None);
    if let Some(mut tls) = fields.object("tls") {
        passthrough = match tls.text("mode") {
            None | Some("Terminate") => false,
            Some("Passthrough") => true,
            Some(_) => {
                notes.invalid(&tls.at("mode"), "is no mode", "use Terminate or Passthrough");
                false
            }
        };
        if tls.value("options").is_some() {
            let reason = "Weft has no options for TLS";
            notes.not_acted_on(&tls.at("options"), reason, "remove them");
        }
        if tls.value("frontendValidation").is_some() {
            let reason =
                "Weft doesn't check certificates of clients outside the mesh: the listener is refused";
            notes.unsupported(
                &tls.at("frontendValidation"),
                reason,
                "check clients in the application, and remove it",
            );
        }
        invalid_tls = notes.error_since(mark);
        let references = tls.objects("certificateRefs").into_iter();
        certificates = references.map(|fields| certificate(fields, notes)).collect();
        tls.finish();
    }
    if protocol == Ok(ListenerProtocol::Https) && passthrough {
        let reason = "HTTPS ends at the gateway";
        notes.invalid(&field, reason, "use the protocol TLS to pass connections on");
    }
    let mut allowed = Allowed::default();
    let before = notes.mark();
    if let Some(routes) = fields.object("allowedRoutes") {
        allowed = allowed_routes(routes, notes);
    }
    let invalid = invalid_tls.or_else(|| match certificates.is_empty() {
        true => notes.error_since(mark),
        false => notes.error_since(before),
    });
    fields.finish();
    let name = name?;
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    if !(1..=253).contains(&name.len()) || !name.bytes().all(fits) {
        notes.invalid(
            &field,
            "has a name that the API doesn't allow",
            "use a-z, 0-9, '-' and '.'",
        );
        return None;
    }
    Some(DeclaredListener {
        name: name.into(),
        port: port?,
        protocol,
        host,
        passthrough,
        certificates,
        namespaces: allowed.namespaces,
        kinds: allowed.kinds,
        invalid_kinds: allowed.invalid_kinds,
        invalid,
        field,
    })
}

fn certificate(mut fields: Fields<'_>, notes: &Notes) -> CertificateRef {
    let field: Arc<str> = fields.path().into();
    let mark = notes.mark();
    let (group, kind) = (
        fields.text("group").unwrap_or_default(),
        fields.text("kind").unwrap_or("Secret"),
    );
    let namespace = fields.text("namespace").unwrap_or(&notes.object().namespace);
    let secret = ServiceName::new(namespace, fields.text("name").unwrap_or_default());
    if !matches!((group, kind), ("" | "core", "Secret")) {
        let reason =
            format!("Weft takes certificates from Secrets, not from kind {kind:?} of group {group:?}");
        notes.unsupported(&field, reason, "name a Secret of type kubernetes.io/tls");
    } else if secret.name.is_empty() {
        notes.invalid(&fields.at("name"), "is missing", "name a Secret");
    }
    fields.finish();
    CertificateRef {
        secret: notes.error_since(mark).map_or(Ok(secret), Err),
        field,
    }
}

#[derive(Default)]
struct Allowed {
    namespaces: Namespaces,
    kinds: Option<Vec<Arc<str>>>,
    invalid_kinds: Option<Arc<str>>,
}

fn allowed_routes(mut fields: Fields<'_>, notes: &Notes) -> Allowed {
    let mut allowed = Allowed::default();
    if let Some(mut namespaces) = fields.object("namespaces") {
        let selected = namespaces
            .object("selector")
            .map(|fields| selector(fields, notes));
        allowed.namespaces = match namespaces.text("from") {
            None | Some("Same") => Namespaces::Same,
            Some("All") => Namespaces::All,
            Some("None") => Namespaces::Nothing,
            Some("Selector") => match selected.flatten() {
                Some(selector) => Namespaces::Selected(selector),
                None => Namespaces::Nothing,
            },
            Some(_) => {
                let reason = "says nothing that Weft knows: no route is let in";
                notes.invalid(&namespaces.at("from"), reason, "use Same, All, Selector or None");
                Namespaces::Nothing
            }
        };
        namespaces.finish();
    }
    let listed = fields.objects("kinds");
    if !listed.is_empty() {
        let mut kinds = Vec::new();
        for mut each in listed {
            let group = each.text("group").unwrap_or(GATEWAY);
            let kind = each.text("kind").unwrap_or_default();
            let known = matches!(kind, "HTTPRoute" | "GRPCRoute" | "TLSRoute" | "TCPRoute");
            if group == GATEWAY && known {
                kinds.push(kind.into());
            } else {
                let kind: String = kind.chars().take(64).collect();
                allowed.invalid_kinds = Some(format!("{kind:?} is no kind of route that Weft knows").into());
            }
            each.finish();
        }
        allowed.kinds = Some(kinds);
    }
    fields.finish();
    allowed
}

/// A label selector; `None`, and an error: it selects nothing.
fn selector(mut fields: Fields<'_>, notes: &Notes) -> Option<Selector> {
    let mark = notes.mark();
    let mut selector = Selector {
        labels: fields.labels("matchLabels").unwrap_or_default(),
        expressions: vec![],
    };
    for mut each in fields.objects("matchExpressions") {
        let (key, operator) = (each.text("key").unwrap_or_default(), each.text("operator"));
        let values: Vec<Arc<str>> = each
            .texts("values")
            .into_iter()
            .map(|(_, value)| value.into())
            .collect();
        let wanted = match (operator, values.is_empty()) {
            (Some("In"), false) | (Some("Exists"), true) => true,
            (Some("NotIn"), false) | (Some("DoesNotExist"), true) => false,
            _ => {
                notes.invalid(
                    each.path(),
                    "is no expression of a label selector",
                    "use In or NotIn with values, or Exists or DoesNotExist without",
                );
                false
            }
        };
        selector.expressions.push(Expression {
            key: key.into(),
            values,
            wanted,
        });
        each.finish();
    }
    fields.finish();
    notes.error_since(mark).is_none().then_some(selector)
}

//! Ingresses as listeners: port 80 for every host, port 443 for the hosts that they have certificates for.
//!
//! All Ingresses of one class are one: the rules for a host are those of every Ingress, the longest path first, and an exact path before an equally
//! long prefix. A request that no path takes goes to the default backend of the oldest Ingress that has one.

use super::Listening;
use super::listener::{certificate, covers};
use super::rules::{Hosts, bounded};
use crate::mesh::gateway::{Ingress, IngressBackend};
use crate::mesh::{Action, BackendRef, Diagnostic, Mesh, Target};
use crate::translate::routes::backend::From;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_proto::model::{
    HostPattern, Listener, ListenerProtocol, Origin, RouteMatch, RouteRule, ServerCertificate, StringMatch,
    VirtualHost,
};

/// Ports of Ingresses, which can't name others.
pub(super) const HTTP: u16 = 80;
pub(super) const HTTPS: u16 = 443;

/// What the Ingresses of each of Weft's classes ask for.
pub(super) fn listeners(mesh: &Mesh, findings: &mut Vec<Diagnostic>) -> BTreeMap<Arc<str>, Listening> {
    let mut classes: BTreeMap<&Arc<str>, Vec<&Ingress>> = BTreeMap::new();
    for ingress in mesh.ingresses.values() {
        if let Some(class) = &ingress.class
            && mesh.serves_ingresses(Some(class))
        {
            classes.entry(class).or_default().push(ingress);
        }
    }
    let each = classes.into_iter().map(|(class, mut ingresses)| {
        ingresses.sort_by_key(|ingress| age(ingress));
        (class.clone(), of_class(mesh, class, &ingresses, findings))
    });
    each.collect()
}

/// The oldest first.
fn age(ingress: &Ingress) -> (i64, &str, &str) {
    let created = ingress.created.unwrap_or(i64::MAX);
    (created, &ingress.name.namespace, &ingress.name.name)
}

fn of_class(mesh: &Mesh, class: &str, ingresses: &[&Ingress], findings: &mut Vec<Diagnostic>) -> Listening {
    let mut hosts = Hosts::new();
    for (nth, ingress) in ingresses.iter().enumerate() {
        for (i, path) in ingress.paths.iter().enumerate() {
            let rule = rule(mesh, ingress, &path.rule, &path.backend, findings);
            let found = match (path.exact, &*path.path) {
                (true, _) => Some(StringMatch::Exact(path.path.clone())),
                (false, "/") => None,
                (false, _) => Some(StringMatch::PathPrefix(path.path.clone())),
            };
            let length = if found.is_none() { 1 } else { path.path.len() };
            let rule = RouteRule {
                matches: RouteMatch {
                    path: found,
                    ..RouteMatch::default()
                },
                ..rule
            };
            hosts.add(&path.host, (false, Reverse(length), !path.exact, nth, i), rule);
        }
        if let Some(backend) = &ingress.default_backend {
            let rule = rule(mesh, ingress, "defaultBackend", backend, findings);
            hosts.add(&HostPattern::Any, (true, Reverse(0), false, nth, 0), rule);
        }
    }
    let origin = Origin::object("IngressClass", "", class);
    let listener = |name: &str, port, protocol, host| Listener {
        origin: origin.with_rule(format!("listeners[{name}]")),
        name: name.into(),
        port,
        bind: port,
        protocol,
        host,
        certificates: vec![],
        hosts: vec![],
        connections: vec![],
    };
    let mut http = listener("http", HTTP, ListenerProtocol::Http, HostPattern::Any);
    http.hosts = bounded(hosts.sorted(), &http, findings);
    let mut all = Listening::default();
    for (host, certificates) in certificates(mesh, ingresses, &mut all.waiting, findings) {
        let name = match &host {
            HostPattern::Any => "https".to_owned(),
            HostPattern::Suffix(suffix) | HostPattern::Label(suffix) => format!("https-any{suffix}"),
            HostPattern::Exact(host) => format!("https-{host}"),
        };
        let mut https = listener(&name, HTTPS, ListenerProtocol::Https, host);
        https.certificates = certificates;
        let meets = |one: &&VirtualHost| one.host.meet(&https.host).is_some();
        https.hosts = http.hosts.iter().filter(meets).cloned().collect();
        all.listeners.push(https);
    }
    all.listeners.insert(0, http);
    all
}

/// Hosts that are served over TLS, with their certificates: those of the oldest Ingress first.
fn certificates(
    mesh: &Mesh,
    ingresses: &[&Ingress],
    waiting: &mut bool,
    findings: &mut Vec<Diagnostic>,
) -> Vec<(HostPattern, Vec<ServerCertificate>)> {
    let mut all: BTreeMap<String, (HostPattern, Vec<ServerCertificate>)> = BTreeMap::new();
    for ingress in ingresses {
        for tls in &ingress.tls {
            let found = match certificate(mesh, &ingress.origin, &tls.secret) {
                Ok(found) => found,
                Err(unusable) if unusable.waits => {
                    *waiting = true;
                    continue;
                }
                Err(unusable) => {
                    findings.extend(unusable.finding(&ingress.origin, &tls.secret));
                    unusable.meanwhile.as_deref().cloned()
                }
            };
            let Some(found) = found else { continue };
            let secret = tls
                .secret
                .secret
                .as_ref()
                .ok()
                .and_then(|name| mesh.tls_secrets.get(name));
            let names = secret.map(|secret| &secret.names[..]).unwrap_or_default();
            let any = [HostPattern::Any];
            let hosts = if tls.hosts.is_empty() {
                &any[..]
            } else {
                &tls.hosts[..]
            };
            for host in hosts {
                if let HostPattern::Exact(exact) = host
                    && !names.iter().any(|name| covers(name, exact))
                {
                    let finding =
                        Diagnostic::warning("gateway-certificate-host", &ingress.origin).at(&tls.field);
                    let reason = format!("the certificate isn't for {exact}: clients will refuse it");
                    findings.push(
                        finding
                            .because(reason)
                            .so("name a Secret with a certificate for that host"),
                    );
                }
                let entry = all.entry(host.to_string());
                let (_, certificates) = entry.or_insert_with(|| (host.clone(), Vec::new()));
                if certificates.len() < MOST_CERTIFICATES && !certificates.contains(&found) {
                    certificates.push(found.clone());
                }
            }
        }
    }
    all.into_values().collect()
}

/// Most certificates of one host that a gateway takes.
const MOST_CERTIFICATES: usize = 64;

/// A rule without matches that sends to a backend.
fn rule(
    mesh: &Mesh,
    ingress: &Ingress,
    name: &str,
    backend: &IngressBackend,
    findings: &mut Vec<Diagnostic>,
) -> RouteRule {
    let mut reference = backend.reference.clone();
    resolve(mesh, &ingress.origin, backend, &mut reference, findings);
    let action = Action {
        backends: vec![reference],
        ..Action::default()
    };
    let from = From {
        mesh,
        origin: &ingress.origin,
        parent: None,
        at: None,
    };
    let resolved = from.action(&action, findings);
    resolved.rule(ingress.origin.with_rule(name), None, &RouteMatch::default(), true)
}

/// Finds the number of a port that is named.
fn resolve(
    mesh: &Mesh,
    origin: &Origin,
    backend: &IngressBackend,
    reference: &mut BackendRef,
    findings: &mut Vec<Diagnostic>,
) {
    let (Some(port), Target::Service(name), None) =
        (&backend.port_name, &reference.target, &reference.invalid)
    else {
        return;
    };
    let Some(service) = mesh.services.get(name) else {
        return;
    };
    reference.port = service
        .ports
        .iter()
        .find(|declared| declared.name == *port)
        .map(|declared| declared.port);
    if reference.port.is_none() {
        let reason = format!("Service {name} has no port named {port:?}");
        let finding = Diagnostic::error("route-backend-port-missing", origin).at(&reference.field);
        let said = format!("{reason}; this backend's share is answered with 500");
        findings.push(finding.because(said).so("name a port that the Service has"));
        reference.invalid = Some(reason.into());
    }
}

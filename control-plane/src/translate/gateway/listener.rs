//! Whether listeners can be served: protocol, collisions, certificates.

use super::{Judged, JudgedListener, Refusal};
use crate::mesh::gateway::{CertificateRef, DeclaredListener, SecretProblem};
use crate::mesh::{DeclaredGateway, Diagnostic, Mesh, in_namespace};
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_proto::model::annotations::CONTROL_PLANE;
use weft_proto::model::{HostPattern, Listener, ListenerProtocol, Origin, ServerCertificate, ServiceName};

/// Most certificates of one listener that a gateway takes.
const MOST_CERTIFICATES: usize = 64;

/// What can share a port: HTTP, or HTTPS and TLS by server name, or one TCP.
pub(super) fn class(protocol: ListenerProtocol) -> u8 {
    match protocol {
        ListenerProtocol::Http => 0,
        ListenerProtocol::Https | ListenerProtocol::Tls => 1,
        ListenerProtocol::Tcp => 2,
    }
}

/// Kinds of route that a listener takes, and why not all that it names.
pub(super) fn kinds(listener: &DeclaredListener) -> (Vec<&'static str>, Option<String>) {
    let carried: &[&'static str] = match (&listener.protocol, listener.passthrough) {
        (Ok(ListenerProtocol::Http | ListenerProtocol::Https), _) => &["HTTPRoute", "GRPCRoute"],
        (Ok(ListenerProtocol::Tls), true) => &["TLSRoute"],
        (Ok(ListenerProtocol::Tls), false) => &["TLSRoute", "TCPRoute"],
        (Ok(ListenerProtocol::Tcp), _) => &["TCPRoute"],
        (Err(_), _) => &[],
    };
    let Some(named) = &listener.kinds else {
        return (carried.to_vec(), None);
    };
    let wanted = |kind: &&'static str| named.iter().any(|named| **named == **kind);
    let other = named.iter().find(|named| !carried.contains(&&***named));
    let wrong = listener.invalid_kinds.as_ref().map(ToString::to_string);
    let wrong = wrong.or_else(|| other.map(|other| format!("a {other} can't be attached to this protocol")));
    (carried.iter().copied().filter(wanted).collect(), wrong)
}

/// Judges the listeners of a Gateway. Rules are filled in later.
pub(super) fn judge(mesh: &Mesh, gateway: &DeclaredGateway, findings: &mut Vec<Diagnostic>) -> Judged {
    let mut judged = Judged::default();
    let conflicts = conflicts(&gateway.listeners);
    for (declared, conflicted) in gateway.listeners.iter().zip(conflicts) {
        let (kinds, wrong_kinds) = kinds(declared);
        let mut listener = JudgedListener {
            name: declared.name.clone(),
            kinds,
            attached: 0,
            refused: refused(declared),
            conflicted,
            unresolved: None,
            listener: None,
        };
        let mut say = |code, field: &str, message: &str, action| {
            let finding = Diagnostic::error(code, &gateway.origin).at(field);
            findings.push(finding.because(message).so(action));
        };
        if let Some(refused) = &listener.refused
            && declared.invalid.is_none()
        {
            let action = "use HTTP, HTTPS, TLS or TCP";
            say(
                "gateway-listener-invalid",
                &declared.field,
                &refused.message,
                action,
            );
        }
        if let Some(conflicted) = &listener.conflicted {
            let action = "give it another port or hostname";
            say(
                "gateway-listener-conflict",
                &declared.field,
                &conflicted.message,
                action,
            );
        }
        if let Some(message) = wrong_kinds {
            let action = "name kinds that it can carry";
            let field = format!("{}.allowedRoutes.kinds", declared.field);
            say("gateway-listener-invalid", &field, &message, action);
            listener.unresolved = Some(Refusal {
                reason: "InvalidRouteKinds",
                message,
            });
        }
        let certificates = match ends_tls(declared) {
            true => certificates(mesh, gateway, declared, &mut judged.waiting, findings),
            false => Found::default(),
        };
        if certificates.unresolved.is_some() {
            listener.unresolved = certificates.unresolved;
        }
        let proven = !ends_tls(declared) || !certificates.usable.is_empty();
        if let (None, None, true, Ok(protocol)) = (
            &listener.refused,
            &listener.conflicted,
            proven,
            &declared.protocol,
        ) {
            listener.listener = Some(Listener {
                origin: gateway.origin.with_rule(format!("listeners[{}]", declared.name)),
                name: declared.name.clone(),
                port: declared.port,
                bind: declared.port,
                protocol: *protocol,
                host: match protocol {
                    ListenerProtocol::Tcp => HostPattern::Any,
                    _ => declared.host.clone(),
                },
                certificates: certificates.usable,
                hosts: vec![],
                connections: vec![],
            });
        }
        judged.listeners.push(listener);
    }
    judged
}

fn ends_tls(declared: &DeclaredListener) -> bool {
    match declared.protocol {
        Ok(ListenerProtocol::Https) => true,
        Ok(ListenerProtocol::Tls) => !declared.passthrough,
        _ => false,
    }
}

fn refused(declared: &DeclaredListener) -> Option<Refusal> {
    if let Err(other) = &declared.protocol {
        return Some(Refusal {
            reason: "UnsupportedProtocol",
            message: format!("the protocol {other:?} isn't served"),
        });
    }
    declared.invalid.as_ref().map(|reason| Refusal {
        reason: "UnsupportedValue",
        message: reason.to_string(),
    })
}

/// For each listener: why it collides with others. None of those that collide is served (Gateway API, ListenerConditionConflicted).
fn conflicts(listeners: &[DeclaredListener]) -> Vec<Option<Refusal>> {
    // What can share the port, host, and name.
    type Taken<'a> = Vec<(u8, &'a HostPattern, &'a Arc<str>)>;
    let mut ports: BTreeMap<u16, Taken<'_>> = BTreeMap::new();
    let any = HostPattern::Any;
    let of =
        |listener: &'_ DeclaredListener| listener.protocol.as_ref().ok().map(|protocol| class(*protocol));
    fn host<'a>(listener: &'a DeclaredListener, any: &'a HostPattern) -> &'a HostPattern {
        match listener.protocol {
            Ok(ListenerProtocol::Tcp) => any,
            _ => &listener.host,
        }
    }
    for listener in listeners {
        if let Some(class) = of(listener) {
            let all = ports.entry(listener.port).or_default();
            all.push((class, host(listener, &any), &listener.name));
        }
    }
    let conflict = |listener: &DeclaredListener| {
        let class = of(listener)?;
        let others = ports
            .get(&listener.port)?
            .iter()
            .filter(|(.., name)| **name != listener.name);
        for (other, its, name) in others {
            if *other != class {
                let message = format!(
                    "port {} is {name:?}'s too, with a protocol that can't share it",
                    listener.port
                );
                let reason = "ProtocolConflict";
                return Some(Refusal { reason, message });
            }
            if *its == host(listener, &any) {
                let message = format!("port {} and hostname are those of {name:?} too", listener.port);
                let reason = "HostnameConflict";
                return Some(Refusal { reason, message });
            }
        }
        None
    };
    listeners.iter().map(conflict).collect()
}

#[derive(Default)]
struct Found {
    usable: Vec<ServerCertificate>,
    unresolved: Option<Refusal>,
}

fn certificates(
    mesh: &Mesh,
    gateway: &DeclaredGateway,
    declared: &DeclaredListener,
    waiting: &mut bool,
    findings: &mut Vec<Diagnostic>,
) -> Found {
    let mut found = Found::default();
    if declared.certificates.is_empty() {
        let message = "names no Secret with a certificate";
        let finding = Diagnostic::error("gateway-certificate-missing", &gateway.origin)
            .at(format!("{}.tls.certificateRefs", declared.field));
        findings.push(
            finding
                .because(message)
                .so("name a Secret of type kubernetes.io/tls"),
        );
        found.unresolved = Some(Refusal {
            reason: "InvalidCertificateRef",
            message: message.to_owned(),
        });
    }
    for reference in declared.certificates.iter().take(MOST_CERTIFICATES) {
        match certificate(mesh, &gateway.origin, reference) {
            Ok(usable) => found.usable.extend(usable),
            Err(Unusable { waits: true, .. }) => *waiting = true,
            Err(unusable) => {
                findings.extend(unusable.finding(&gateway.origin, reference));
                found.usable.extend(unusable.meanwhile.as_deref().cloned());
                found.unresolved.get_or_insert(Refusal {
                    reason: unusable.reason,
                    message: format!("{}: {}; {}", reference.field, unusable.message, unusable.action),
                });
            }
        }
    }
    let names = names(mesh, &declared.certificates);
    if let HostPattern::Exact(host) = &declared.host
        && !found.usable.is_empty()
        && !names.iter().any(|name| covers(name, host))
    {
        let finding = Diagnostic::warning("gateway-certificate-host", &gateway.origin);
        let finding = finding.at(format!("{}.tls.certificateRefs", declared.field));
        let finding = finding.because(format!("no certificate is for {host}: clients will refuse it"));
        findings.push(finding.so("name a Secret with a certificate for that host"));
    }
    found
}

fn names<'a>(mesh: &'a Mesh, references: &'a [CertificateRef]) -> Vec<&'a Arc<str>> {
    let secrets = references
        .iter()
        .filter_map(|reference| reference.secret.as_ref().ok());
    let secrets = secrets.filter_map(|name| mesh.tls_secrets.get(name));
    secrets.flat_map(|secret| &secret.names).collect()
}

/// Whether a name of a certificate is for a host: `*` stands for one label (RFC 9525, section 6.3).
pub(super) fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(suffix) => host.split_once('.').is_some_and(|(_, rest)| rest == suffix),
        None => name == host,
    }
}

/// Why a reference gives no certificate, or not the one that is wanted.
pub(super) struct Unusable {
    pub(super) reason: &'static str,
    code: &'static str,
    pub(super) message: String,
    pub(super) action: String,
    /// The last one that could be used.
    pub(super) meanwhile: Option<Arc<ServerCertificate>>,
    /// It hasn't been looked for yet.
    pub(super) waits: bool,
}

impl Unusable {
    /// As a finding, unless the reader has said it already.
    pub(super) fn finding(&self, object: &Origin, reference: &CertificateRef) -> Option<Diagnostic> {
        let finding = Diagnostic::error(self.code, object).at(&reference.field);
        let new = reference.secret.is_ok();
        new.then(|| finding.because(&self.message).so(&self.action))
    }
}

/// The certificate of a reference.
pub(super) fn certificate(
    mesh: &Mesh,
    object: &Origin,
    reference: &CertificateRef,
) -> Result<Option<ServerCertificate>, Unusable> {
    const INVALID: &str = "InvalidCertificateRef";
    let unusable = |reason, code, message: String, action: &str| Unusable {
        reason,
        code,
        message,
        action: action.to_owned(),
        meanwhile: None,
        waits: false,
    };
    let name = match &reference.secret {
        Ok(name) => name,
        Err(reason) => {
            let action = "name a Secret of type kubernetes.io/tls";
            return Err(unusable(
                INVALID,
                "gateway-certificate-missing",
                reason.to_string(),
                action,
            ));
        }
    };
    if !permitted(mesh, object, name) {
        let message = format!(
            "no ReferenceGrant of namespace {} lets it refer to Secret {name}",
            name.namespace
        );
        let action = "create one there, or name a Secret of this namespace";
        return Err(unusable(
            "RefNotPermitted",
            "gateway-certificate-not-permitted",
            message,
            action,
        ));
    }
    let Some(secret) = mesh.tls_secrets.get(name) else {
        let message = format!("Secret {name} isn't there");
        let missing = unusable(INVALID, "gateway-certificate-missing", message, "create it");
        return Err(Unusable {
            waits: true,
            ..missing
        });
    };
    let usable = secret.certificate.clone();
    let Some(problem) = &secret.problem else {
        return Ok(usable.as_deref().cloned());
    };
    let (message, action) = match problem {
        SecretProblem::Missing => (
            format!("Secret {name} isn't there"),
            "create it, of type kubernetes.io/tls".to_owned(),
        ),
        SecretProblem::Forbidden => (
            format!("the control plane may not read Secret {name}"),
            format!(
                "give the service account {CONTROL_PLANE} the right there, by a Role with {{apiGroups: [\"\"], resources: [secrets], \
                 verbs: [get, list, watch]}}; the chart weft-gateway does that for its namespace and those of the value tls.namespaces"
            ),
        ),
        SecretProblem::Broken(reason) => (
            format!("Secret {name} {reason}"),
            "correct it; a certificate that could be used before is served until then".to_owned(),
        ),
    };
    Err(Unusable {
        meanwhile: usable,
        ..unusable(INVALID, "gateway-certificate-missing", message, &action)
    })
}

/// Whether an object may refer to a Secret.
pub(super) fn permitted(mesh: &Mesh, object: &Origin, name: &ServiceName) -> bool {
    let mut grants = in_namespace(&mesh.grants, &name.namespace);
    name.namespace == object.namespace
        || grants.any(|(_, grant)| grant.allows(&object.kind, &object.namespace, &grant.secrets, &name.name))
}

//! References of routes to Services, resolved.

use crate::mesh::{Action, BackendRef, Diagnostic, Mesh, ServiceType};
use std::sync::Arc;
use weft_proto::model::{Backend, Mirror, Origin, RouteMatch, RouteRule, ServiceName, StringMatch};

/// Who refers.
pub(in crate::translate) struct From<'a> {
    pub(in crate::translate) mesh: &'a Mesh,
    /// The route.
    pub(in crate::translate) origin: &'a Origin,
    /// The Service whose route it is, if it is one's: a reference to itself gives away nothing.
    pub(in crate::translate) parent: Option<&'a ServiceName>,
    /// The port that callers use, for Istio's references to Services of many ports.
    pub(in crate::translate) at: Option<u16>,
}

/// What becomes of connections to a backend that can't be used.
pub(in crate::translate) const SHARE_REFUSED: &str = "this backend's share of connections is refused";

/// Why a reference can't be used: code, reason, what to do.
type Refused = (&'static str, String, &'static str);

/// What a rule does, with its references resolved.
pub(in crate::translate) struct Resolved<'a> {
    action: &'a Action,
    backends: Vec<Backend>,
    mirrors: Vec<Mirror>,
}

impl From<'_> {
    /// Resolves the references of a rule.
    pub(in crate::translate) fn action<'a>(
        &self,
        action: &'a Action,
        findings: &mut Vec<Diagnostic>,
    ) -> Resolved<'a> {
        let backends = action.backends.iter();
        let mirrors = action.mirrors.iter().filter_map(|(backend, millionths)| {
            let backend = self.reference(backend, "copies aren't sent", findings);
            let millionths = *millionths;
            backend
                .invalid
                .is_none()
                .then_some(Mirror { backend, millionths })
        });
        let mirrors = mirrors.collect();
        Resolved {
            action,
            backends: backends
                .map(|backend| self.reference(backend, "this backend's share is answered with 500", findings))
                .collect(),
            mirrors,
        }
    }

    /// Whether some reference names no port of a Service that has many: it is the one that callers use.
    pub(super) fn depends_on_port<'r>(&self, mut references: impl Iterator<Item = &'r BackendRef>) -> bool {
        references.any(|backend| {
            let name = backend.target.service(&self.mesh.settings.cluster_domain);
            let service = name.ok().and_then(|name| self.mesh.services.get(&name));
            backend.port.is_none() && service.is_some_and(|service| service.ports.len() > 1)
        })
    }

    /// Finds a backend's Service and port; one that isn't there can't be used, and `so` says what that means.
    pub(in crate::translate) fn reference(
        &self,
        backend: &BackendRef,
        so: &str,
        findings: &mut Vec<Diagnostic>,
    ) -> Backend {
        let named = backend.target.service(&self.mesh.settings.cluster_domain);
        let found = match (&named, &backend.invalid) {
            (_, Some(reason)) => Err(Err(reason.clone())),
            (Err(host), _) => Err(Ok((
                "route-backend-missing",
                format!("no Service of the cluster has the name {host}"),
                "name a Service",
            ))),
            (Ok(name), None) => self.port(name, backend.port).map_err(Ok),
        };
        let (port, invalid) = match found {
            Ok(port) => (port, None),
            Err(Err(reason)) => (backend.port.unwrap_or_default(), Some(reason)),
            Err(Ok((code, reason, action))) => {
                let finding = Diagnostic::error(code, self.origin).at(&backend.field);
                findings.push(finding.because(format!("{reason}; {so}")).so(action));
                (backend.port.unwrap_or_default(), Some(Arc::from(reason)))
            }
        };
        Backend {
            service: named.unwrap_or_else(|_| ServiceName::new(&self.origin.namespace, "invalid")),
            port,
            weight: backend.weight,
            invalid,
            subset: backend.subset.clone(),
            request_headers: backend.request_headers.clone(),
            response_headers: backend.response_headers.clone(),
        }
    }

    fn port(&self, name: &ServiceName, port: Option<u16>) -> Result<u16, Refused> {
        if !self.granted(name) {
            let reason = format!(
                "no ReferenceGrant of namespace {} lets it refer to Service {name}",
                name.namespace
            );
            return Err((
                "route-backend-not-permitted",
                reason,
                "create one there, or send to a Service of this namespace",
            ));
        }
        let Some(service) = self.mesh.services.get(name) else {
            return Err((
                "route-backend-missing",
                format!("Service {name} doesn't exist"),
                "create it, or correct the name",
            ));
        };
        if service.service_type == ServiceType::ExternalName {
            let reason = format!("Service {name} is an ExternalName, which can't be a backend");
            return Err(("route-backend-missing", reason, "name a Service with pods"));
        }
        match (port, &service.ports[..]) {
            (Some(port), ports) if ports.iter().any(|declared| declared.port == port) => Ok(port),
            (None, [only]) => Ok(only.port),
            (None, ports) if ports.iter().any(|declared| Some(declared.port) == self.at) => {
                Ok(self.at.unwrap_or_default())
            }
            (Some(port), _) => Err((
                "route-backend-port-missing",
                format!("Service {name} has no port {port}"),
                "name a port that the Service has",
            )),
            (None, ports) => Err((
                "route-backend-port-missing",
                format!(
                    "Service {name} has {} ports, of which none is named or the one that callers use",
                    ports.len()
                ),
                "name one of them",
            )),
        }
    }

    /// Whether the route may refer to a Service: one of its own namespace, the one that it is a route of, or one that a
    /// ReferenceGrant allows. Istio's routes need no grants.
    fn granted(&self, name: &ServiceName) -> bool {
        let origin = self.origin;
        if name.namespace == origin.namespace
            || Some(name) == self.parent
            || &*origin.kind == "VirtualService"
        {
            return true;
        }
        crate::mesh::in_namespace(&self.mesh.grants, &name.namespace)
            .any(|(_, grant)| grant.allows(&origin.kind, &origin.namespace, &grant.to, &name.name))
    }
}

impl Resolved<'_> {
    /// The rule for one match.
    pub(in crate::translate) fn rule(
        &self,
        origin: Origin,
        port: Option<u16>,
        matches: &RouteMatch,
        alone: bool,
    ) -> RouteRule {
        let action = self.action;
        let session = action.session.clone().map(|mut session| {
            if session.path.is_empty() {
                // GEP-1619: the cookie is for the route's path. One rule of many paths has one session for all.
                session.path = match &matches.path {
                    Some(StringMatch::PathPrefix(path) | StringMatch::Exact(path))
                        if alone && !path.contains(';') =>
                    {
                        path.clone()
                    }
                    _ => "/".into(),
                };
            }
            session
        });
        RouteRule {
            origin,
            port,
            matches: matches.clone(),
            backends: self.backends.clone(),
            request_timeout: action.request_timeout,
            backend_timeout: action.backend_timeout,
            request_headers: action.request_headers.clone(),
            response_headers: action.response_headers.clone(),
            answer: action.answer.clone(),
            rewrite: action.rewrite.clone(),
            mirrors: self.mirrors.clone(),
            cors: action.cors.clone(),
            fault: action.fault.clone(),
            retries: action.retries.clone(),
            session,
        }
    }
}

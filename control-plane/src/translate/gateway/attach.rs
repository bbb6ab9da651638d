//! Which routes are attached to which listeners (Gateway API, ParentReference and AllowedRoutes).

use super::overlap::{Taken, age};
use super::{Refusal, listener};
use crate::mesh::gateway::{DeclaredListener, Namespaces};
use crate::mesh::{DeclaredGateway, Diagnostic, GatewayParent, Mesh, Route};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_proto::model::{HostPattern, ServiceName};

/// How a route stands with a Gateway that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Path of the reference in the route.
    pub field: Arc<str>,
    /// Why no listener takes it; `None`: some do.
    pub refused: Option<Refusal>,
}

/// A route at a listener, with the hosts that it is for there.
pub(super) struct Attached<'a> {
    pub(super) route: &'a Route,
    /// For requests; the listener's own where the route names none.
    pub(super) hosts: Vec<HostPattern>,
}

/// Routes by Gateway and index of the listener.
pub(super) type ByListener<'a> = BTreeMap<(ServiceName, usize), Vec<Attached<'a>>>;

/// How many routes they are.
pub(super) fn routes(attached: &[Attached<'_>]) -> usize {
    let names = attached.iter().map(|one| &one.route.origin);
    names
        .map(|origin| (&origin.kind, &origin.namespace, &origin.name))
        .collect::<BTreeSet<_>>()
        .len()
}

/// Attaches every route to the listeners of Weft's Gateways that take it.
pub(super) fn attach<'a>(
    mesh: &'a Mesh,
    attachments: &mut BTreeMap<(Arc<str>, ServiceName), Vec<Attachment>>,
    findings: &mut Vec<Diagnostic>,
) -> ByListener<'a> {
    let mut all = ByListener::new();
    let mut taken: BTreeMap<(ServiceName, usize), Taken<'_>> = BTreeMap::new();
    let mut routes: Vec<&Route> = mesh.routes.values().map(|route| &**route).collect();
    routes.retain(|route| !route.gateways.is_empty());
    routes.sort_by(|a, b| age(a).cmp(&age(b)));
    for route in routes {
        for parent in &route.gateways {
            let gateway = match mesh.gateways.get(&parent.gateway) {
                Some(gateway) if mesh.serves_gateways(&gateway.class) => gateway,
                Some(_) => continue,
                None => {
                    // Whose it will be isn't known: nothing for its status.
                    let finding =
                        Diagnostic::warning("route-gateway-missing", &route.origin).at(&parent.field);
                    let reason = format!("Gateway {} doesn't exist", parent.gateway);
                    findings.push(finding.because(reason).so("create it, or correct the reference"));
                    continue;
                }
            };
            let refused = match listeners(mesh, gateway, route, parent) {
                Ok(found) => {
                    let (mut attached, mut conflict) = (false, None);
                    for (index, hosts) in found {
                        let key = (parent.gateway.clone(), index);
                        match taken.entry(key.clone()).or_default().take(route, &hosts) {
                            Ok(()) => {
                                attached = true;
                                all.entry(key).or_default().push(Attached { route, hosts });
                            }
                            Err(refused) => {
                                let finding =
                                    Diagnostic::error("route-conflict", &route.origin).at(&parent.field);
                                let name = &gateway.listeners[index].name;
                                let reason =
                                    format!("isn't attached to listener {name:?}: {}", refused.message);
                                let action =
                                    "use one kind for a host, or a listener for each (`sectionName`)";
                                findings.push(finding.because(reason).so(action));
                                conflict.get_or_insert(refused);
                            }
                        }
                    }
                    conflict.filter(|_| !attached)
                }
                Err(refused) => {
                    let (code, action) = match refused.reason {
                        "NotAllowedByListeners" => (
                            "route-not-allowed",
                            "let it in by `allowedRoutes` of a listener, or attach it to another one",
                        ),
                        "NoMatchingListenerHostname" => {
                            ("route-host-mismatch", "name a host that a listener is for")
                        }
                        _ => ("route-listener-missing", "name a listener that the Gateway has"),
                    };
                    let finding = Diagnostic::error(code, &route.origin).at(&parent.field);
                    findings.push(finding.because(&refused.message).so(action));
                    Some(refused)
                }
            };
            let name = ServiceName::new(&route.origin.namespace, &route.origin.name);
            let entry = attachments.entry((route.origin.kind.clone(), name)).or_default();
            entry.push(Attachment {
                field: parent.field.clone(),
                refused,
            });
        }
    }
    all
}

/// Indexes of the listeners that take a route, and the hosts there.
fn listeners(
    mesh: &Mesh,
    gateway: &DeclaredGateway,
    route: &Route,
    parent: &GatewayParent,
) -> Result<Vec<(usize, Vec<HostPattern>)>, Refusal> {
    let refuse = |reason, message: String| Err(Refusal { reason, message });
    let meant = |listener: &DeclaredListener| {
        parent
            .section
            .as_ref()
            .is_none_or(|section| *section == listener.name)
            && parent.port.is_none_or(|port| port == listener.port)
    };
    let all = gateway.listeners.iter().enumerate();
    let named: Vec<_> = all.filter(|(_, listener)| meant(listener)).collect();
    if named.is_empty() {
        let what = match (&parent.section, parent.port) {
            (Some(section), None) => format!(" named {section:?}"),
            (None, Some(port)) => format!(" on port {port}"),
            (Some(section), Some(port)) => format!(" named {section:?} on port {port}"),
            (None, None) => String::new(),
        };
        let message = format!("Gateway {} has no listener{what}", gateway.name);
        return refuse("NoMatchingParent", message);
    }
    let takes = |listener: &DeclaredListener| {
        let (kinds, _) = listener::kinds(listener);
        kinds.contains(&&*route.origin.kind) && lets_in(mesh, gateway, listener, &route.origin.namespace)
    };
    let taking: Vec<_> = named
        .into_iter()
        .filter(|(_, listener)| takes(listener))
        .collect();
    if taking.is_empty() {
        let message = format!(
            "no listener of Gateway {} lets in a {} of namespace {}",
            gateway.name, route.origin.kind, route.origin.namespace
        );
        return refuse("NotAllowedByListeners", message);
    }
    let found: Vec<_> = taking
        .into_iter()
        .filter_map(|(index, listener)| Some((index, hosts(listener, route)?)))
        .collect();
    if found.is_empty() {
        let message = format!(
            "no host of the route is one that a listener of Gateway {} is for",
            gateway.name
        );
        return refuse("NoMatchingListenerHostname", message);
    }
    Ok(found)
}

/// Whether routes of a namespace may attach.
fn lets_in(
    mesh: &Mesh,
    gateway: &DeclaredGateway,
    listener: &DeclaredListener,
    namespace: &Arc<str>,
) -> bool {
    match &listener.namespaces {
        Namespaces::Same => *namespace == gateway.name.namespace,
        Namespaces::All => true,
        Namespaces::Nothing => false,
        Namespaces::Selected(selector) => match mesh.namespaces.get(namespace) {
            Some(known) => selector.selects(&known.labels),
            // A manifest needn't declare it; every namespace has this label.
            None => selector.selects(&[("kubernetes.io/metadata.name".into(), namespace.clone())].into()),
        },
    }
}

/// The hosts that a route is for at a listener; `None`: none.
fn hosts(listener: &DeclaredListener, route: &Route) -> Option<Vec<HostPattern>> {
    let names = match &*route.origin.kind {
        "TCPRoute" => return Some(vec![]),
        "TLSRoute" => {
            let names = route.connections.iter().flat_map(|rule| &rule.server_names);
            names.filter_map(|name| HostPattern::parse(name)).collect()
        }
        _ => route.hosts.clone(),
    };
    if names.is_empty() {
        return Some(vec![listener.host.clone()]);
    }
    let both: BTreeSet<_> = names
        .iter()
        .filter_map(|name| name.meet(&listener.host))
        .map(Sorted)
        .collect();
    (!both.is_empty()).then(|| both.into_iter().map(|host| host.0).collect())
}

/// Patterns in an order of their own, each once.
#[derive(PartialEq, Eq)]
struct Sorted(HostPattern);

impl Ord for Sorted {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |host: &HostPattern| (host.rank(), host.to_string());
        key(&self.0).cmp(&key(&other.0))
    }
}

impl PartialOrd for Sorted {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

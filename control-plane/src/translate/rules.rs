//! Which DestinationRule counts: of the caller's namespace, else of the Service's, else of the root namespace; there the most
//! specific host, then the oldest (Istio, "Destination rule resolution").

use crate::mesh::{
    BackendPolicy, BackendTraffic, DeclaredService, DestinationRule, Export, Labels, Mesh, ServiceType, host,
    object,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_proto::model::ServiceName;

/// Most keys of labels that are looked at of one Service's endpoints, or of one pod.
const MOST_KEYS: usize = 256;

/// Rules by the Services that they are about.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    mesh: &'a Mesh,
    exact: BTreeMap<ServiceName, Vec<&'a DestinationRule>>,
    /// The longest end of a name first.
    wild: Vec<(&'a str, &'a DestinationRule)>,
    budgets: BTreeMap<&'a ServiceName, &'a BackendPolicy>,
    sessions: BTreeMap<&'a ServiceName, &'a BackendPolicy>,
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub(super) enum Caller<'a> {
    /// Somebody of a namespace about which no rule says anything of its own.
    Anybody,
    /// Somebody of a namespace.
    Of(&'a str),
    /// A pod.
    Pod(&'a str, &'a Labels),
}

impl<'a> Rules<'a> {
    /// Every rule of a mesh.
    pub(super) fn new(mesh: &'a Mesh) -> Self {
        let mut rules = Self {
            mesh,
            exact: BTreeMap::new(),
            wild: Vec::new(),
            budgets: BTreeMap::new(),
            sessions: BTreeMap::new(),
        };
        let mut all: Vec<&DestinationRule> = mesh.destination_rules.values().map(|rule| &**rule).collect();
        all.sort_by_key(|rule| age(rule));
        for rule in all {
            match rule.host.strip_prefix('*') {
                Some(end) => rules.wild.push((end, rule)),
                None => {
                    let domain = &mesh.settings.cluster_domain;
                    if let Some(name) = host::service(&rule.host, &rule.origin.namespace, domain) {
                        rules.exact.entry(name).or_default().push(rule);
                    }
                }
            }
        }
        rules.wild.sort_by_key(|(end, _)| std::cmp::Reverse(end.len()));
        let mut policies: Vec<&BackendPolicy> =
            mesh.backend_policies.values().map(|policy| &**policy).collect();
        policies.sort_by_key(|policy| (policy.created.unwrap_or(i64::MAX), &policy.origin.name));
        for policy in policies {
            for (name, _) in &policy.targets {
                if policy.says.retry_budget.is_some() {
                    rules.budgets.entry(name).or_insert(policy);
                }
                if policy.says.session.is_some() {
                    rules.sessions.entry(name).or_insert(policy);
                }
            }
        }
        rules
    }

    /// The cluster's DNS domain.
    pub(super) fn domain(&self) -> &'a str {
        &self.mesh.settings.cluster_domain
    }

    /// What policies say of a Service: of each part, the oldest that says something of it.
    pub(super) fn backend(&self, service: &ServiceName) -> BackendTraffic {
        let budget = self.budgets.get(service);
        let session = self.sessions.get(service);
        BackendTraffic {
            retry_budget: budget.and_then(|policy| policy.says.retry_budget),
            session: session.and_then(|policy| policy.says.session.clone()),
        }
    }

    /// The policy that counts for something that this one says of a Service, if that is another one.
    pub(super) fn backend_before(
        &self,
        policy: &BackendPolicy,
        service: &ServiceName,
    ) -> Option<&'a BackendPolicy> {
        let budget = self.budgets.get(service);
        let session = self.sessions.get(service);
        let budget = budget.filter(|_| policy.says.retry_budget.is_some());
        let session = session.filter(|_| policy.says.session.is_some());
        let mut counts = budget.into_iter().chain(session).copied();
        counts.find(|first| first.origin != policy.origin)
    }

    /// Every rule about a Service: the most specific first, then the oldest.
    pub(super) fn about(&self, service: &ServiceName) -> Vec<&'a DestinationRule> {
        let mut all: Vec<_> = self.exact.get(service).into_iter().flatten().copied().collect();
        if !self.wild.is_empty() {
            let domain = &self.mesh.settings.cluster_domain;
            let full = format!("{}.{}.svc.{domain}", service.name, service.namespace);
            let wild = self.wild.iter().filter(|(end, _)| full.ends_with(end));
            all.extend(wild.map(|(_, rule)| *rule));
        }
        all
    }

    /// The rule that counts, of those [about](Self::about) a Service.
    pub(super) fn counts(
        &self,
        about: &[&'a DestinationRule],
        service: &ServiceName,
        caller: Caller<'_>,
    ) -> Option<&'a DestinationRule> {
        let (own, labels) = match caller {
            Caller::Anybody => (None, None),
            Caller::Of(namespace) => (Some(namespace), None),
            Caller::Pod(namespace, labels) => (Some(namespace), Some(labels)),
        };
        let of = |namespace: &str, selecting: bool| {
            let mut rules = about.iter().filter(|rule| *rule.origin.namespace == *namespace);
            rules
                .find(|rule| {
                    let meant = match (&rule.callers, labels) {
                        (None, _) => !selecting,
                        (Some(wanted), Some(labels)) => selecting && object::selects(wanted, labels),
                        (Some(_), None) => false,
                    };
                    meant && visible(rule, own)
                })
                .copied()
        };
        let root = &self.mesh.settings.root_namespace;
        own.and_then(|own| of(own, true).or_else(|| of(own, false)))
            .or_else(|| of(&service.namespace, false))
            .or_else(|| of(root, false))
    }

    /// Namespaces whose callers may have a rule that others haven't.
    pub(super) fn special<'b>(about: &'b [&'a DestinationRule]) -> BTreeSet<&'b Arc<str>> {
        let exported = about.iter().flat_map(|rule| match &rule.export {
            Export::All => [].iter(),
            Export::To(namespaces) => namespaces.iter(),
        });
        about
            .iter()
            .map(|rule| &rule.origin.namespace)
            .chain(exported)
            .collect()
    }

    /// Keys of the labels that rules look at of a Service's endpoints.
    pub(super) fn keys(&self, service: &ServiceName) -> BTreeSet<Arc<str>> {
        let mut keys = BTreeSet::new();
        for rule in self.about(service) {
            keys.extend(priority(rule).cloned());
            keys.extend(
                rule.subsets
                    .iter()
                    .flat_map(|subset| subset.labels.keys().cloned()),
            );
        }
        keys.into_iter().take(MOST_KEYS).collect()
    }

    /// Services that rules may say something about.
    pub(super) fn services(&self) -> impl Iterator<Item = &'a Arc<DeclaredService>> {
        let services = self.mesh.services.values();
        services.filter(|service| service.service_type != ServiceType::ExternalName)
    }
}

/// Whether a rule is for callers of a namespace; `None`: of any that isn't named.
fn visible(rule: &DestinationRule, namespace: Option<&str>) -> bool {
    match &rule.export {
        Export::All => true,
        Export::To(namespaces) => namespace.is_some_and(|own| namespaces.iter().any(|name| **name == *own)),
    }
}

fn age(rule: &DestinationRule) -> (i64, &str, &str) {
    (
        rule.created.unwrap_or(i64::MAX),
        &rule.origin.namespace,
        &rule.origin.name,
    )
}

/// Keys that some policy of a rule has in its failoverPriority.
fn priority(rule: &DestinationRule) -> impl Iterator<Item = &Arc<str>> {
    let subsets = rule.subsets.iter().map(|subset| &subset.policies);
    let all = std::iter::once(&rule.policies).chain(subsets);
    all.flat_map(|policies| std::iter::once(&policies.all).chain(policies.ports.values()))
        .filter_map(|policy| policy.balancing.as_ref())
        .flat_map(|balancing| balancing.locality.failover_priority.iter().map(|(key, _)| key))
}

/// Keys of the labels that callers need of themselves.
pub(super) fn caller_keys(mesh: &Mesh) -> BTreeSet<Arc<str>> {
    let keys: BTreeSet<_> = mesh
        .destination_rules
        .values()
        .flat_map(|rule| priority(rule))
        .cloned()
        .collect();
    keys.into_iter().take(MOST_KEYS).collect()
}

/// Whether rules of a namespace tell its callers apart by their labels.
pub(super) fn selects_callers(mesh: &Mesh, namespace: &str) -> bool {
    crate::mesh::in_namespace(&mesh.destination_rules, namespace).any(|(_, rule)| rule.callers.is_some())
}

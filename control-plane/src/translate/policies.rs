//! Authorization policies that select a pod.

use crate::mesh::{
    AuthorizationPolicy, DeclaredAction, DeclaredGateway, DeclaredRule, DeclaredSource, Mesh, Pod, Selection,
    object,
};
use std::sync::Arc;
use weft_proto::model::{Action, Policy, PolicyRule, Source, StringMatch};

/// Policies of the pod's namespace and of the root namespace that select it, by name.
pub(super) fn policies(mesh: &Mesh, pod: &Pod) -> Vec<Policy> {
    let root = &mesh.settings.root_namespace;
    let mut namespaces = vec![&pod.name.namespace];
    if root != &pod.name.namespace {
        namespaces.push(root);
    }
    let candidates = namespaces
        .into_iter()
        .flat_map(|namespace| crate::mesh::in_namespace(&mesh.authorization_policies, namespace));
    let selected = candidates.filter(|(_, policy)| selects(mesh, policy, pod));
    selected
        .filter_map(|(_, policy)| translate(mesh, policy))
        .collect()
}

/// Whether a policy is about a pod. A policy of the root namespace is about pods of every namespace.
pub(super) fn selects(mesh: &Mesh, policy: &AuthorizationPolicy, pod: &Pod) -> bool {
    let namespace = &policy.origin.namespace;
    if *namespace != pod.name.namespace && *namespace != mesh.settings.root_namespace {
        return false;
    }
    match &policy.selection {
        Selection::All => true,
        Selection::Labels(labels) => object::selects(labels, &pod.labels),
        Selection::Targets {
            services,
            gateways,
            classes,
        } => {
            let mut services = services.iter().filter_map(|name| mesh.services.get(name));
            let behind = services.any(|service| {
                let selector = &service.selector;
                service.name.namespace == pod.name.namespace
                    && !selector.is_empty()
                    && object::selects(selector, &pod.labels)
            });
            let serves = super::gateway::named(pod);
            behind
                || serves.is_some_and(|name| {
                    gateways.contains(&name) || is_of(mesh, policy, mesh.gateways.get(&name), classes)
                })
        }
    }
}

/// Whether a policy is about a Gateway by its class. Only the root namespace may speak for all namespaces.
fn is_of(
    mesh: &Mesh,
    policy: &AuthorizationPolicy,
    gateway: Option<&Arc<DeclaredGateway>>,
    classes: &[Arc<str>],
) -> bool {
    policy.origin.namespace == mesh.settings.root_namespace
        && gateway
            .is_some_and(|gateway| classes.contains(&gateway.class) && mesh.serves_gateways(&gateway.class))
}

fn translate(mesh: &Mesh, policy: &AuthorizationPolicy) -> Option<Policy> {
    let action = match policy.action {
        DeclaredAction::Allow => Action::Allow,
        // Nobody can be asked, so nobody can have agreed.
        DeclaredAction::Deny | DeclaredAction::Custom => Action::Deny,
        DeclaredAction::Audit => return None,
    };
    let rules = policy
        .rules
        .iter()
        .map(|rule| translate_rule(mesh, rule))
        .collect();
    Some(Policy {
        origin: policy.origin.clone(),
        action,
        rules,
    })
}

fn translate_rule(mesh: &Mesh, rule: &DeclaredRule) -> PolicyRule {
    PolicyRule {
        origin: rule.origin.clone(),
        from: rule
            .from
            .iter()
            .map(|source| translate_source(mesh, source))
            .collect(),
        to: rule.to.clone(),
        unsupported: rule.unsupported.clone(),
    }
}

fn translate_source(mesh: &Mesh, declared: &DeclaredSource) -> Source {
    let domain = &mesh.settings.trust_domain;
    let principal = |(namespace, account): &(Arc<str>, Arc<str>)| {
        StringMatch::Exact(format!("{domain}/ns/{namespace}/sa/{account}").into())
    };
    let mut source = declared.source.clone();
    source
        .principals
        .extend(declared.service_accounts.iter().map(principal));
    source
        .not_principals
        .extend(declared.not_service_accounts.iter().map(principal));
    source
}

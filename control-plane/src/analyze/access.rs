//! Policies that can match nobody: callers that don't exist, or that have no identity at a gateway.
//!
//! In: authorization policies, pods and namespaces. Out: findings about principals and namespaces of sources that no pod has. Never: a
//! judgement on callers of other trust domains or on patterns.

use crate::mesh::{DeclaredAction, Diagnostic, Mesh};
use crate::translate::gateway;
use std::collections::BTreeSet;
use weft_proto::model::StringMatch;

pub(super) fn find(mesh: &Mesh, findings: &mut Vec<Diagnostic>) {
    let accounts: BTreeSet<(&str, &str)> = mesh
        .pods
        .values()
        .map(|pod| (&*pod.name.namespace, &*pod.service_account))
        .collect();
    let exists = |namespace: &str| {
        mesh.namespaces.contains_key(namespace) || accounts.iter().any(|(of, _)| *of == namespace)
    };
    let own = format!("{}/", mesh.settings.trust_domain.as_str());
    for policy in mesh.authorization_policies.values() {
        let outside = gateway::protects_only_gateways(mesh, policy);
        for (i, rule) in policy.rules.iter().enumerate() {
            for (j, from) in rule.from.iter().enumerate() {
                let at = |field: &str| format!("spec.rules[{i}].from[{j}].source.{field}");
                let mut unknown = Vec::new();
                for namespace in &from.source.namespaces {
                    if let StringMatch::Exact(name) = namespace
                        && !exists(name)
                    {
                        unknown.push((at("namespaces"), format!("there is no namespace {name:?}")));
                    }
                }
                for principal in &from.source.principals {
                    let StringMatch::Exact(text) = principal else {
                        continue;
                    };
                    let text = text.strip_prefix("spiffe://").unwrap_or(text);
                    let Some((namespace, account)) = text
                        .strip_prefix(&*own)
                        .and_then(|rest| rest.strip_prefix("ns/"))
                        .and_then(|rest| rest.split_once("/sa/"))
                    else {
                        continue;
                    };
                    if !accounts.contains(&(namespace, account)) {
                        let reason = format!("no pod runs as service account {namespace}/{account}");
                        unknown.push((at("principals"), reason));
                    }
                }
                for (namespace, account) in &from.service_accounts {
                    if !accounts.contains(&(&**namespace, &**account)) {
                        let reason = format!("no pod runs as service account {namespace}/{account}");
                        unknown.push((at("serviceAccounts"), reason));
                    }
                }
                let identities = [
                    ("namespaces", from.source.namespaces.is_empty()),
                    ("principals", from.source.principals.is_empty()),
                    ("serviceAccounts", from.service_accounts.is_empty()),
                ];
                let mut action = "correct the name, or remove it";
                if outside && let Some((field, _)) = identities.iter().find(|(_, none)| !none) {
                    let reason = "clients of a gateway have proven no identity in the mesh".to_owned();
                    unknown = vec![(at(field), reason)];
                    action = "use ipBlocks, or the rule's `to`";
                }
                for (field, reason) in unknown {
                    let effect = match policy.action {
                        DeclaredAction::Allow => "nobody is allowed by it",
                        _ => "nobody is denied by it",
                    };
                    let finding = Diagnostic::warning("policy-caller-missing", &policy.origin).at(field);
                    findings.push(finding.because(format!("{reason}: {effect}")).so(action));
                }
            }
        }
    }
}

//! How callers treat the endpoints of a Service: what the Service says itself, under what rules say about it.
//!
//! Enters: a Service, and the rule that counts for the callers. Leaves: complete entries, for every port and subset that is
//! treated in a way of its own: sidecars merge nothing.

use crate::mesh::{
    BackendTraffic, Balancing, DeclaredService, DestinationRule, Policies, ServiceType, TrafficPolicy,
    traffic,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use weft_proto::model::{Algorithm, Balance, Hash, LocalityRules, Outliers, Preference, Subset, Traffic};

/// Most entries of one Service that a sidecar takes.
const MOST: usize = 256;

/// How a Service's endpoints are treated.
#[derive(Debug, Default)]
pub(super) struct Treated {
    /// See [`weft_proto::model::Service::traffic`].
    pub(super) traffic: Vec<Traffic>,
    /// The rule's.
    pub(super) subsets: Vec<Subset>,
    /// How many entries were left out.
    pub(super) left_out: usize,
}

/// Merges what a Service says, what policies say of it, and a rule.
pub(super) fn treat(
    service: &DeclaredService,
    policies: BackendTraffic,
    rule: Option<&DestinationRule>,
) -> Treated {
    let own = own(service, policies);
    let Some(rule) = rule else {
        return Treated {
            traffic: own.into_iter().collect(),
            ..Treated::default()
        };
    };
    let base = own.clone().unwrap_or_default();
    let top = &rule.policies;
    let mut treated = Treated::default();
    let mut add = |port: Option<u16>, subset: Option<&traffic::DeclaredSubset>, policy: &TrafficPolicy| {
        let place = match (subset, port) {
            (None, None) => "".to_owned(),
            (None, Some(port)) => format!("portLevelSettings[{port}]"),
            (Some(subset), None) => format!("subsets[{}]", subset.name),
            (Some(subset), Some(port)) => format!("subsets[{}].portLevelSettings[{port}]", subset.name),
        };
        let merged = merge(&base, policy);
        treated.traffic.push(Traffic {
            origin: rule.origin.with_rule(place),
            port,
            subset: subset.map(|subset| subset.name.clone()),
            ..merged
        });
    };
    let has = |port: &u16| service.ports.iter().any(|declared| declared.port == *port);
    let known = |policies: &Policies| {
        policies
            .ports
            .keys()
            .copied()
            .filter(has)
            .collect::<BTreeSet<u16>>()
    };
    if top.all != TrafficPolicy::default() {
        add(None, None, &top.all);
    }
    for port in known(top) {
        add(Some(port), None, &top.ports[&port]);
    }
    for subset in &rule.subsets {
        let policies = &subset.policies;
        // A subset inherits what it doesn't say, and what is said of single ports of all subsets too.
        if policies.all != TrafficPolicy::default() {
            add(None, Some(subset), &over(&top.all, &policies.all));
            for port in known(top) {
                if !policies.ports.contains_key(&port) {
                    add(Some(port), Some(subset), &over(&top.ports[&port], &policies.all));
                }
            }
        }
        // A port inherits nothing but the budget, which there is none of for single ports.
        for port in known(policies) {
            let budget = policies.all.retry_budget.or(top.all.retry_budget);
            let policy = TrafficPolicy {
                retry_budget: budget,
                ..policies.ports[&port].clone()
            };
            add(Some(port), Some(subset), &policy);
        }
    }
    if top.all == TrafficPolicy::default() {
        treated.traffic.splice(0..0, own);
    }
    treated.left_out = treated.traffic.len().saturating_sub(MOST);
    treated.traffic.truncate(MOST);
    let subset = |subset: &traffic::DeclaredSubset| Subset {
        name: subset.name.clone(),
        labels: pairs(&subset.labels),
    };
    treated.subsets = rule.subsets.iter().map(subset).collect();
    treated
}

fn pairs(labels: &crate::mesh::Labels) -> Vec<(Arc<str>, Arc<str>)> {
    let pair = |(key, value): (&Arc<str>, &Arc<str>)| (key.clone(), value.clone());
    labels.iter().map(pair).collect()
}

/// What a Service says itself, with what policies say of it; `None`: nothing.
fn own(service: &DeclaredService, policies: BackendTraffic) -> Option<Traffic> {
    let declared = &service.traffic;
    let sticky = Balance {
        algorithm: Algorithm::Maglev,
        hash: Some(Hash::Source),
        ..Balance::default()
    };
    // Who calls a headless Service has chosen a pod.
    let chooses = service.service_type == ServiceType::Cluster;
    let said = Traffic {
        balance: match declared.sticky && chooses {
            true => sticky,
            false => Balance::default(),
        },
        locality: LocalityRules {
            preference: declared.preference,
            ..LocalityRules::default()
        },
        outliers: Outliers {
            success_rate_deviation: declared.success_rate_deviation,
            latency_factor: declared.latency_factor,
            ..Outliers::default()
        },
        health_check: declared.health_check.clone(),
        retry_budget: policies.retry_budget,
        session: policies.session.filter(|_| chooses),
        ..Traffic::default()
    };
    (said != Traffic::default()).then(|| Traffic {
        origin: service.origin.clone(),
        ..said
    })
}

/// A policy over what the Service says.
fn merge(base: &Traffic, policy: &TrafficPolicy) -> Traffic {
    let mut traffic = base.clone();
    if let Some(Balancing {
        choice,
        warmup,
        locality,
    }) = &policy.balancing
    {
        if let Some((algorithm, hash, size)) = choice {
            traffic.balance = Balance {
                algorithm: *algorithm,
                hash: hash.clone(),
                size: *size,
                warmup: None,
            };
        }
        traffic.balance.warmup = *warmup;
        let said = traffic.locality.preference;
        traffic.locality = LocalityRules {
            // That other nodes aren't asked is what the Service means, not how it is balanced.
            preference: match locality.preference {
                Preference::None if said != Preference::NodeOnly => Preference::None,
                _ => said,
            },
            ..locality.clone()
        };
    }
    if let Some(outliers) = &policy.outliers {
        traffic.outliers = Outliers {
            success_rate_deviation: traffic.outliers.success_rate_deviation,
            latency_factor: traffic.outliers.latency_factor,
            ..*outliers
        };
    }
    traffic.locality.panic_percent = policy.panic_percent;
    traffic.limits = policy.limits.unwrap_or_default();
    traffic.retry_budget = policy.retry_budget.or(traffic.retry_budget);
    traffic.plain = policy.plain.unwrap_or(false);
    traffic
}

/// A subset's policy over the one that it inherits.
fn over(inherited: &TrafficPolicy, own: &TrafficPolicy) -> TrafficPolicy {
    let outliers = own.outliers.map(|outliers| (outliers, own.panic_percent));
    let outliers = outliers.or(inherited
        .outliers
        .map(|outliers| (outliers, inherited.panic_percent)));
    TrafficPolicy {
        balancing: own.balancing.clone().or_else(|| inherited.balancing.clone()),
        limits: own.limits.or(inherited.limits),
        outliers: outliers.map(|(outliers, _)| outliers),
        panic_percent: outliers.and_then(|(_, panic)| panic),
        plain: own.plain.or(inherited.plain),
        retry_budget: own.retry_budget.or(inherited.retry_budget),
    }
}

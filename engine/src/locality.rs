//! Which endpoints are equally near for a caller.
//!
//! In: the caller, the rules of the Service, its endpoints. Out: for each endpoint its tier, or that it isn't for this caller. Never: more
//! than [`TIERS`] tiers, or an endpoint in two.
//!
//! | what was said | tiers |
//! |---|---|
//! | nothing | zone, region, remote |
//! | `trafficDistribution: PreferSameNode` | node, zone, region, remote |
//! | `internalTrafficPolicy: Local` | node |
//! | locality is switched off | all |
//! | regions to fail over to | zone, region, each such region, remote |
//! | labels (`failoverPriority`) | all labels the same, all but the last, …, none |
//! | shares (`distribute`) | each destination; they don't stand in a row, but side by side |
//!
//! If every endpoint has a hint (EndpointSlice) and some are for the caller's node or zone, those come first, before all distances.

use crate::cluster::Plan;
use crate::failover::TIERS;
use std::sync::Arc;
use weft_proto::model::{Distance, Endpoint, Health, Locality, Preference};

/// The tiers of a plan.
pub(crate) struct Map<'a> {
    plan: &'a Plan<'a>,
    levels: Vec<Level<'a>>,
}

/// What the endpoints of a tier have in common, but those of the tiers before it have not.
enum Level<'a> {
    NodeHint,
    ZoneHint,
    Node,
    Zone,
    Region,
    /// Of another region.
    Of(&'a Arc<str>),
    Remote,
    /// So many labels, from the first on.
    Labels(usize),
    /// One of these localities.
    Share(&'a [(Arc<str>, u32)]),
    All,
}

impl<'a> Map<'a> {
    pub(crate) fn new(plan: &'a Plan<'a>) -> Self {
        Self {
            plan,
            levels: levels(plan),
        }
    }

    /// The tier of an endpoint; `None`: it isn't for this caller.
    pub(crate) fn tier(&self, endpoint: &Endpoint) -> Option<usize> {
        self.levels.iter().position(|level| self.has(level, endpoint))
    }

    /// What the tiers are called.
    pub(crate) fn names(&self) -> impl ExactSizeIterator<Item = String> {
        self.levels.iter().map(|level| match level {
            Level::NodeHint => "hinted for this node".to_owned(),
            Level::ZoneHint => "hinted for this zone".to_owned(),
            Level::Node => "same node".to_owned(),
            Level::Zone => "same zone".to_owned(),
            Level::Region => "another zone of the region".to_owned(),
            Level::Of(region) => format!("region {region}"),
            Level::Remote => "another region".to_owned(),
            Level::Labels(0) => "other labels".to_owned(),
            Level::Labels(same) => {
                let labels = &self.plan.traffic.locality.failover_priority[..*same];
                let labels: Vec<&str> = labels.iter().map(|(key, _)| &**key).collect();
                format!("same {}", labels.join(", "))
            }
            Level::Share(to) => {
                let to: Vec<&str> = to.iter().map(|(locality, _)| &**locality).collect();
                to.join(", ")
            }
            Level::All => "anywhere".to_owned(),
        })
    }

    /// What each tier should get, if the tiers stand side by side.
    pub(crate) fn parts(&self) -> Option<Box<[u32]>> {
        let part = |level: &Level<'_>| match level {
            Level::Share(to) => Some(to.iter().map(|(_, percent)| percent).sum()),
            _ => None,
        };
        self.levels.iter().map(part).collect()
    }

    fn has(&self, level: &Level<'_>, endpoint: &Endpoint) -> bool {
        let caller = self.plan.caller;
        let here = caller.locality;
        let distance = || here.distance(&endpoint.locality);
        match level {
            Level::NodeHint => endpoint.hint_nodes.contains(&here.node),
            Level::ZoneHint => endpoint.hint_zones.contains(&here.zone),
            Level::Node => {
                !here.node.is_empty() && here.node == endpoint.locality.node && distance() == Distance::Zone
            }
            Level::Zone => distance() == Distance::Zone,
            Level::Region => distance() <= Distance::Region,
            Level::Of(region) => endpoint.locality.region == **region,
            Level::Labels(same) => {
                let labels = &self.plan.traffic.locality.failover_priority[..*same];
                labels.iter().all(|(key, value)| {
                    let wanted = value.as_ref().or_else(|| label(key, caller.labels, here));
                    wanted.is_some() && wanted == label(key, &endpoint.labels, &endpoint.locality)
                })
            }
            Level::Share(to) => to.iter().any(|(pattern, _)| matches(pattern, &endpoint.locality)),
            Level::Remote | Level::All => true,
        }
    }
}

fn levels<'a>(plan: &'a Plan<'a>) -> Vec<Level<'a>> {
    let (rules, here) = (&plan.traffic.locality, plan.caller.locality);
    match rules.preference {
        Preference::NodeOnly => return vec![Level::Node],
        Preference::None => return vec![Level::All],
        Preference::Zone | Preference::Node => {}
    }
    let about = |from: &str| matches(from, here);
    if let Some(distribute) = rules.distribute.iter().find(|entry| about(&entry.from)) {
        // What there is no room for shares the last tier.
        let (own, rest) = distribute.to.split_at(distribute.to.len().min(TIERS - 1));
        let rest = (!rest.is_empty()).then_some(Level::Share(rest));
        return own.chunks(1).map(Level::Share).chain(rest).collect();
    }
    if !rules.failover_priority.is_empty() {
        let most = rules.failover_priority.len().min(TIERS - 1);
        return (0..=most).rev().map(Level::Labels).collect();
    }
    let mut levels = hints(plan);
    if rules.preference == Preference::Node {
        levels.push(Level::Node);
    }
    levels.extend([Level::Zone, Level::Region]);
    let regions = rules.failover.iter().filter(|(from, _)| *from == here.region);
    levels.extend(regions.take(TIERS - 6).map(|(_, to)| Level::Of(to)));
    levels.push(Level::Remote);
    levels
}

/// As kube-proxy: hints count if every ready endpoint has one, and one is for the caller.
fn hints<'a>(plan: &Plan<'_>) -> Vec<Level<'a>> {
    let here = plan.caller.locality;
    let ready = || {
        let endpoints = plan.members();
        endpoints.filter(|endpoint| endpoint.health == Health::Ready)
    };
    let count = |of: fn(&Endpoint) -> &Vec<Arc<str>>, own: &Arc<str>| {
        !own.is_empty()
            && ready().all(|endpoint| !of(endpoint).is_empty())
            && ready().any(|endpoint| of(endpoint).contains(own))
    };
    let node = count(|endpoint| &endpoint.hint_nodes, &here.node).then_some(Level::NodeHint);
    let zone = count(|endpoint| &endpoint.hint_zones, &here.zone).then_some(Level::ZoneHint);
    node.into_iter().chain(zone).collect()
}

/// `region`, `region/zone`, `region/zone/*`; `*` is any.
fn matches(pattern: &str, locality: &Locality) -> bool {
    let is = |wanted: &str, part: &str| wanted == "*" || wanted == part;
    let mut parts = pattern.split('/');
    parts.next().is_some_and(|region| is(region, &locality.region))
        && parts.next().is_none_or(|zone| is(zone, &locality.zone))
        && parts.all(|part| part == "*")
}

/// A label of a pod, or of its node if it says where the pod is.
fn label<'a>(key: &str, labels: &'a [(Arc<str>, Arc<str>)], locality: &'a Locality) -> Option<&'a Arc<str>> {
    let own = labels
        .iter()
        .find(|(name, _)| &**name == key)
        .map(|(_, value)| value);
    own.or(match key {
        "topology.kubernetes.io/region" => Some(&locality.region),
        "topology.kubernetes.io/zone" => Some(&locality.zone),
        "kubernetes.io/hostname" => Some(&locality.node),
        _ => None,
    })
}

#[cfg(test)]
mod tests;

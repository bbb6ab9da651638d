//! What was counted.
//!
//! In: tries and ends of requests, each with how many real ones it stands for. Out: sums. Never: a request counted in two parts.

use super::town::Town;
use super::view::{Group, Link, Refused, ServiceView, View};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_proto::model::Health;

/// Most latencies that are kept of a Service.
const MOST_SAMPLES: usize = 50_000;

/// Sums of one part of the play.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// How long it was, in seconds.
    pub(super) seconds: f64,
    /// Tries that reached a pod, by Service and pod.
    reached: BTreeMap<(usize, usize), f64>,
    /// Tries by Service, caller and pod; the caller is `None` for those from outside.
    links: BTreeMap<(usize, Option<usize>, usize), f64>,
    /// By Service, source and reason.
    refused: BTreeMap<(usize, Arc<str>, String), f64>,
    /// By Service.
    asked: BTreeMap<usize, f64>,
    latencies: BTreeMap<usize, Vec<u64>>,
}

impl Tally {
    pub(super) fn asked(&mut self, service: usize, weight: f64) {
        *self.asked.entry(service).or_default() += weight;
    }

    pub(super) fn sent(
        &mut self,
        service: usize,
        from: Option<usize>,
        pod: usize,
        reached: bool,
        weight: f64,
    ) {
        *self.links.entry((service, from, pod)).or_default() += weight;
        if reached {
            *self.reached.entry((service, pod)).or_default() += weight;
        }
    }

    pub(super) fn refused(&mut self, service: usize, from: &Arc<str>, reason: &str, weight: f64) {
        let key = (service, Arc::clone(from), reason.to_owned());
        *self.refused.entry(key).or_default() += weight;
    }

    pub(super) fn answered(&mut self, service: usize, micros: u64) {
        let all = self.latencies.entry(service).or_default();
        if all.len() < MOST_SAMPLES {
            all.push(micros);
        }
    }

    /// Rates of everything that takes part. `down` says which pods are.
    pub(super) fn view(self, town: &Town, down: &dyn Fn(usize) -> bool) -> View {
        let per_second = |sum: f64| sum / self.seconds.max(f64::MIN_POSITIVE);
        let mut latencies = self.latencies;
        let taking_part: BTreeSet<usize> = self
            .asked
            .keys()
            .copied()
            .chain(self.reached.keys().map(|(service, _)| *service))
            .collect();
        let service = |at: usize| {
            let groups = groups(town, at, &self.reached, per_second, down);
            let refused: f64 = self
                .refused
                .iter()
                .filter(|((service, ..), _)| *service == at)
                .map(|(_, sum)| *sum)
                .sum();
            let mut times = latencies.remove(&at).unwrap_or_default();
            times.sort_unstable();
            ServiceView {
                name: town.services[at].service.name.clone(),
                asked: per_second(self.asked.get(&at).copied().unwrap_or_default()),
                refused: per_second(refused),
                p50_ms: percentile(&times, 50),
                p99_ms: percentile(&times, 99),
                groups,
            }
        };
        let services = taking_part.into_iter().map(service).collect();
        let mut links: BTreeMap<_, f64> = BTreeMap::new();
        for ((service, from, pod), sum) in &self.links {
            let place = |pod: usize| {
                let locality = &town.pods[pod].locality;
                (locality.region.clone(), locality.zone.clone())
            };
            let name = town.services[*service].service.name.clone();
            *links.entry((from.map(place), place(*pod), name)).or_default() += sum;
        }
        let links = links.into_iter().map(|((from, to, service), sum)| Link {
            from,
            to,
            service,
            rate: per_second(sum),
        });
        let refused = self
            .refused
            .into_iter()
            .map(|((service, from, reason), sum)| Refused {
                service: town.services[service].service.name.clone(),
                from,
                reason,
                rate: sum / self.seconds.max(f64::MIN_POSITIVE),
            });
        View {
            services,
            links: links.collect(),
            refused: refused.collect(),
        }
    }
}

fn groups(
    town: &Town,
    service: usize,
    reached: &BTreeMap<(usize, usize), f64>,
    per_second: impl Fn(f64) -> f64,
    down: &dyn Fn(usize) -> bool,
) -> Vec<Group> {
    let mut groups: BTreeMap<_, Group> = BTreeMap::new();
    let capacity = town.services[service].capacity;
    let unready = |pod: usize| {
        let addresses = &town.pods[pod].addresses;
        let endpoints = &town.services[service].endpoints.endpoints;
        let own = endpoints
            .iter()
            .find(|endpoint| endpoint.addresses.iter().any(|ip| addresses.contains(ip)));
        own.is_none_or(|endpoint| endpoint.health != Health::Ready)
    };
    let mut total = 0.0;
    for pod in town.pods_of(service) {
        let locality = &town.pods[pod].locality;
        let group = groups
            .entry((locality.region.clone(), locality.zone.clone()))
            .or_insert_with(|| Group {
                region: locality.region.clone(),
                zone: locality.zone.clone(),
                ..Group::default()
            });
        let rate = per_second(reached.get(&(service, pod)).copied().unwrap_or_default());
        total += rate;
        group.rate += rate;
        group.busiest = group.busiest.max(rate);
        group.endpoints += 1;
        if !down(pod) && !unready(pod) {
            group.up += 1;
        }
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    for group in &mut groups {
        group.share = if total > 0.0 { group.rate / total } else { 0.0 };
        group.capacity = capacity.map(|each| each * group.up as f64);
        group.load = group.capacity.map(|capacity| match (group.rate, capacity) {
            (0.0, _) => 0.0,
            (_, 0.0) => f64::INFINITY,
            (rate, capacity) => rate / capacity,
        });
    }
    groups
}

fn percentile(sorted: &[u64], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |micros| *micros as f64 / 1_000.0)
}

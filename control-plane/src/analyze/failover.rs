//! Services whose failover can't work: everything in one place, or too much of it.
//!
//! In: endpoints with their localities, nodes. Out: findings about Services with a sidecar behind them. Never: a
//! guess about load: that is `weft simulate`'s, which is told it.

use crate::mesh::{Diagnostic, Mesh, ServiceType};
use crate::translate::Shared;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_proto::model::{Endpoint, Health};
use weft_proto::resource::{Kind, Resource};

/// A place holds too much when its loss gives the others more than this many times their load.
const MOST_GROWTH: f64 = 2.0;

/// Region and zone.
type Zone<'a> = (&'a Arc<str>, &'a Arc<str>);

pub(super) fn find(shared: &Shared, findings: &mut Vec<Diagnostic>) {
    let mesh = shared.mesh();
    let places = Places::of(mesh);
    if places.zones.len() < 2 {
        return;
    }
    for (name, service) in mesh.services.iter() {
        if service.service_type == ServiceType::ExternalName {
            continue;
        }
        let item = shared.items(Kind::Endpoints).get(&*name.to_string());
        let Some(Resource::Endpoints(endpoints)) = item.map(|item| item.resource()) else {
            continue;
        };
        let ready: Vec<&Endpoint> = endpoints
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.health == Health::Ready && !endpoint.locality.region.is_empty())
            .collect();
        // What the cluster itself runs is its own affair.
        if ready.iter().all(|endpoint| endpoint.identity.is_none()) {
            continue;
        }
        let finding = |code| Diagnostic::warning(code, &service.origin);
        let regions = share(&ready, |endpoint| &endpoint.locality.region);
        let zones = share(&ready, |endpoint| {
            (&endpoint.locality.region, &endpoint.locality.zone)
        });
        match (regions.iter().next(), zones.iter().next()) {
            (None, _) | (_, None) => {}
            (Some((region, _)), _) if regions.len() == 1 && places.regions.len() > 1 => {
                let reason = format!(
                    "every ready endpoint is in region {}: nothing serves it when that region is gone",
                    named(region)
                );
                findings.push(
                    finding("service-one-region")
                        .because(reason)
                        .so("run pods of it in another region, or accept that it ends with its region"),
                );
                one_zone(&zones, &places, &finding, findings);
            }
            _ if zones.len() == 1 => one_zone(&zones, &places, &finding, findings),
            _ => {
                let total: u64 = zones.values().sum();
                let Some((zone, most)) = zones.iter().max_by_key(|(_, weight)| **weight) else {
                    continue;
                };
                let growth = total as f64 / (total - most) as f64;
                if growth > MOST_GROWTH {
                    let reason = format!(
                        "zone {} has {most} of {total} parts of it: without that zone each other endpoint gets {growth:.1} times its load",
                        named(zone.1)
                    );
                    findings.push(
                        finding("service-zone-heavy")
                            .because(reason)
                            .so("spread its pods over the zones (topologySpreadConstraints); `weft simulate --each zone` tells the load"),
                    );
                }
            }
        }
    }
}

fn one_zone(
    zones: &BTreeMap<Zone<'_>, u64>,
    places: &Places<'_>,
    finding: &impl Fn(&'static str) -> Diagnostic,
    findings: &mut Vec<Diagnostic>,
) {
    let Some(((region, zone), _)) = zones.iter().next() else {
        return;
    };
    let others = places.zones.iter().filter(|(other, _)| other == region).count();
    if zones.len() > 1 || others < 2 {
        return;
    }
    let reason = format!(
        "every ready endpoint is in zone {}, and its region has {others} zones",
        named(zone)
    );
    findings.push(
        finding("service-one-zone")
            .because(reason)
            .so("spread its pods over the zones (topologySpreadConstraints)"),
    );
}

/// Where pods can run.
struct Places<'a> {
    regions: BTreeSet<&'a Arc<str>>,
    zones: BTreeSet<Zone<'a>>,
}

impl<'a> Places<'a> {
    fn of(mesh: &'a Mesh) -> Self {
        let mut places = Self {
            regions: BTreeSet::new(),
            zones: BTreeSet::new(),
        };
        for node in mesh.nodes.values() {
            places.regions.insert(&node.region);
            places.zones.insert((&node.region, &node.zone));
        }
        places
    }
}

/// Weight by place.
fn share<'a, P: Ord>(endpoints: &[&'a Endpoint], place: impl Fn(&'a Endpoint) -> P) -> BTreeMap<P, u64> {
    let mut share = BTreeMap::new();
    for endpoint in endpoints {
        *share.entry(place(endpoint)).or_default() += u64::from(endpoint.weight);
    }
    share
}

fn named(place: &str) -> &str {
    if place.is_empty() { "without a name" } else { place }
}

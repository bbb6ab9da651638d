//! Regions, zones and nodes.

use std::sync::Arc;

/// Where a workload runs; empty parts are unknown.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Arc<str>,
    /// `kubernetes.io/hostname`.
    pub node: Arc<str>,
}

/// How far apart two localities are; nearer sorts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distance {
    /// Same region and zone.
    Zone,
    /// Same region, another zone.
    Region,
    /// Another region.
    Remote,
}

impl Locality {
    /// A locality from its parts.
    pub fn new(region: &str, zone: &str, node: &str) -> Self {
        Self {
            region: region.into(),
            zone: zone.into(),
            node: node.into(),
        }
    }

    /// How far `other` is. Two unknown regions count as the same, so that a cluster without labels is one place.
    pub fn distance(&self, other: &Self) -> Distance {
        match (self.region == other.region, self.zone == other.zone) {
            (true, true) => Distance::Zone,
            (true, false) => Distance::Region,
            (false, _) => Distance::Remote,
        }
    }
}

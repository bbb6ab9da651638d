//! What may not happen.
//!
//! Enters: a prediction and the bounds that somebody stated. Leaves: a sentence for each that would be broken. Never: a bound of its own.

use weft_engine::simulate::Prediction;

/// Parts of a Service's requests below this don't count: they are trials and retries, not where traffic goes.
const NOISE: f64 = 0.001;

/// Stated bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounds {
    /// Most load of a group, 1 is full.
    pub load: Option<f64>,
    /// Nothing leaves its region.
    pub one_region: bool,
    /// No request fails.
    pub none_refused: bool,
}

impl Bounds {
    /// Those that would be broken, each as a sentence.
    pub fn broken(self, prediction: &Prediction) -> Vec<String> {
        let mut broken = Vec::new();
        let settled = &prediction.settled;
        if let Some(most) = self.load {
            for service in &settled.services {
                for group in &service.groups {
                    if let Some(load) = group.load.filter(|load| *load > most) {
                        broken.push(format!(
                            "--max-load {:.0}%: {} in {} would have {:.0}%",
                            most * 100.0,
                            service.name,
                            super::table::place(&(group.region.clone(), group.zone.clone())),
                            load * 100.0
                        ));
                    }
                }
            }
        }
        if self.one_region {
            for link in settled.links.iter().filter(|link| link.crosses_regions()) {
                let asked = settled
                    .service(&link.service)
                    .map_or(0.0, |service| service.asked);
                if link.rate > asked * NOISE {
                    let from = link.from.as_ref().map(super::table::place).unwrap_or_default();
                    broken.push(format!(
                        "--no-cross-region: {:.1} requests/s for {} would go from {from} to {}",
                        link.rate,
                        link.service,
                        super::table::place(&link.to)
                    ));
                }
            }
        }
        if self.none_refused {
            for (when, view) in [("at once", &prediction.at_once), ("settled", settled)] {
                for refused in &view.refused {
                    broken.push(format!(
                        "--no-refused: {when}, {:.1} requests/s of {} for {} would fail: {}",
                        refused.rate, refused.from, refused.service, refused.reason
                    ));
                }
            }
        }
        broken
    }
}

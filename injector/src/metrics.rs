//! What is counted.
//!
//! In: outcomes, from fixed sets. Out: OpenMetrics text. Never: a label whose values come from a request.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

/// Content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The injector's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// `weft_injector_reviews_total`.
    pub reviews: Family<Outcome, Counter>,
    /// `weft_injector_review_duration_seconds`: from the whole body to the answer.
    pub duration: Histogram,
    /// `weft_injector_reviews_known_total`: of these, those that got the answer of a pod that was the same.
    pub known: Counter,
    /// `weft_injector_certificate_loads_total`.
    pub certificate_loads: Family<LoadResult, Counter>,
    /// `weft_injector_certificate_expiry_timestamp_seconds`: when the serving certificate ends; 0 while it comes from files.
    pub certificate_expiry: Gauge,
    /// `weft_injector_ca_bundle_writes_total`.
    pub bundle_writes: Family<LoadResult, Counter>,
    /// `weft_injector_connections`: open now.
    pub connections: Gauge,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// injected, skipped, refused or failed (no review at all).
    pub outcome: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// Whether something that is done again and again succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LoadResult {
    /// ok or error.
    pub result: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let reviews = Family::<Outcome, Counter>::default();
        let known = Counter::default();
        let duration = Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0]);
        let certificate_loads = Family::<LoadResult, Counter>::default();
        let certificate_expiry = Gauge::default();
        let bundle_writes = Family::<LoadResult, Counter>::default();
        let connections = Gauge::default();
        let mut registry = Registry::with_prefix("weft_injector");
        registry.register(
            "reviews",
            "Requests to the webhook by outcome and reason",
            reviews.clone(),
        );
        registry.register(
            "reviews_known",
            "Reviews of pods that were the same as one before, and got its answer",
            known.clone(),
        );
        registry.register_with_unit(
            "review_duration",
            "Time to judge a review",
            Unit::Seconds,
            duration.clone(),
        );
        registry.register(
            "certificate_loads",
            "Attempts to get or load another certificate",
            certificate_loads.clone(),
        );
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When the serving certificate ends",
            Unit::Seconds,
            certificate_expiry.clone(),
        );
        registry.register(
            "ca_bundle_writes",
            "Attempts to correct the caBundle of a webhook configuration",
            bundle_writes.clone(),
        );
        registry.register(
            "connections",
            "Open connections to the webhook",
            connections.clone(),
        );
        Self {
            registry,
            reviews,
            known,
            duration,
            certificate_loads,
            certificate_expiry,
            bundle_writes,
            connections,
        }
    }
}

impl Metrics {
    /// Counts a request.
    pub fn count(&self, outcome: &'static str, reason: &'static str) {
        self.reviews.get_or_create(&Outcome { outcome, reason }).inc();
    }

    /// Counts a review, whose body was there at `start`.
    pub(crate) fn judged(&self, start: Instant, outcome: &'static str, reason: &'static str) {
        self.duration.observe(start.elapsed().as_secs_f64());
        self.count(outcome, reason);
    }

    /// All metrics as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let metrics = Metrics::default();
        metrics.count("injected", "Selected");
        let text = metrics.text();
        assert!(
            text.contains("weft_injector_reviews_total{outcome=\"injected\",reason=\"Selected\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("weft_injector_review_duration_seconds_bucket"),
            "{text}"
        );
    }
}

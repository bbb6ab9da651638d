//! What the control plane counts. Enters: events of its parts. Leaves: OpenMetrics text. Never: a label with a value from
//! outside (names of pods, services or hosts), so that the page stays bounded.
//!
//! Names that Istio's dashboards query are Istio's, without the `_total` that OpenMetrics would add.

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use weft_proto::resource::Kind;

/// One label whose value is known at compile time.
pub type Label = [(&'static str, &'static str); 1];

/// Content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A counter that is exposed under exactly its name.
#[derive(Clone, Debug, Default)]
pub struct Plain(Counter);

impl Plain {
    /// Adds one.
    pub fn inc(&self) {
        self.0.inc();
    }

    /// Reads it.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

impl TypedMetric for Plain {
    const TYPE: MetricType = MetricType::Unknown;
}

impl EncodeMetric for Plain {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.encode_gauge(&self.0.get())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// Every metric of the control plane.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Sidecars connected to this replica.
    pub connected: Gauge,
    /// Responses sent, by kind of resource.
    pub pushes: Family<Label, Plain>,
    /// Responses that a sidecar refused, by kind of resource.
    pub rejects: Family<Label, Plain>,
    /// From a change of the mesh to a sidecar's acknowledgement, seconds.
    pub convergence: Histogram,
    /// From a change of the mesh to the response being on its way, seconds.
    pub push_time: Histogram,
    /// Compiling a mesh into resources, seconds.
    pub translate: Histogram,
    /// Configuration streams refused or ended by the control plane, by reason.
    pub streams_refused: Family<Label, Counter>,
    /// TLS handshakes on the control plane's port, by result.
    pub handshakes: Family<Label, Counter>,
    /// Requests to the validating webhook, by result.
    pub validations: Family<Label, Counter>,
    /// Signing requests received.
    pub csr: Plain,
    /// Certificates issued.
    pub issued: Plain,
    /// Callers whose token was refused.
    pub authentication_failures: Plain,
    /// Signing requests that were refused for what they are.
    pub csr_errors: Plain,
    /// Signing requests refused, by reason.
    pub ca_refused: Family<Label, Counter>,
    /// When the signing certificate expires, seconds since the epoch.
    pub root_expiry: Gauge,
    /// Root certificates that are trusted now; more than one while a root is rolled.
    pub roots: Gauge,
    /// 1 where this replica leads.
    pub leader: Gauge,
    /// Writes of the root certificates' ConfigMap, by result.
    pub root_publications: Family<Label, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Self {
        let seconds = || {
            Histogram::new([
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0,
            ])
        };
        let mut metrics = Self {
            registry: Registry::default(),
            connected: Gauge::default(),
            pushes: Family::default(),
            rejects: Family::default(),
            convergence: seconds(),
            push_time: seconds(),
            translate: seconds(),
            streams_refused: Family::default(),
            handshakes: Family::default(),
            validations: Family::default(),
            csr: Plain::default(),
            issued: Plain::default(),
            authentication_failures: Plain::default(),
            csr_errors: Plain::default(),
            ca_refused: Family::default(),
            root_expiry: Gauge::default(),
            roots: Gauge::default(),
            leader: Gauge::default(),
            root_publications: Family::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        let build: Family<Label, Gauge> = Family::default();
        build
            .get_or_create(&[("version", env!("CARGO_PKG_VERSION"))])
            .set(1);
        r.register("weft_build_info", "Version of the control plane", build);
        r.register(
            "pilot_xds",
            "Sidecars connected to this replica",
            self.connected.clone(),
        );
        r.register(
            "pilot_xds_pushes",
            "Responses sent, by kind of resource",
            self.pushes.clone(),
        );
        r.register(
            "pilot_total_xds_rejects",
            "Responses refused by sidecars, by kind",
            self.rejects.clone(),
        );
        r.register(
            "pilot_proxy_convergence_time",
            "Seconds from a change to its acknowledgement by a sidecar",
            self.convergence.clone(),
        );
        r.register(
            "pilot_xds_push_time",
            "Seconds from a change to its push",
            self.push_time.clone(),
        );
        r.register(
            "weft_translate_seconds",
            "Seconds to compile the mesh",
            self.translate.clone(),
        );
        r.register(
            "weft_xds_streams_refused",
            "Streams refused or ended",
            self.streams_refused.clone(),
        );
        r.register(
            "weft_tls_handshakes",
            "TLS handshakes, by result",
            self.handshakes.clone(),
        );
        r.register(
            "weft_validations",
            "Requests to the validating webhook, by result",
            self.validations.clone(),
        );
        r.register(
            "citadel_server_csr_count",
            "Signing requests received",
            self.csr.clone(),
        );
        r.register(
            "citadel_server_success_cert_issuance_count",
            "Certificates issued",
            self.issued.clone(),
        );
        r.register(
            "citadel_server_authentication_failure_count",
            "Callers whose token was refused",
            self.authentication_failures.clone(),
        );
        r.register(
            "citadel_server_csr_parsing_err_count",
            "Signing requests that can't be used",
            self.csr_errors.clone(),
        );
        r.register(
            "weft_ca_refused",
            "Signing requests refused, by reason",
            self.ca_refused.clone(),
        );
        r.register(
            "citadel_server_root_cert_expiry_timestamp",
            "Expiry of the signing certificate, seconds since the epoch",
            self.root_expiry.clone(),
        );
        r.register(
            "weft_ca_roots",
            "Root certificates trusted now",
            self.roots.clone(),
        );
        r.register("weft_leader", "1 on the replica that leads", self.leader.clone());
        r.register(
            "weft_ca_root_publications",
            "Writes of the root certificates' ConfigMap, by result",
            self.root_publications.clone(),
        );
    }

    /// OpenMetrics text; see [`CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String doesn't fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

/// The label that names a kind of resource.
pub fn kind_label(kind: Kind) -> Label {
    [("type", kind_name(kind))]
}

/// A kind's short name.
pub fn kind_name(kind: Kind) -> &'static str {
    let url = kind.type_url();
    url.rsplit_once('.').map_or(url, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_dashboards_query() {
        let metrics = Metrics::new();
        metrics.pushes.get_or_create(&kind_label(Kind::Endpoints)).inc();
        metrics.ca_refused.get_or_create(&[("reason", "token")]).inc();
        let text = metrics.encode();
        for line in [
            "pilot_xds_pushes{type=\"Endpoints\"} 1\n",
            "weft_ca_refused_total{reason=\"token\"} 1\n",
            "citadel_server_csr_count 0\n",
            "pilot_xds 0\n",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}

//! Weft's own metrics, `weft_…`, and the process's.
//!
//! Enters: events that are rare or counted in place. Leaves: counters and gauges. Never: a label whose values a peer
//! chooses without bound.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use weft_engine::circuit::BOUNDS;
use weft_engine::crowd::{Crowd, MOST};
use weft_proto::resource::Kind;

use super::series::NoLabels;
use crate::view::{Destination, Views};

/// Most Services whose ejected endpoints are shown.
pub const MAX_EJECTING: usize = 256;
/// Most policies that denials are told apart by.
pub const MAX_POLICIES: usize = 256;

/// Counters and gauges that are counted in place.
#[derive(Debug, Default)]
pub struct Own {
    /// Open intercepted connections from the application.
    pub outbound_connections: AtomicI64,
    /// Open intercepted connections to the application.
    pub inbound_connections: AtomicI64,
    /// Open connections of clients outside the mesh.
    pub gateway_connections: AtomicI64,
    /// Connections kept open towards other sidecars and pods.
    pub pool_connections: AtomicI64,
    /// Connections that were opened for the pool.
    pub pool_opened: AtomicU64,
    /// Tries after the first.
    pub retries: AtomicU64,
    /// Retries that the budget refused.
    pub retries_refused: AtomicU64,
    /// Of those, begun while the first one went on.
    pub hedges: AtomicU64,
    /// Requests to the application that were over a rate limit.
    pub rate_limited: AtomicU64,
    /// Requests refused because as many as may be waited for the application.
    pub crowded: AtomicU64,
    /// Endpoints put aside because of failures, as requests found out.
    pub ejections: AtomicU64,
    /// Connections whose first bytes did not come in time to tell the protocol.
    pub detect_timeouts: AtomicU64,
    /// End of the certificate's validity, seconds since the epoch; 0: no certificate.
    pub certificate_expiry: AtomicI64,
    /// Certificates received.
    pub certificate_renewals: AtomicU64,
    /// Attempts to renew that failed.
    pub certificate_failures: AtomicU64,
    /// 1 while renewal is due and fails.
    pub certificate_alarm: AtomicI64,
    /// 1 while the configuration stream is open.
    pub xds_connected: AtomicI64,
    /// Streams opened.
    pub xds_streams: AtomicU64,
    /// Responses applied.
    pub xds_updates: AtomicU64,
    /// Resources refused.
    pub xds_rejected: AtomicU64,
    /// Bytes of resources received.
    pub xds_bytes: AtomicU64,
    /// Time of the last response, seconds since the epoch.
    pub xds_last_update: AtomicI64,
    /// Attempts to keep the certificate or the configuration for a restart that failed.
    pub state_failures: AtomicU64,
    /// Resources held, in the order of [`Kind::ALL`].
    pub xds_resources: [AtomicI64; Kind::ALL.len()],
    /// Services and pods that are subscribed to.
    pub wanted: AtomicI64,
    /// Services and pods given up, because nobody used them.
    pub forgotten: AtomicU64,
    /// Connections and requests that waited for the control plane, to learn of something not used before.
    pub demand_waits: AtomicU64,
    /// Of those, failed: there was no answer in time.
    pub demand_failures: AtomicU64,
    /// Of those, sent on as they were: there was no answer in time, and as far as is known no sidecar there.
    pub demand_passed: AtomicU64,
    crowd: OnceLock<Arc<Crowd>>,
    refused: Mutex<BTreeMap<&'static str, u64>>,
    denied: Mutex<BTreeMap<Arc<str>, u64>>,
}

impl Own {
    /// Shows how many requests wait for the application, and how many may.
    pub fn crowd(&self, crowd: Arc<Crowd>) {
        let _ = self.crowd.set(crowd);
    }

    /// Counts something refused before policy, under a reason such as `plaintext` or `tls-version`.
    pub fn refused(&self, reason: &'static str) {
        *self
            .refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(reason)
            .or_default() += 1;
    }

    /// How often `reason` was counted.
    pub fn refusals(&self, reason: &str) -> u64 {
        self.refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(reason)
            .copied()
            .unwrap_or(0)
    }

    /// Counts a denial of a policy, by its name.
    pub fn denied(&self, policy: &str) {
        let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = denied.get_mut(policy) {
            *count += 1;
            return;
        }
        let name = if denied.len() < MAX_POLICIES {
            policy
        } else {
            super::labels::OTHER
        };
        *denied.entry(name.into()).or_default() += 1;
    }

    /// Denials of `policy` so far.
    pub fn denials(&self, policy: &str) -> u64 {
        self.denied
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(policy)
            .copied()
            .unwrap_or(0)
    }
}

/// Puts them on the metrics page.
#[derive(Debug)]
pub(super) struct Page {
    pub own: Arc<Own>,
    pub edges: Arc<super::series::Edges>,
    pub views: Arc<OnceLock<Views>>,
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let own = &self.own;
        let mut info =
            encoder.encode_descriptor("weft_build", "The running version", None, MetricType::Info)?;
        info.encode_info(&[("version", env!("CARGO_PKG_VERSION")), ("component", "proxy")])?;

        let mut gauge = |name: &str, help: &str, value: i64| {
            encoder
                .encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_gauge(&value)
        };
        let now = |value: &AtomicI64| value.load(Ordering::Relaxed);
        gauge(
            "weft_outbound_connections",
            "Open connections from the application",
            now(&own.outbound_connections),
        )?;
        gauge(
            "weft_inbound_connections",
            "Open connections to the application",
            now(&own.inbound_connections),
        )?;
        gauge(
            "weft_gateway_connections",
            "Open connections of clients outside the mesh",
            now(&own.gateway_connections),
        )?;
        gauge(
            "weft_pool_connections",
            "Connections kept open to other pods",
            now(&own.pool_connections),
        )?;
        let expiry = "weft_certificate_expiry_timestamp_seconds";
        gauge(
            expiry,
            "End of the certificate, seconds since the epoch",
            now(&own.certificate_expiry),
        )?;
        let alarm = "weft_certificate_renewal_alarm";
        gauge(
            alarm,
            "1 while renewal is due and fails",
            now(&own.certificate_alarm),
        )?;
        gauge(
            "weft_xds_connected",
            "1 while the configuration stream is open",
            now(&own.xds_connected),
        )?;
        let update = "weft_xds_last_update_timestamp_seconds";
        gauge(
            update,
            "Last response, seconds since the epoch",
            now(&own.xds_last_update),
        )?;
        let help = "Services and pods that are subscribed to";
        gauge("weft_on_demand_subscriptions", help, now(&own.wanted))?;
        if let Some(crowd) = own.crowd.get() {
            let help = "Requests that wait for the application's answer";
            gauge("weft_inbound_waiting_requests", help, crowd.waiting().into())?;
            let limit = Some(crowd.limit()).filter(|limit| *limit < MOST);
            let help = "Requests that may wait for the application's answer; 0: any number";
            gauge("weft_inbound_concurrency_limit", help, limit.unwrap_or(0).into())?;
        }
        let process = Process::read();
        gauge(
            "process_resident_memory_bytes",
            "Resident memory",
            process.resident,
        )?;
        gauge("process_open_fds", "Open file descriptors", process.descriptors)?;

        let help = "Resources held";
        let mut resources = encoder.encode_descriptor("weft_xds_resources", help, None, MetricType::Gauge)?;
        for (kind, value) in Kind::ALL.iter().zip(&own.xds_resources) {
            let labels = [("kind", format!("{kind:?}"))];
            resources.encode_family(&labels)?.encode_gauge(&now(value))?;
        }

        let mut counter = |name: &str, help: &str, value: u64| {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode_counter::<NoLabels, _, f64>(&value, None)
        };
        let sum = |value: &AtomicU64| value.load(Ordering::Relaxed);
        counter(
            "weft_pool_opened",
            "Connections opened to other pods",
            sum(&own.pool_opened),
        )?;
        counter("weft_retries", "Tries after the first", sum(&own.retries))?;
        counter(
            "weft_ejections",
            "Endpoints put aside because of failures",
            sum(&own.ejections),
        )?;
        counter(
            "weft_retries_refused",
            "Retries beyond the budget or the limit of those under way",
            sum(&own.retries_refused),
        )?;
        counter(
            "weft_hedges",
            "Requests sent to a second endpoint because the first was slow to answer",
            sum(&own.hedges),
        )?;
        counter(
            "weft_rate_limited_requests",
            "Requests to the application that were over a rate limit",
            sum(&own.rate_limited),
        )?;
        counter(
            "weft_inbound_concurrency_refusals",
            "Requests refused because as many as may be waited for the application",
            sum(&own.crowded),
        )?;
        counter(
            "weft_detect_timeouts",
            "Connections that did not say what they speak",
            sum(&own.detect_timeouts),
        )?;
        counter(
            "weft_certificate_renewals",
            "Certificates received",
            sum(&own.certificate_renewals),
        )?;
        counter(
            "weft_certificate_failures",
            "Failed attempts to renew",
            sum(&own.certificate_failures),
        )?;
        counter(
            "weft_xds_streams",
            "Configuration streams opened",
            sum(&own.xds_streams),
        )?;
        counter("weft_xds_updates", "Responses applied", sum(&own.xds_updates))?;
        counter("weft_xds_rejected", "Resources refused", sum(&own.xds_rejected))?;
        counter(
            "weft_xds_received_bytes",
            "Bytes of resources received",
            sum(&own.xds_bytes),
        )?;
        let help = "Connections and requests that waited to learn of something not used before";
        counter("weft_on_demand_waits", help, sum(&own.demand_waits))?;
        let help = "Connections and requests that failed, because the control plane did not say in time what is there";
        counter("weft_on_demand_failures", help, sum(&own.demand_failures))?;
        let help =
            "Connections sent on as they were, because the control plane did not say in time what is there";
        counter("weft_on_demand_passed", help, sum(&own.demand_passed))?;
        let help = "Services and pods given up, because nobody used them";
        counter("weft_on_demand_forgotten", help, sum(&own.forgotten))?;
        let help = "Failed attempts to keep the certificate or the configuration for a restart";
        counter("weft_state_write_failures", help, sum(&own.state_failures))?;
        counter(
            "weft_metrics_overflows",
            "Series beyond the bound",
            self.edges.overflows(),
        )?;

        let refused = own.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let help = "Connections and requests refused before policy";
        let mut family = encoder.encode_descriptor("weft_refused", help, None, MetricType::Counter)?;
        for (reason, count) in &refused {
            let labels = [("reason", *reason)];
            family
                .encode_family(&labels)?
                .encode_counter::<NoLabels, _, f64>(count, None)?;
        }
        let denied = own.denied.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let help = "Requests and connections that a policy denied";
        let mut family = encoder.encode_descriptor("weft_denied", help, None, MetricType::Counter)?;
        for (policy, count) in &denied {
            let labels = [("policy", &**policy)];
            family
                .encode_family(&labels)?
                .encode_counter::<NoLabels, _, f64>(count, None)?;
        }
        self.ejections(&mut encoder)?;
        self.circuits(&mut encoder)
    }
}

impl Page {
    /// What circuit breaking refused, of destinations that have or had bounds.
    fn circuits(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(view) = self.views.get().map(Views::load_full) else {
            return Ok(());
        };
        let help =
            "Requests, retries and connections refused because a limit of their destination was reached";
        let mut family =
            encoder.encode_descriptor("weft_circuit_refusals", help, None, MetricType::Counter)?;
        let mut shown = 0;
        for destination in view.destinations() {
            let cluster = destination.cluster();
            let circuit = cluster.circuit();
            let refusals = BOUNDS.map(|bound| (bound, circuit.refused(bound)));
            if shown == MAX_EJECTING || refusals.iter().all(|(_, count)| *count == 0) {
                continue;
            }
            shown += 1;
            for (bound, count) in refusals {
                let labels = [
                    ("destination_service", destination.host.to_string()),
                    ("destination_port", destination.port.port.to_string()),
                    ("subset", subset(destination)),
                    ("bound", format!("{bound:?}")),
                ];
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabels, _, f64>(&count, None)?;
            }
        }
        Ok(())
    }

    /// Endpoints put aside because of failures, of Services that have or had any.
    fn ejections(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(view) = self.views.get().map(Views::load_full) else {
            return Ok(());
        };
        let total =
            |destination: &&Arc<Destination>| destination.cluster().ejections().iter().any(|(_, n)| *n > 0);
        let ejecting: Vec<_> = view.destinations().filter(total).take(MAX_EJECTING).collect();
        let help = "Endpoints put aside because of failures, by cause";
        let mut family =
            encoder.encode_descriptor("weft_endpoint_ejections", help, None, MetricType::Counter)?;
        for destination in &ejecting {
            for (cause, count) in destination.cluster().ejections() {
                let labels = [
                    ("destination_service", destination.host.to_string()),
                    ("destination_port", destination.port.port.to_string()),
                    ("subset", subset(destination)),
                    ("cause", format!("{cause:?}")),
                ];
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabels, _, f64>(&count, None)?;
            }
        }
        let help = "Endpoints that are put aside now";
        let mut family =
            encoder.encode_descriptor("weft_ejected_endpoints", help, None, MetricType::Gauge)?;
        for destination in &ejecting {
            let ejected = destination
                .cluster()
                .all()
                .filter(|endpoint| !endpoint.open())
                .count();
            let labels = [
                ("destination_service", destination.host.to_string()),
                ("destination_port", destination.port.port.to_string()),
                ("subset", subset(destination)),
            ];
            family.encode_family(&labels)?.encode_gauge(&(ejected as i64))?;
        }
        Ok(())
    }
}

/// Empty: all endpoints.
fn subset(destination: &Destination) -> String {
    destination.subset.as_deref().unwrap_or_default().to_owned()
}

/// What the kernel says of this process.
struct Process {
    resident: i64,
    descriptors: i64,
}

impl Process {
    fn read() -> Self {
        let resident = std::fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|text| {
                let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
                line.trim().trim_end_matches("kB").trim().parse::<i64>().ok()
            })
            .unwrap_or(0);
        let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as i64);
        Self {
            resident: resident * 1_024,
            descriptors,
        }
    }
}

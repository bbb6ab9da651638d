//! Series of the standard metrics, made once and then only counted.
//!
//! Enters: an edge (both ends) and outcomes. Leaves: handles whose recording is a few atomic additions. Never: more series
//! than the bound, a lock on the way of a request once its series exists.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;

use super::histogram::Histogram;
use super::labels::{EdgeLabels, Labels, Outcome, Reporter};

/// Most edges (pairs of workloads and a service).
pub const MAX_EDGES: usize = 1_000;
/// Most different outcomes of one edge.
pub const MAX_OUTCOMES: usize = 48;
/// Most request series of all edges.
pub const MAX_SERIES: usize = 2_000;

/// Upper bounds of `istio_request_duration_milliseconds`, in microseconds.
static DURATIONS: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];
/// Upper bounds of the sizes, in bytes.
static SIZES: [u64; 7] = [100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// Requests of one edge with one outcome.
#[derive(Debug)]
pub struct RequestSeries {
    outcome: Outcome,
    count: AtomicU64,
    duration: Histogram<19>,
    request_bytes: Histogram<7>,
    response_bytes: Histogram<7>,
}

/// TCP connections of one edge.
#[derive(Debug, Default)]
pub struct TcpSeries {
    /// `istio_tcp_connections_opened_total`.
    pub opened: AtomicU64,
    /// `istio_tcp_connections_closed_total`.
    pub closed: AtomicU64,
    /// `istio_tcp_sent_bytes_total`: towards the caller, as Envoy counts.
    pub sent: AtomicU64,
    /// `istio_tcp_received_bytes_total`: from the caller.
    pub received: AtomicU64,
}

/// Both ends of connections, and what was counted between them.
#[derive(Debug)]
pub struct Edge {
    labels: EdgeLabels,
    outcomes: ArcSwap<Vec<Arc<RequestSeries>>>,
    growing: Mutex<()>,
    tcp: TcpSeries,
    /// Series of all edges together.
    total: Arc<AtomicUsize>,
}

/// Every edge.
#[derive(Debug, Default)]
pub struct Edges {
    edges: Mutex<HashMap<EdgeLabels, Arc<Edge>>>,
    total: Arc<AtomicUsize>,
    overflows: AtomicU64,
}

impl RequestSeries {
    fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            count: AtomicU64::new(0),
            duration: Histogram::new(&DURATIONS),
            request_bytes: Histogram::new(&SIZES),
            response_bytes: Histogram::new(&SIZES),
        }
    }

    /// Counts one request: how long until the last byte of the answer, and the bodies' sizes.
    pub fn record(&self, duration: Duration, request_bytes: u64, response_bytes: u64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.duration
            .record(duration.as_micros().min(u128::from(u64::MAX)) as u64);
        self.request_bytes.record(request_bytes);
        self.response_bytes.record(response_bytes);
    }

    /// Requests counted.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Edge {
    fn new(labels: EdgeLabels, total: Arc<AtomicUsize>) -> Self {
        Self {
            labels,
            outcomes: ArcSwap::default(),
            growing: Mutex::new(()),
            tcp: TcpSeries::default(),
            total,
        }
    }

    /// Counts one request. A scan of the few outcomes that this edge has had, no lock.
    pub fn record(&self, outcome: Outcome, duration: Duration, request_bytes: u64, response_bytes: u64) {
        let outcomes = self.outcomes.load();
        match outcomes.iter().find(|series| series.outcome == outcome) {
            Some(series) => series.record(duration, request_bytes, response_bytes),
            None => self
                .request(outcome)
                .record(duration, request_bytes, response_bytes),
        }
    }

    /// The series of an outcome, for callers that keep it.
    pub fn request(&self, outcome: Outcome) -> Arc<RequestSeries> {
        let outcome = outcome.bounded();
        let find = |outcome: Outcome, list: &[Arc<RequestSeries>]| {
            list.iter().find(|series| series.outcome == outcome).cloned()
        };
        if let Some(series) = find(outcome, &self.outcomes.load()) {
            return series;
        }
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.outcomes.load_full();
        let full = known.len() >= MAX_OUTCOMES || self.total.load(Ordering::Relaxed) >= MAX_SERIES;
        let outcome = if full { Outcome::OVERFLOW } else { outcome };
        if let Some(series) = find(outcome, &known) {
            return series;
        }
        self.total.fetch_add(1, Ordering::Relaxed);
        let series = Arc::new(RequestSeries::new(outcome));
        let mut next = Vec::clone(&known);
        next.push(series.clone());
        self.outcomes.store(Arc::new(next));
        series
    }

    /// Connections of this edge that aren't HTTP.
    pub fn tcp(&self) -> &TcpSeries {
        &self.tcp
    }

    /// The labels.
    pub fn labels(&self) -> &EdgeLabels {
        &self.labels
    }
}

impl Edges {
    /// The edge with these labels; the shared overflow edge once there are [`MAX_EDGES`]. Keep the handle: this takes a
    /// lock.
    pub fn edge(&self, labels: &EdgeLabels) -> Arc<Edge> {
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(edge) = edges.get(labels) {
            return edge.clone();
        }
        if edges.len() < MAX_EDGES {
            let edge = Arc::new(Edge::new(labels.clone(), self.total.clone()));
            edges.insert(labels.clone(), edge.clone());
            return edge;
        }
        self.overflows.fetch_add(1, Ordering::Relaxed);
        let overflow = EdgeLabels::overflow(labels.reporter);
        edges
            .entry(overflow.clone())
            .or_insert_with(|| Arc::new(Edge::new(overflow, self.total.clone())))
            .clone()
    }

    /// How often an edge was asked for that the bound refused.
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }

    fn sorted(&self) -> Vec<Arc<Edge>> {
        let edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = edges.values().cloned().collect();
        drop(edges);
        list.sort_by(|a, b| {
            let key = |edge: &Edge| {
                let labels = &edge.labels;
                (
                    labels.reporter == Reporter::Destination,
                    labels.service.clone(),
                    labels.source.workload.clone(),
                )
            };
            key(a).cmp(&key(b))
        });
        list
    }
}

/// Counters here carry no exemplars; the encoder asks for their labels' type all the same.
pub(super) type NoLabels = [(&'static str, &'static str); 0];
type NoExemplars = Option<&'static HashMap<usize, Exemplar<Vec<(String, String)>, f64>>>;
const NO_EXEMPLARS: NoExemplars = None;

type ReadTcp = fn(&TcpSeries) -> &AtomicU64;

/// Puts all edges on the metrics page.
#[derive(Debug)]
pub(super) struct Page(pub Arc<Edges>);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let edges = self.0.sorted();
        requests(
            &edges,
            &mut encoder,
            "istio_requests",
            "Requests",
            MetricType::Counter,
            |series, metric| metric.encode_counter::<NoLabels, _, f64>(&series.count(), None),
        )?;
        let name = "istio_request_duration_milliseconds";
        requests(
            &edges,
            &mut encoder,
            name,
            "Duration of requests",
            MetricType::Histogram,
            |series, metric| {
                let (sum, count, buckets) = series.duration.read(1_000.0);
                metric.encode_histogram(sum, count, &buckets, NO_EXEMPLARS)
            },
        )?;
        let name = "istio_request_bytes";
        requests(
            &edges,
            &mut encoder,
            name,
            "Size of request bodies",
            MetricType::Histogram,
            |series, metric| {
                let (sum, count, buckets) = series.request_bytes.read(1.0);
                metric.encode_histogram(sum, count, &buckets, NO_EXEMPLARS)
            },
        )?;
        let name = "istio_response_bytes";
        requests(
            &edges,
            &mut encoder,
            name,
            "Size of response bodies",
            MetricType::Histogram,
            |series, metric| {
                let (sum, count, buckets) = series.response_bytes.read(1.0);
                metric.encode_histogram(sum, count, &buckets, NO_EXEMPLARS)
            },
        )?;
        let connections: [(&str, &str, ReadTcp); 4] = [
            ("istio_tcp_connections_opened", "TCP connections opened", |tcp| {
                &tcp.opened
            }),
            ("istio_tcp_connections_closed", "TCP connections closed", |tcp| {
                &tcp.closed
            }),
            ("istio_tcp_sent_bytes", "Bytes sent to the caller", |tcp| {
                &tcp.sent
            }),
            (
                "istio_tcp_received_bytes",
                "Bytes received from the caller",
                |tcp| &tcp.received,
            ),
        ];
        for (name, help, read) in connections {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for edge in edges
                .iter()
                .filter(|edge| edge.tcp.opened.load(Ordering::Relaxed) > 0)
            {
                let labels = Labels {
                    edge: &edge.labels,
                    outcome: None,
                };
                let value = read(&edge.tcp).load(Ordering::Relaxed);
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabels, _, f64>(&value, None)?;
            }
        }
        Ok(())
    }
}

fn requests(
    edges: &[Arc<Edge>],
    encoder: &mut DescriptorEncoder<'_>,
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    write: impl Fn(&RequestSeries, &mut MetricEncoder<'_>) -> Result<(), fmt::Error>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for edge in edges {
        for series in edge.outcomes.load().iter() {
            let labels = Labels {
                edge: &edge.labels,
                outcome: Some(series.outcome),
            };
            write(series, &mut family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

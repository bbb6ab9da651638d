//! What the sidecar counts and says.
//!
//! Enters: requests, connections, denials and refusals. Leaves: Istio's standard metrics, Weft's own, log lines. Never: a
//! secret, a body or a header in the log; an unbounded number of series; a lock on the way of a request.
//!
//! - [`labels`]: both ends of a connection, and what became of a request.
//! - [`series`]: the standard metrics; keep an [`Edge`] per connection or pooled destination.
//! - [`own`]: Weft's own metrics.
//! - [`log`]: where log lines go, and the budget of those that a peer can cause.

mod histogram;
pub mod labels;
pub mod log;
pub mod own;
pub mod series;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use prometheus_client::registry::Registry;

pub use labels::{EdgeLabels, Outcome, Party, Reporter, Security};
pub use own::Own;
pub use series::{Edge, RequestSeries, TcpSeries};

use crate::view::Views;

/// Content type of the metrics page.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that is counted. Cloning is cheap.
#[derive(Clone)]
pub struct Telemetry {
    edges: Arc<series::Edges>,
    own: Arc<Own>,
    registry: Arc<Registry>,
    lines: Arc<log::Budget>,
    views: Arc<OnceLock<Views>>,
    access: bool,
}

/// A request or connection that policy denied.
#[derive(Clone, Copy)]
pub struct Denial<'a> {
    /// The policy's `namespace/name`, or why no policy allowed it.
    pub policy: &'a str,
    /// Object and rule, as people know it.
    pub origin: &'a dyn fmt::Display,
    /// The peer's identity; `None`: plain text.
    pub peer: Option<&'a str>,
    /// The peer's address.
    pub address: SocketAddr,
    /// The pod's port.
    pub port: u16,
}

impl Telemetry {
    /// Empty series. `access`: whether access lines are wanted.
    pub fn new(access: bool) -> Self {
        let edges = Arc::<series::Edges>::default();
        let own = Arc::<Own>::default();
        let views = Arc::<OnceLock<Views>>::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(series::Page(edges.clone())));
        registry.register_collector(Box::new(own::Page {
            own: own.clone(),
            edges: edges.clone(),
            views: views.clone(),
        }));
        Self {
            edges,
            own,
            registry: Arc::new(registry),
            lines: Arc::new(log::Budget::new(20)),
            views,
            access,
        }
    }

    /// The series between two ends. Takes a lock: keep the handle.
    pub fn edge(&self, labels: &EdgeLabels) -> Arc<Edge> {
        self.edges.edge(labels)
    }

    /// The series of one outcome between two ends. Takes a lock: keep the handle.
    pub fn request(&self, labels: &EdgeLabels, outcome: Outcome) -> Arc<RequestSeries> {
        self.edge(labels).request(outcome)
    }

    /// Weft's own metrics.
    pub fn own(&self) -> &Own {
        &self.own
    }

    /// Shows ejections of everything in view too. Only the first call counts.
    pub fn watch(&self, views: Views) {
        let _ = self.views.set(views);
    }

    /// Whether access lines are wanted.
    pub fn access(&self) -> bool {
        self.access
    }

    /// Counts a denial and logs it, within the budget of log lines. The caller of the application never learns `policy`.
    pub fn denied(&self, denial: Denial<'_>) {
        self.own.denied(denial.policy);
        if let Some(unsaid) = self.lines.take() {
            tracing::warn!(
                policy = denial.policy,
                origin = %denial.origin,
                peer = denial.peer.unwrap_or("none"),
                address = %denial.address,
                port = denial.port,
                unsaid,
                "denied by policy"
            );
        }
    }

    /// Counts a refusal before policy (no TLS where it is demanded, a broken head, a bad certificate) and logs it, within
    /// the budget. `reason` is a short fixed word; `detail` says it to people, without secrets.
    pub fn refused(&self, reason: &'static str, address: SocketAddr, detail: &dyn fmt::Display) {
        self.own.refused(reason);
        if let Some(unsaid) = self.lines.take() {
            tracing::warn!(reason, address = %address, detail = %detail, unsaid, "refused");
        }
    }

    /// Counts what this side could not do, and logs it, within the budget. `what` is a short fixed word.
    pub fn failed(&self, what: &'static str, error: &dyn fmt::Display) {
        self.own.refused(what);
        if let Some(unsaid) = self.lines.take() {
            tracing::warn!(what, %error, unsaid, "failed");
        }
    }

    /// Writes the metrics page.
    ///
    /// # Errors
    /// Only those of `page`.
    pub fn write(&self, page: &mut impl fmt::Write) -> fmt::Result {
        prometheus_client::encoding::text::encode(page, &self.registry)
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

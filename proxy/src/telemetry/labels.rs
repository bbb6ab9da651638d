//! Labels of Istio's standard metrics.
//!
//! Enters: what is known of both ends. Leaves: label sets, bounded in length. Never: a host, a path or any other text that
//! a peer is free to choose.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};
use weft_proto::model::{Endpoint, SpiffeId, Workload};

/// Value of a label that isn't known.
pub const UNKNOWN: &str = "unknown";
/// Value of all labels once the bound on series is reached.
pub const OTHER: &str = "other";

/// Which sidecar reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The caller's.
    Source,
    /// The called one's.
    Destination,
}

/// How the connection was secured, as the reporter knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Security {
    /// Mutual TLS.
    MutualTls,
    /// Plain text.
    None,
    /// What Istio's source side says.
    Unknown,
}

/// One end. Empty values are shown as `unknown`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Party {
    /// Owner's name, for example the Deployment's.
    pub workload: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// SPIFFE id.
    pub principal: Arc<str>,
    /// Canonical name.
    pub app: Arc<str>,
    /// Canonical version.
    pub version: Arc<str>,
}

/// Both ends of a connection: the part of the labels that is the same for all its requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EdgeLabels {
    /// Who reports.
    pub reporter: Reporter,
    /// The caller.
    pub source: Party,
    /// The called workload.
    pub destination: Party,
    /// Canonical host name of the Service; empty if unknown. Never what the caller wrote in a header.
    pub service: Arc<str>,
    /// The Service's name; empty if unknown.
    pub service_name: Arc<str>,
    /// The Service's namespace; empty if unknown.
    pub service_namespace: Arc<str>,
    /// How it was secured.
    pub security: Security,
}

/// What a request turned out to be: the part of the labels that differs between requests of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// gRPC rather than other HTTP.
    pub grpc: bool,
    /// HTTP status; 0 when there was none.
    pub code: u16,
    /// gRPC status, if there was one; above 16 counts as 2 (unknown).
    pub grpc_status: Option<u8>,
    /// Envoy's response flags; `-` if none.
    pub flags: &'static str,
}

impl Party {
    /// A party from the workload that the control plane knows and the identity that it proved.
    pub fn new(workload: &Workload, identity: Option<&SpiffeId>) -> Self {
        Self {
            workload: workload.name.clone(),
            namespace: workload.namespace.clone(),
            principal: identity.map_or_else(Arc::default, |id| id.to_string().into()),
            app: workload.app.clone(),
            version: workload.version.clone(),
        }
    }

    /// The party at the other end of an endpoint.
    pub fn of(endpoint: &Endpoint) -> Self {
        Self::new(&endpoint.workload, endpoint.identity.as_ref())
    }
}

impl EdgeLabels {
    /// The set that everything beyond the bound is counted under.
    pub(super) fn overflow(reporter: Reporter) -> Self {
        let other: Arc<str> = OTHER.into();
        let party = Party {
            workload: other.clone(),
            namespace: other.clone(),
            principal: other.clone(),
            app: other.clone(),
            version: other.clone(),
        };
        Self {
            reporter,
            source: party.clone(),
            destination: party,
            service: other.clone(),
            service_name: other.clone(),
            service_namespace: other,
            security: Security::Unknown,
        }
    }
}

impl Outcome {
    /// The outcome that everything beyond the bound of one edge is counted under.
    pub(super) const OVERFLOW: Self = Self {
        grpc: false,
        code: 0,
        grpc_status: None,
        flags: OTHER,
    };

    pub(super) fn bounded(self) -> Self {
        Self {
            grpc_status: self
                .grpc_status
                .map(|status| if status > 16 { 2 } else { status }),
            ..self
        }
    }
}

/// Labels of one series: an edge and, for requests, an outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Labels<'a> {
    pub edge: &'a EdgeLabels,
    pub outcome: Option<Outcome>,
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let edge = self.edge;
        let mut put = |name: &'static str, value: &str| {
            let value = if value.is_empty() { UNKNOWN } else { bounded(value) };
            (name, value).encode(encoder.encode_label())
        };
        put(
            "reporter",
            match edge.reporter {
                Reporter::Source => "source",
                Reporter::Destination => "destination",
            },
        )?;
        let Party {
            workload,
            namespace,
            principal,
            app,
            version,
        } = &edge.source;
        put("source_workload", workload)?;
        put(
            "source_canonical_service",
            if app.is_empty() { workload } else { app },
        )?;
        put(
            "source_canonical_revision",
            if version.is_empty() { "latest" } else { version },
        )?;
        put("source_workload_namespace", namespace)?;
        put("source_principal", principal)?;
        put("source_app", app)?;
        put("source_version", version)?;
        put("source_cluster", "Kubernetes")?;
        put("destination_service", &edge.service)?;
        put("destination_service_namespace", &edge.service_namespace)?;
        put("destination_service_name", &edge.service_name)?;
        let Party {
            workload,
            namespace,
            principal,
            app,
            version,
        } = &edge.destination;
        put("destination_workload", workload)?;
        put(
            "destination_canonical_service",
            if app.is_empty() { workload } else { app },
        )?;
        put(
            "destination_canonical_revision",
            if version.is_empty() { "latest" } else { version },
        )?;
        put("destination_workload_namespace", namespace)?;
        put("destination_principal", principal)?;
        put("destination_app", app)?;
        put("destination_version", version)?;
        put("destination_cluster", "Kubernetes")?;
        match self.outcome {
            Some(outcome) => {
                put("request_protocol", if outcome.grpc { "grpc" } else { "http" })?;
                put("response_code", &number(u32::from(outcome.code)))?;
                (
                    "grpc_response_status",
                    &*outcome
                        .grpc_status
                        .map_or(Cow::Borrowed(""), |s| number(s.into())),
                )
                    .encode(encoder.encode_label())?;
                ("response_flags", outcome.flags).encode(encoder.encode_label())?;
            }
            None => {
                put("request_protocol", "tcp")?;
                put("response_flags", "-")?;
            }
        }
        (
            "connection_security_policy",
            match edge.security {
                Security::MutualTls => "mutual_tls",
                Security::None => "none",
                Security::Unknown => UNKNOWN,
            },
        )
            .encode(encoder.encode_label())
    }
}

fn number(value: u32) -> Cow<'static, str> {
    Cow::Owned(value.to_string())
}

/// At most 256 bytes of a value, cut between characters.
fn bounded(value: &str) -> &str {
    &value[..value.floor_char_boundary(256)]
}

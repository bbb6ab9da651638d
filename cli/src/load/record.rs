//! What `weft load` prints for each request.

use serde::{Deserialize, Serialize};

/// One request that ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// When it began, milliseconds since the epoch.
    pub start_ms: u64,
    /// When it ended, likewise.
    pub end_ms: u64,
    /// How long it took, in microseconds.
    pub micros: u64,
    /// May it run twice?
    pub class: Class,
    /// How it was made.
    pub protocol: Protocol,
    /// The service that was called.
    pub to: String,
    /// Who answered; empty when nobody did.
    #[serde(flatten)]
    pub answerer: Answerer,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Whether the mesh may send a request again on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// GET and the like.
    Safe,
    /// POST, gRPC.
    Unsafe,
    /// Bytes over TCP.
    Stream,
}

/// How a request was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1, keep-alive.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// A unary call.
    Grpc,
    /// A new connection for one line.
    Tcp,
    /// A line on a long-lived connection.
    Stream,
}

/// The pod that answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answerer {
    /// Its name.
    #[serde(default)]
    pub pod: String,
    /// Its region.
    #[serde(default)]
    pub region: String,
    /// Its zone.
    #[serde(default)]
    pub zone: String,
}

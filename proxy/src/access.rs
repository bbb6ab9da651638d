//! The access log: a line for every request and connection, if it is wanted.
//!
//! Enters: what became of a request. Leaves: a log line. Never: a query, a header's value or a body; the path without its
//! query is the most that is said of what was asked.

use std::net::SocketAddr;
use std::time::Duration;

use crate::telemetry::Telemetry;

/// One request or connection.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// `outbound`, `inbound` or `gateway`.
    pub direction: &'static str,
    /// HTTP method, or `-` for opaque connections.
    pub method: &'a str,
    /// Host as asked, empty for opaque connections.
    pub authority: &'a str,
    /// Path without query, empty for opaque connections.
    pub path: &'a str,
    /// Status, 0 if there was none.
    pub code: u16,
    /// Envoy's response flags.
    pub flags: &'static str,
    /// From the first byte of the request to the last of the response.
    pub duration: Duration,
    /// Bytes of bodies: received from and sent to the caller.
    pub bytes: (u64, u64),
    /// Who called.
    pub peer: SocketAddr,
    /// Where it went.
    pub upstream: Option<SocketAddr>,
}

impl Line<'_> {
    /// Writes it, if lines are wanted.
    pub fn write(&self, telemetry: &Telemetry) {
        if telemetry.access() {
            tracing::info!(
                direction = self.direction,
                method = self.method,
                authority = self.authority,
                path = self.path,
                code = self.code,
                flags = self.flags,
                micros = self.duration.as_micros() as u64,
                received = self.bytes.0,
                sent = self.bytes.1,
                peer = %self.peer,
                upstream = self.upstream.map(tracing::field::display),
                "access"
            );
        }
    }
}

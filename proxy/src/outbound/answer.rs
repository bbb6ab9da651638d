//! Answers of the sidecar's own, because a rule says so: redirects, fixed answers, preflights, errors on purpose.
//!
//! Enters: a compiled rule and a request's head. Leaves: status, fields and body. Never: plain HTTP for a gRPC client, which would take
//! it for something else.

use std::sync::Arc;

use weft_engine::route::{CompiledAnswer, CompiledRule, Fields, RequestHead};
use weft_proto::model::Abort;

use crate::failure::Failure;

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// What a gRPC client is told.
    pub grpc: u8,
    /// Fields besides those that say where the message ends.
    pub fields: Fields,
    /// The body.
    pub body: Arc<[u8]>,
    /// Envoy's response flag.
    pub flag: &'static str,
}

/// The body of an error on purpose, as Envoy has it.
const ABORTED: &[u8] = b"fault filter abort";

impl Answer {
    /// What a rule answers. `fields`: those of cross-origin requests.
    ///
    /// # Errors
    /// [`Failure::Path`]: the change of the path makes one that can't be sent.
    pub fn of(
        rule: &CompiledRule,
        answer: &CompiledAnswer,
        head: &RequestHead<'_>,
        mut fields: Fields,
    ) -> Result<Self, Failure> {
        let (status, body) = match answer {
            CompiledAnswer::Redirect(redirect) => {
                let location = redirect.location(head).map_err(|_| Failure::Path)?;
                fields.push(("location".into(), location.into()));
                (redirect.status, Arc::from([]))
            }
            CompiledAnswer::Respond { status, body } => (*status, body.clone()),
        };
        let changes = &rule.response_headers;
        for (name, value) in changes.set.iter().chain(&changes.add) {
            if !changes.remove.contains(name) {
                fields.push((name.clone(), value.clone()));
            }
        }
        let typed = fields.iter().any(|(name, _)| &**name == "content-type");
        if !body.is_empty() && !typed {
            fields.push(("content-type".into(), "text/plain".into()));
        }
        Ok(Self {
            status,
            grpc: grpc_of(status),
            fields,
            body,
            flag: "-",
        })
    }

    /// A preflight's.
    pub fn preflight(fields: Fields) -> Self {
        Self {
            status: 200,
            grpc: 0,
            fields,
            body: Arc::from([]),
            flag: "-",
        }
    }

    /// An error on purpose.
    pub fn abort(abort: Abort) -> Self {
        let (status, grpc) = match abort {
            Abort::Http(status) => (status, grpc_of(status)),
            Abort::Grpc(grpc) => (http_of(grpc), grpc),
        };
        Self {
            status,
            grpc,
            fields: vec![("content-type".into(), "text/plain".into())],
            body: ABORTED.into(),
            flag: "FI",
        }
    }

    /// Whether a message with this status may have a body (RFC 9110, section 6.4.1).
    pub fn has_body(&self) -> bool {
        !matches!(self.status, 204 | 304)
    }
}

/// gRPC's reading of an HTTP status (its "HTTP to gRPC Status Code Mapping").
fn grpc_of(status: u16) -> u8 {
    match status {
        200..=299 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// The HTTP status for a gRPC status (google.rpc.Code).
fn http_of(grpc: u8) -> u16 {
    match grpc {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

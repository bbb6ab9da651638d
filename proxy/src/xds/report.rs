//! How the configuration stands.
//!
//! Enters: what is held, what was refused, how the stream is. Leaves: the same to people, and refusals to the control plane. Never: a
//! resource's content.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use weft_proto::resource::Kind;
use weft_proto::wire::discovery::{Any, Status};
use weft_proto::wire::v1::Rejected;

use super::MAX_REFUSED;
use super::held::Held;
use crate::view::Refusal;

/// Type of the details of a refusal.
const REJECTED: &str = "type.weft.dev/weft.v1.Rejected";
/// gRPC's INVALID_ARGUMENT.
const INVALID_ARGUMENT: i32 = 3;

/// How the configuration stands, for people. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Report(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) held: Held,
    pub(super) refused: Vec<Refusal>,
    pub(super) connected: bool,
    pub(super) last_error: Option<String>,
}

impl Report {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn disconnected(&self, reason: String) {
        let mut state = self.lock();
        state.connected = false;
        state.last_error = Some(reason);
    }

    /// Versions of everything that is held, what was refused, and whether the stream is open.
    pub fn to_json(&self) -> serde_json::Value {
        let state = self.lock();
        let versions: serde_json::Map<String, serde_json::Value> = Kind::ALL
            .into_iter()
            .map(|kind| {
                let names: serde_json::Map<_, _> = state
                    .held
                    .versions(kind)
                    .map(|(name, version)| (name.to_owned(), version.into()))
                    .collect();
                (format!("{kind:?}"), names.into())
            })
            .collect();
        let refused: Vec<_> = state
            .refused
            .iter()
            .map(|Refusal { kind, name, field, reason }| {
                serde_json::json!({ "kind": format!("{kind:?}"), "name": name, "field": field, "reason": reason })
            })
            .collect();
        serde_json::json!({
            "connected": state.connected,
            "lastError": state.last_error,
            "versions": versions,
            "refused": refused,
        })
    }

    /// Whether the stream is open.
    pub fn connected(&self) -> bool {
        self.lock().connected
    }

    /// Resources refused and not replaced since.
    pub fn refused(&self) -> Vec<Refusal> {
        self.lock().refused.clone()
    }
}

/// The `error_detail` of an answer.
pub(super) fn status(refused: &[Refusal]) -> Status {
    let details = refused.iter().take(MAX_REFUSED).map(|refusal| {
        let rejected = Rejected {
            type_url: refusal.kind.type_url().to_owned(),
            name: refusal.name.clone(),
            field: refusal.field.clone(),
            reason: refusal.reason.clone(),
        };
        Any {
            type_url: REJECTED.to_owned(),
            value: rejected.encode_to_vec().into(),
        }
    });
    let message = match refused.first() {
        Some(Refusal {
            name, field, reason, ..
        }) => {
            format!(
                "{} of the resources are refused; {name}: {field}: {reason}",
                refused.len()
            )
        }
        None => String::new(),
    };
    Status {
        code: INVALID_ARGUMENT,
        message,
        details: details.collect(),
    }
}

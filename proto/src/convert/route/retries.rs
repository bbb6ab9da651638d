//! What is tried again.

use super::super::{Invalid, each};
use super::{millis, most, number, timeout};
use crate::model::{Retries, RetryOn};
use crate::wire::v1;

/// Most tries after the first.
const MOST_ATTEMPTS: u8 = 10;
/// Most reasons, and most statuses.
const MOST_REASONS: usize = 64;

impl TryFrom<v1::Retries> for Retries {
    type Error = Invalid;
    fn try_from(wire: v1::Retries) -> Result<Self, Invalid> {
        most("on", wire.on.len(), MOST_REASONS)?;
        most("statuses", wire.statuses.len(), MOST_REASONS)?;
        Ok(Self {
            attempts: number("attempts", wire.attempts, 0, MOST_ATTEMPTS)?,
            on: each("on", wire.on, retry_on)?,
            statuses: each("statuses", wire.statuses, |status| number("", status, 100, 599))?,
            backoff: timeout("backoff_ms", wire.backoff_ms)?,
            hedge_after: timeout("hedge_after_ms", wire.hedge_after_ms)?,
        })
    }
}

impl From<&Retries> for v1::Retries {
    fn from(retries: &Retries) -> Self {
        Self {
            attempts: retries.attempts.into(),
            on: retries.on.iter().map(|on| retry_on_wire(*on).into()).collect(),
            statuses: retries.statuses.iter().map(|status| (*status).into()).collect(),
            backoff_ms: millis(retries.backoff),
            hedge_after_ms: millis(retries.hedge_after),
        }
    }
}

/// A value that this version doesn't know is refused, so that an older sidecar never guesses.
fn retry_on(value: i32) -> Result<RetryOn, Invalid> {
    Ok(match v1::RetryOn::try_from(value) {
        Ok(v1::RetryOn::ConnectFailure) => RetryOn::ConnectFailure,
        Ok(v1::RetryOn::RefusedStream) => RetryOn::RefusedStream,
        Ok(v1::RetryOn::Reset) => RetryOn::Reset,
        Ok(v1::RetryOn::GatewayError) => RetryOn::GatewayError,
        Ok(v1::RetryOn::ServerError) => RetryOn::ServerError,
        Ok(v1::RetryOn::Retriable4xx) => RetryOn::Retriable4xx,
        Ok(v1::RetryOn::Cancelled) => RetryOn::Cancelled,
        Ok(v1::RetryOn::DeadlineExceeded) => RetryOn::DeadlineExceeded,
        Ok(v1::RetryOn::Internal) => RetryOn::Internal,
        Ok(v1::RetryOn::ResourceExhausted) => RetryOn::ResourceExhausted,
        Ok(v1::RetryOn::Unavailable) => RetryOn::Unavailable,
        Ok(v1::RetryOn::Timeout) => RetryOn::Timeout,
        Ok(v1::RetryOn::Unspecified) | Err(_) => {
            let reason = format!("{value} is no reason to try again that this version knows");
            return Err(Invalid::new("", reason));
        }
    })
}

fn retry_on_wire(on: RetryOn) -> v1::RetryOn {
    match on {
        RetryOn::ConnectFailure => v1::RetryOn::ConnectFailure,
        RetryOn::RefusedStream => v1::RetryOn::RefusedStream,
        RetryOn::Reset => v1::RetryOn::Reset,
        RetryOn::GatewayError => v1::RetryOn::GatewayError,
        RetryOn::ServerError => v1::RetryOn::ServerError,
        RetryOn::Retriable4xx => v1::RetryOn::Retriable4xx,
        RetryOn::Cancelled => v1::RetryOn::Cancelled,
        RetryOn::DeadlineExceeded => v1::RetryOn::DeadlineExceeded,
        RetryOn::Internal => v1::RetryOn::Internal,
        RetryOn::ResourceExhausted => v1::RetryOn::ResourceExhausted,
        RetryOn::Unavailable => v1::RetryOn::Unavailable,
        RetryOn::Timeout => v1::RetryOn::Timeout,
    }
}

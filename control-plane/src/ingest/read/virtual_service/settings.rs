//! Timeouts, retries, faults, headers and cross-origin requests.

use super::super::cors::{few_cors, tokens};
use super::super::duration::duration;
use super::super::fields::{Fields, Notes};
use super::super::route_filter::{few_changes, removals};
use super::super::route_policy;
use super::super::syntax::{bound, header_name, header_value, regex_folded, unchangeable};
use super::matching::text_match;
use std::time::Duration;
use weft_proto::model::{Abort, Cors, Fault, HeaderChanges, Retries, RetryOn, StringMatch};

/// All of something.
const MILLION: f64 = 1_000_000.0;
/// Tries after the first if nothing is said (Istio).
const ATTEMPTS: i64 = 2;
/// Most statuses that a sidecar takes.
const MOST_STATUSES: usize = 64;

/// A duration of Istio; zero means none.
pub(super) fn time(fields: &mut Fields<'_>, name: &'static str, notes: &Notes) -> Option<Duration> {
    let text = fields.text(name)?;
    bound(duration(text), text, &fields.at(name), notes)
}

/// A share of requests in millionths: `{value: 0.1}` in percent, or the whole number of a field that came before it.
pub(super) fn share(
    fields: &mut Fields<'_>,
    name: &'static str,
    before: Option<&'static str>,
    notes: &Notes,
) -> Option<u32> {
    let old = before.and_then(|before| Some((fields.decimal(before)?, fields.at(before))));
    let found = match fields.object(name) {
        Some(mut percent) => {
            let value = percent.decimal("value").unwrap_or_default();
            let at = percent.at("value");
            percent.finish();
            Some((value, at))
        }
        None => old,
    };
    let (percent, at) = found?;
    if !(0.0..=100.0).contains(&percent) {
        notes.invalid(&at, format!("{percent} is no percentage"), "use 0 to 100");
        return None;
    }
    // From 0 to a million: the range was checked.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let millionths = (percent / 100.0 * MILLION).round() as u32;
    Some(millionths)
}

/// `fault`.
pub(super) fn fault(fields: &mut Fields<'_>, notes: &Notes) -> Fault {
    let mut found = Fault::default();
    let Some(mut fault) = fields.object("fault") else {
        return found;
    };
    if let Some(mut delay) = fault.object("delay") {
        let mark = notes.mark();
        let share = share(&mut delay, "percentage", Some("percent"), notes);
        nobody(share, mark, &delay, "delayed", notes);
        let time = time(&mut delay, "fixedDelay", notes);
        if delay.text("exponentialDelay").is_some() {
            let reason = "Weft delays by a fixed time";
            notes.not_acted_on(&delay.at("exponentialDelay"), reason, "use fixedDelay");
        }
        delay.finish();
        found.delay = share.filter(|share| *share > 0).zip(time);
    }
    if let Some(mut abort) = fault.object("abort") {
        let mark = notes.mark();
        let share = share(&mut abort, "percentage", Some("percent"), notes);
        nobody(share, mark, &abort, "aborted", notes);
        let http = abort.number("httpStatus");
        let grpc = abort.text("grpcStatus");
        if abort.text("http2Error").is_some() {
            let reason = "Weft aborts with a status";
            notes.not_acted_on(&abort.at("http2Error"), reason, "use httpStatus or grpcStatus");
        }
        let what = match (http, grpc) {
            (Some(_), Some(_)) => {
                notes.invalid(abort.path(), "asks for two statuses", "keep one");
                None
            }
            (Some(status), None) => {
                let fits = u16::try_from(status)
                    .ok()
                    .filter(|status| (200..=599).contains(status));
                if fits.is_none() {
                    notes.invalid(
                        &abort.at("httpStatus"),
                        "is no status from 200 to 599",
                        "correct it",
                    );
                }
                fits.map(Abort::Http)
            }
            (None, Some(name)) => {
                let code = grpc_status(name);
                if code.is_none() {
                    notes.invalid(
                        &abort.at("grpcStatus"),
                        "is no status of gRPC",
                        "write it like UNAVAILABLE",
                    );
                }
                code.map(Abort::Grpc)
            }
            (None, None) => None,
        };
        abort.finish();
        found.abort = share.filter(|share| *share > 0).zip(what);
    }
    fault.finish();
    found
}

fn nobody(share: Option<u32>, mark: usize, fields: &Fields<'_>, what: &str, notes: &Notes) {
    if share.is_none() && notes.error_since(mark).is_none() {
        let reason = format!("has no percentage: no request is {what}");
        notes.not_acted_on(fields.path(), reason, "add percentage");
    }
}

/// By name or number.
fn grpc_status(name: &str) -> Option<u8> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let named = NAMES.iter().position(|known| *known == name);
    let code = named.or_else(|| name.parse().ok().filter(|code| *code < NAMES.len()))?;
    u8::try_from(code).ok()
}

/// `retries`, and the bound on one try.
pub(super) fn retries(fields: &mut Fields<'_>, notes: &Notes) -> (Option<Retries>, Option<Duration>) {
    let Some(mut retries) = fields.object("retries") else {
        return (None, None);
    };
    let attempts = retries.number("attempts").unwrap_or(ATTEMPTS);
    let attempts = route_policy::attempts(attempts, &retries.at("attempts"), notes);
    let one = time(&mut retries, "perTryTimeout", notes);
    let backoff = time(&mut retries, "backoff", notes);
    let mut found = Retries {
        attempts,
        backoff,
        ..Retries::default()
    };
    let at = retries.at("retryOn");
    match retries.text("retryOn").filter(|text| !text.is_empty()) {
        Some(text) => retry_on(text, &at, &mut found, notes),
        // As Istio does.
        None => {
            found.on = vec![
                RetryOn::ConnectFailure,
                RetryOn::RefusedStream,
                RetryOn::Unavailable,
                RetryOn::Cancelled,
            ]
        }
    }
    for name in ["retryRemoteLocalities", "retryIgnorePreviousHosts"] {
        if retries.flag(name) == Some(false) {
            let reason = "Weft tries another endpoint, and another locality where the near ones are used up";
            notes.not_acted_on(&retries.at(name), reason, "don't rely on it");
        }
    }
    retries.finish();
    (Some(found), one)
}

fn retry_on(text: &str, at: &str, found: &mut Retries, notes: &Notes) {
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let on = match word {
            "connect-failure" => RetryOn::ConnectFailure,
            "refused-stream" => RetryOn::RefusedStream,
            // A part of `reset`: nothing of the request was answered in either.
            "reset" | "reset-before-request" => RetryOn::Reset,
            "gateway-error" => RetryOn::GatewayError,
            "5xx" => RetryOn::ServerError,
            "retriable-4xx" => RetryOn::Retriable4xx,
            "cancelled" => RetryOn::Cancelled,
            "deadline-exceeded" => RetryOn::DeadlineExceeded,
            "internal" => RetryOn::Internal,
            "resource-exhausted" => RetryOn::ResourceExhausted,
            "unavailable" => RetryOn::Unavailable,
            // The statuses stand beside it.
            "retriable-status-codes" => continue,
            _ => {
                let status = word
                    .parse::<u16>()
                    .ok()
                    .filter(|status| (100..=599).contains(status));
                match status {
                    Some(status) if found.statuses.len() < MOST_STATUSES => found.statuses.push(status),
                    _ => {
                        let word: String = word.chars().take(64).collect();
                        let reason = format!("Weft doesn't try again because of {word:?}");
                        notes.not_acted_on(at, reason, "leave it out");
                    }
                }
                continue;
            }
        };
        if !found.on.contains(&on) {
            found.on.push(on);
        }
    }
    // Envoy counts a try without an answer as a 5xx.
    if found
        .on
        .iter()
        .any(|on| matches!(on, RetryOn::ServerError | RetryOn::GatewayError))
    {
        for more in [
            RetryOn::ConnectFailure,
            RetryOn::RefusedStream,
            RetryOn::Reset,
            RetryOn::Timeout,
        ] {
            let of_server = found.on.contains(&RetryOn::ServerError) || more == RetryOn::Timeout;
            if of_server && !found.on.contains(&more) {
                found.on.push(more);
            }
        }
    }
}

/// `headers`: changes of requests and responses.
pub(super) fn headers(fields: &mut Fields<'_>, notes: &Notes) -> (HeaderChanges, HeaderChanges) {
    let Some(mut headers) = fields.object("headers") else {
        return Default::default();
    };
    let read = |operations: Option<Fields<'_>>| {
        let mut changes = HeaderChanges::default();
        let Some(mut operations) = operations else {
            return changes;
        };
        for (how, list) in [("set", &mut changes.set), ("add", &mut changes.add)] {
            let at = operations.at(how);
            for (name, value) in operations.labels(how).unwrap_or_default() {
                match header_name(&name).zip(header_value(&value)) {
                    Some((name, value)) => match unchangeable(&name, how) {
                        None => list.push((name, value)),
                        Some(reason) => notes.invalid(&format!("{at}.{name}"), reason, "leave it out"),
                    },
                    None => {
                        let name: String = name.chars().take(64).collect();
                        let reason = "is no header (RFC 9110, section 5)";
                        notes.invalid(&format!("{at}.{name}"), reason, "correct it");
                    }
                }
            }
        }
        removals(&mut operations, &mut changes, notes);
        few_changes(&mut changes, operations.path(), notes);
        operations.finish();
        changes
    };
    let both = (read(headers.object("request")), read(headers.object("response")));
    headers.finish();
    both
}

/// `corsPolicy`.
pub(super) fn cors(fields: &mut Fields<'_>, notes: &Notes) -> Option<Cors> {
    let mut policy = fields.object("corsPolicy")?;
    let mut allow_origins: Vec<StringMatch> = policy
        .objects("allowOrigins")
        .into_iter()
        .filter_map(|origin| {
            let at = origin.at("regex");
            match text_match(Some(origin), notes)? {
                // Origins are compared whatever the case of their letters.
                StringMatch::Regex(text) => regex_folded(&text, &at, notes).map(StringMatch::Regex),
                other => Some(other),
            }
        })
        .collect();
    // Deprecated: exact ones.
    let old = policy.texts("allowOrigin").into_iter();
    allow_origins.extend(
        old.map(|(_, origin)| StringMatch::Exact(origin.chars().take(4096).collect::<String>().into())),
    );
    let allow_methods = tokens(&mut policy, "allowMethods", notes, |method| method.into());
    let lower = |name: &str| name.to_ascii_lowercase().into();
    let cors = Cors {
        allow_origins,
        allow_methods,
        allow_headers: tokens(&mut policy, "allowHeaders", notes, lower),
        expose_headers: tokens(&mut policy, "exposeHeaders", notes, lower),
        max_age: time(&mut policy, "maxAge", notes),
        allow_credentials: policy.flag("allowCredentials").unwrap_or(false),
    };
    if policy
        .text("unmatchedPreflights")
        .is_some_and(|text| text != "UNSPECIFIED")
    {
        let reason = "Weft answers every preflight that has a policy";
        notes.not_acted_on(&policy.at("unmatchedPreflights"), reason, "don't rely on it");
    }
    few_cors(&cors, policy.path(), notes);
    policy.finish();
    Some(cors)
}

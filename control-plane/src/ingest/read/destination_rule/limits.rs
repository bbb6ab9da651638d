//! `connectionPool`, `outlierDetection` and `retryBudget`.

use super::super::fields::{Fields, Notes};
use super::values::{count, flag, percent, time};
use std::time::Duration;
use weft_proto::model::{Limits, Outliers, RetryBudget};

/// `connectionPool`; of counts, 0 means none.
pub(super) fn pool(mut fields: Fields<'_>, notes: &Notes) -> Limits {
    let mut limits = Limits::default();
    let set = |count: Option<u32>| count.filter(|count| *count > 0);
    if let Some(mut tcp) = fields.object("tcp") {
        limits.connections = set(count(&mut tcp, "maxConnections", notes));
        limits.connect_timeout = time(&mut tcp, "connectTimeout", notes);
        limits.max_connection = time(&mut tcp, "maxConnectionDuration", notes);
        limits.idle_timeout = idle(&mut tcp, notes);
        if tcp.value("tcpKeepalive").is_some() {
            let reason = "sidecars keep connections alive in their own way";
            notes.not_acted_on(&tcp.at("tcpKeepalive"), reason, "don't rely on it");
        }
        tcp.finish();
    }
    if let Some(mut http) = fields.object("http") {
        limits.pending_requests = set(count(&mut http, "http1MaxPendingRequests", notes));
        limits.requests = set(count(&mut http, "http2MaxRequests", notes));
        limits.requests_per_connection = set(count(&mut http, "maxRequestsPerConnection", notes));
        limits.retries = set(count(&mut http, "maxRetries", notes));
        if let Some(idle) = idle(&mut http, notes) {
            if limits.idle_timeout.is_some_and(|other| other != idle) {
                let reason = "there is one such time in Weft; it counts, and that of tcp doesn't";
                notes.not_acted_on(&http.at("idleTimeout"), reason, "make them equal");
            }
            limits.idle_timeout = Some(idle);
        }
        match http.text("h2UpgradePolicy") {
            None | Some("DEFAULT" | "DO_NOT_UPGRADE") => {}
            Some(_) => {
                let reason = "requests keep their version of HTTP";
                notes.not_acted_on(&http.at("h2UpgradePolicy"), reason, "don't rely on it");
            }
        }
        if flag(&mut http, "useClientProtocol", notes) == Some(false) {
            let reason = "requests keep their version of HTTP";
            notes.not_acted_on(&http.at("useClientProtocol"), reason, "don't rely on it");
        }
        if http.value("maxConcurrentStreams").is_some() {
            let reason = "a connection takes as many streams as its other side allows";
            notes.not_acted_on(&http.at("maxConcurrentStreams"), reason, "limit http2MaxRequests");
        }
        http.finish();
    }
    fields.finish();
    limits
}

/// `0s` means none, which is the default too.
fn idle(fields: &mut Fields<'_>, notes: &Notes) -> Option<Duration> {
    match fields.text("idleTimeout") {
        None | Some("0s") => None,
        Some(_) => time(fields, "idleTimeout", notes),
    }
}

/// `outlierDetection`, and the percentage of healthy endpoints below which all get traffic.
pub(super) fn outliers(mut fields: Fields<'_>, notes: &Notes) -> (Outliers, Option<u8>) {
    let mut outliers = Outliers {
        consecutive_errors: count(&mut fields, "consecutive5xxErrors", notes),
        consecutive_gateway_errors: count(&mut fields, "consecutiveGatewayErrors", notes),
        interval: time(&mut fields, "interval", notes),
        base_ejection: time(&mut fields, "baseEjectionTime", notes),
        max_ejection_percent: percent(&mut fields, "maxEjectionPercent", notes),
        ..Outliers::default()
    };
    let split = flag(&mut fields, "splitExternalLocalOriginErrors", notes);
    let local = count(&mut fields, "consecutiveLocalOriginFailures", notes);
    if local.is_some() && split != Some(true) {
        let reason = "has a meaning only with splitExternalLocalOriginErrors; connection failures count by Weft's default";
        notes.not_acted_on(
            &fields.at("consecutiveLocalOriginFailures"),
            reason,
            "set splitExternalLocalOriginErrors",
        );
    } else {
        outliers.consecutive_connect_errors = local;
    }
    let panic = percent(&mut fields, "minHealthPercent", notes);
    if fields.value("consecutiveErrors").is_some() {
        let reason = "is of an API that is gone";
        notes.not_acted_on(
            &fields.at("consecutiveErrors"),
            reason,
            "use consecutive5xxErrors",
        );
    }
    fields.finish();
    // 0 is the default of its API: no panic that was asked for.
    (outliers, panic.filter(|panic| *panic > 0))
}

/// `retryBudget`.
pub(super) fn retry_budget(fields: &mut Fields<'_>, notes: &Notes) -> Option<RetryBudget> {
    let mut fields = fields.object("retryBudget")?;
    let percent = percent(&mut fields, "percent", notes);
    let least = count(&mut fields, "minRetryConcurrency", notes);
    fields.finish();
    Some(RetryBudget {
        percent: percent.unwrap_or(20),
        min_per_second: least.unwrap_or(3),
    })
}

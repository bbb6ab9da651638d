//! Why this locality and this endpoint.
//!
//! In: the endpoints of a Service's port at one moment, and what was picked. Out: each distance with its health and share, each endpoint
//! with its weight, load and cost, and why it was not picked. Never: a pick of its own.

use super::{Considered, Stage, Step};
use crate::cluster::Cluster;
use crate::endpoint::{EndpointReport, EndpointState};
use crate::failover::WHOLE;
use crate::outlier::Cause;
use crate::pick::{NoEndpoint, Picked, Reason};
use crate::tick::Tick;
use std::sync::Arc;
use weft_proto::model::{Health, Origin};

/// The steps that led to what was picked.
pub fn steps(cluster: &Cluster, now: Tick, picked: &Result<Picked, NoEndpoint>) -> Vec<Step> {
    let reports = cluster.report(now);
    vec![locality(cluster, &reports, picked), endpoint(&reports, picked)]
}

type Report = (Arc<EndpointState>, EndpointReport);

fn locality(cluster: &Cluster, reports: &[Report], picked: &Result<Picked, NoEndpoint>) -> Step {
    let shares = cluster.shares();
    let farthest = shares.map_or(0, |shares| shares.farthest());
    let options = cluster.tiers().enumerate().map(|(tier, name)| {
        let of = || {
            reports
                .iter()
                .filter(move |(endpoint, _)| endpoint.tier() == Some(tier))
        };
        let ready = of().filter(|(endpoint, _)| endpoint.health == Health::Ready);
        let healthy = ready
            .clone()
            .filter(|(_, report)| report.ejected.is_none())
            .count();
        let share = shares.map_or(0, |shares| shares.0[tier]);
        let own = picked
            .as_ref()
            .is_ok_and(|picked| picked.endpoint.tier() == Some(tier));
        let why = match (of().count(), healthy, share, own) {
            (0, ..) => "has no endpoint".to_owned(),
            (_, 0, _, false) => "has no healthy endpoint".to_owned(),
            (_, _, WHOLE, true) => "takes all of the traffic".to_owned(),
            (_, _, 0, false) if tier > farthest => "nearer ones take all of the traffic".to_owned(),
            (_, _, 0, false) => "has no share".to_owned(),
            (_, _, _, true) => "drawn by its share".to_owned(),
            (_, _, _, false) => "drawn for other requests".to_owned(),
        };
        Considered {
            chosen: own,
            ..Considered::rejected(name, why)
        }
        .fact("healthy", format!("{healthy}/{}", of().count()))
        .fact("share", format!("{:.1}%", share as f64 * 100.0 / WHOLE as f64))
    });
    let options: Vec<_> = options.collect();
    let name = match picked {
        Ok(picked) => picked.endpoint.tier().and_then(|tier| cluster.tiers().nth(tier)),
        Err(_) => Some("none has an endpoint"),
    };
    let step = Step::new(Stage::Locality, name.unwrap_or("none is for callers here")).with(options);
    let step = step.because(&cluster.traffic.origin);
    match cluster.panics() {
        true => step.note("so few are healthy that all of them get traffic"),
        false => step,
    }
}

fn endpoint(reports: &[Report], picked: &Result<Picked, NoEndpoint>) -> Step {
    let chosen = picked.as_ref().ok();
    let options = reports.iter().map(|(endpoint, report)| {
        let own = chosen.is_some_and(|picked| picked.endpoint.id == endpoint.id);
        let why = match chosen.filter(|_| own) {
            Some(picked) => reason(picked.reason).to_owned(),
            None => objection(endpoint, report, chosen.and_then(|picked| picked.endpoint.tier())),
        };
        let place = [&endpoint.locality.region, &endpoint.locality.zone];
        let place: Vec<&str> = place
            .into_iter()
            .map(|part| &**part)
            .filter(|part| !part.is_empty())
            .collect();
        let latency = report
            .latency_micros
            .map_or("-".to_owned(), |micros| format!("{:.1} ms", micros as f64 / 1e3));
        Considered {
            chosen: own,
            ..Considered::rejected(endpoint.address.to_string(), why)
        }
        .fact("pod", title(endpoint))
        .fact(
            "place",
            if place.is_empty() {
                "-".to_owned()
            } else {
                place.join("/")
            },
        )
        .fact("weight", endpoint.weight)
        .fact("load", report.outstanding)
        .fact("latency", latency)
    });
    let options: Vec<_> = options.collect();
    let what = match picked {
        Ok(picked) => format!("{} ({})", picked.endpoint.address, title(&picked.endpoint)),
        Err(why) => why.to_string(),
    };
    let origin = chosen.map(|picked| &picked.endpoint.workload);
    let origin = origin.filter(|workload| !workload.pod.is_empty());
    let origin = origin.map(|workload| Origin::object("Pod", &workload.namespace, &workload.pod));
    Step::new(Stage::Endpoint, what)
        .because(&origin.unwrap_or_default())
        .with(options)
}

fn title(endpoint: &EndpointState) -> String {
    let workload = &endpoint.workload;
    if workload.pod.is_empty() {
        return "no pod".to_owned();
    }
    format!("{}/{}", workload.namespace, workload.pod)
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Balanced => "picked by the balancer",
        Reason::Session => "the request's session sticks to it",
        Reason::Trial => "its ejection is over: this request finds out whether it is back",
        Reason::Check => "it has been silent: this request finds out whether it is dead",
        Reason::Panic => "no healthy endpoint is left: the best bet",
        Reason::Draining => "no endpoint is ready: one that is terminating takes it",
    }
}

fn objection(endpoint: &EndpointState, report: &EndpointReport, tier: Option<usize>) -> String {
    if endpoint.tier().is_none() {
        return "is not for callers here".to_owned();
    }
    match (endpoint.health, report.ejected) {
        (Health::Draining, _) => "is terminating: gets nothing new".to_owned(),
        (Health::Unready, _) => "is not ready".to_owned(),
        (Health::Ready, Some(cause)) => {
            let cause = match cause {
                Cause::Refused => "its port refuses connections",
                Cause::Broken => "connections to it fail or break",
                Cause::Silent => "it fell silent",
                Cause::GatewayErrors => "it answered 502, 503 or 504 again and again",
                Cause::ServerErrors => "it answered 5xx again and again",
                Cause::SuccessRate => "it fails more often than the others",
                Cause::Latency => "it is slower than the others",
                Cause::HealthCheck => "its health checks fail",
            };
            format!("is ejected: {cause}")
        }
        (Health::Ready, None) => match tier {
            Some(tier) if endpoint.tier() > Some(tier) => "is farther away".to_owned(),
            Some(tier) if endpoint.tier() < Some(tier) => "its tier's share was not drawn".to_owned(),
            _ => "another one was drawn, or costs less".to_owned(),
        },
    }
}

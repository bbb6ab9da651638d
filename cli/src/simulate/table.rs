//! Tables for people.
//!
//! Enters: predictions. Leaves: text. Never: more precision than there is.

use super::Case;
use super::bounds::Bounds;
use super::town::Built;
use crate::status::columns;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use weft_engine::simulate::view::Place;
use weft_engine::simulate::{Group, Link, View};
use weft_proto::model::ServiceName;

/// Rates below this are nothing.
const NOTHING: f64 = 0.05;

/// `us-east/us-east-1a`.
pub fn place((region, zone): &Place) -> String {
    match (&**region, &**zone) {
        ("", "") => "somewhere".to_owned(),
        ("", zone) => zone.to_owned(),
        (region, "") => region.to_owned(),
        (region, zone) => format!("{region}/{zone}"),
    }
}

/// A rate, as exact as it is.
pub fn rate(rate: f64) -> String {
    match rate {
        r if r < NOTHING => "0".to_owned(),
        r if r < 10.0 => format!("{r:.1}"),
        r => format!("{r:.0}"),
    }
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        p if p > 0.0 && p < 0.5 => "<1%".to_owned(),
        p => format!("{p:.0}%"),
    }
}

fn step(before: String, after: String) -> String {
    if before == after {
        after
    } else {
        format!("{before} -> {after}")
    }
}

/// Everything; with `each`, a row a case, and whether the bounds hold, if any is stated.
pub fn text(cases: &[Case], built: &Built, each: bool, bounds: Bounds) -> String {
    let mut out = String::new();
    if each {
        overview(&mut out, cases, bounds);
    } else {
        for case in cases {
            one(&mut out, case, built);
        }
    }
    out
}

/// The group with the highest load.
fn fullest(view: &View) -> Option<(&ServiceName, &Group, f64)> {
    let loaded = view.services.iter().flat_map(|service| {
        let of = service.groups.iter().filter(|group| group.up > 0);
        of.filter_map(|group| Some((&service.name, group, group.load?)))
    });
    loaded.max_by(|a, b| a.2.total_cmp(&b.2))
}

fn overview(out: &mut String, cases: &[Case], bounds: Bounds) {
    let total = |view: &View| rate(view.refused.iter().map(|refused| refused.rate).sum());
    let far = |view: &View| {
        let far = view.links.iter().filter(|link| link.crosses_regions());
        rate(far.map(|link| link.rate).sum())
    };
    let row = |case: &Case| {
        let settled = &case.prediction.settled;
        let fullest = fullest(settled).map(|(service, group, load)| {
            let at = place(&(group.region.clone(), group.zone.clone()));
            format!("{} {service} in {at}", percent(load))
        });
        vec![
            case.title.clone(),
            fullest.unwrap_or_else(|| "-".to_owned()),
            total(&case.prediction.at_once),
            total(settled),
            far(settled),
            match case.broken.len() {
                0 if bounds == Bounds::default() => "-".to_owned(),
                0 => "hold".to_owned(),
                broken => format!("{broken} broken"),
            },
        ]
    };
    let head = [
        "FAILURE",
        "HIGHEST LOAD",
        "REFUSED/S AT ONCE",
        "REFUSED/S",
        "ACROSS REGIONS/S",
        "BOUNDS",
    ];
    columns(out, &head, cases.iter().map(row).collect());
}

fn one(out: &mut String, case: &Case, built: &Built) {
    let _ = writeln!(out, "{}\n", case.title);
    services(out, case, built);
    links(out, case);
    refused(out, case);
}

fn services(out: &mut String, case: &Case, built: &Built) {
    let (before, after) = (&case.prediction.before, &case.prediction.settled);
    let mut rows = Vec::new();
    for service in &after.services {
        let old = before.service(&service.name);
        for group in &service.groups {
            let same = |other: &&Group| other.region == group.region && other.zone == group.zone;
            let old = old
                .and_then(|old| old.groups.iter().find(same))
                .cloned()
                .unwrap_or_default();
            let load = |group: &Group| match (group.load, group.up) {
                (_, 0) | (None, _) => "-".to_owned(),
                (Some(load), _) => percent(load),
            };
            rows.push(vec![
                service.name.to_string(),
                place(&(group.region.clone(), group.zone.clone())),
                format!("{} of {}", group.up, group.endpoints),
                step(percent(old.share), percent(group.share)),
                step(rate(old.rate), rate(group.rate)),
                step(load(&old), load(group)),
            ]);
        }
    }
    let head = ["SERVICE", "WHERE", "PODS UP", "SHARE", "REQUESTS/S", "LOAD"];
    columns(out, &head, rows);
    if after
        .services
        .iter()
        .any(|service| !built.measured(&service.name))
    {
        out.push_str("(load without a capacity: of what the busiest pod has before)\n");
    }
}

fn links(out: &mut String, case: &Case) {
    type Key<'a> = (Option<&'a Place>, &'a Place, &'a ServiceName);
    let mut all: BTreeMap<Key<'_>, [f64; 2]> = BTreeMap::new();
    for (at, view) in [&case.prediction.before, &case.prediction.settled]
        .into_iter()
        .enumerate()
    {
        for link in view.links.iter().filter(|link| link.from.is_some()) {
            let Link {
                from, to, service, ..
            } = link;
            all.entry((from.as_ref(), to, service)).or_default()[at] += link.rate;
        }
    }
    let rows: Vec<Vec<String>> = all
        .into_iter()
        .filter(|(_, [before, after])| *before >= NOTHING || *after >= NOTHING)
        .map(|((from, to, service), [before, after])| {
            vec![
                from.map(place).unwrap_or_default(),
                place(to),
                service.to_string(),
                step(rate(before), rate(after)),
            ]
        })
        .collect();
    if !rows.is_empty() {
        out.push('\n');
        columns(out, &["FROM", "TO", "SERVICE", "REQUESTS/S"], rows);
    }
}

fn refused(out: &mut String, case: &Case) {
    let views = [
        ("before", &case.prediction.before),
        ("at once", &case.prediction.at_once),
        ("settled", &case.prediction.settled),
    ];
    let mut rows = Vec::new();
    for (when, view) in views {
        for refused in view.refused.iter().filter(|refused| refused.rate > 0.0) {
            let shown = match refused.rate {
                r if r < NOTHING => "<0.1".to_owned(),
                r => rate(r),
            };
            rows.push(vec![
                when.to_owned(),
                refused.service.to_string(),
                refused.from.to_string(),
                shown,
                refused.reason.clone(),
            ]);
        }
    }
    out.push('\n');
    if rows.is_empty() {
        out.push_str("nothing is refused, neither in the first seconds nor later\n");
        return;
    }
    columns(out, &["REFUSED", "SERVICE", "FROM", "REQUESTS/S", "WHY"], rows);
}

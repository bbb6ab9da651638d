//! Rules that never decide, because an earlier one matches whatever they match.
//!
//! In: translated routes, in order of precedence. Out: a finding for each rule that is surely never reached. Never: a rule that might be:
//! whether one expression matches all that another does is not guessed.

use crate::ingest::lines::Lines;
use crate::mesh::Diagnostic;
use crate::translate::Shared;
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_proto::model::{Origin, RouteMatch, RouteRule, Routes, StringMatch};
use weft_proto::resource::{Kind, Resource};

/// Rules of one Service that are compared with each other, at most: the work grows with their square.
const MOST_RULES: usize = 1_000;

pub(super) fn find(shared: &Shared, findings: &mut Vec<Diagnostic>) {
    let mut lines = Lines::default();
    for item in shared.items(Kind::Routes).values().chain(shared.consumer_items()) {
        let Resource::Routes(routes) = item.resource() else {
            continue;
        };
        requests(routes, &mut lines, findings);
        for routes in routes.pods.iter().filter_map(|pod| routes.of_pod(&pod.hostname)) {
            requests(&routes, &mut lines, findings);
        }
    }
}

/// A rule is flattened to one entry for each of its matches: it has no effect if all of them are shadowed.
fn requests(routes: &Routes, lines: &mut Lines, findings: &mut Vec<Diagnostic>) {
    let mut rules: BTreeMap<&Origin, Vec<Option<&Origin>>> = BTreeMap::new();
    for (i, rule) in routes.rules.iter().take(MOST_RULES).enumerate() {
        let earlier = routes.rules.iter().take(i).find(|earlier| covers(earlier, rule));
        rules
            .entry(&rule.origin)
            .or_default()
            .push(earlier.map(|earlier| &earlier.origin));
    }
    let mut written = |by: &Origin| {
        let mut by = by.clone();
        lines.narrow(&mut by);
        by
    };
    for (origin, shadows) in rules {
        let by: Option<Vec<&Origin>> = shadows.iter().copied().collect();
        match by {
            Some(by) if by.iter().any(|by| *by != origin) => {
                let finding = Diagnostic::warning("rule-shadowed", &origin.with_rule("")).at(&*origin.rule);
                let reason = format!(
                    "never decides: {} matches all that it matches, and goes first",
                    written(by[0])
                );
                findings.push(
                    finding
                        .because(reason)
                        .so("remove it, or make the earlier one match less"),
                );
            }
            _ => {
                let parts = shadows
                    .iter()
                    .filter(|by| by.is_some_and(|by| by != origin))
                    .count();
                if let Some(Some(by)) = shadows.iter().find(|by| by.is_some_and(|by| by != origin)) {
                    let finding = Diagnostic::info("match-shadowed", &origin.with_rule("")).at(&*origin.rule);
                    let reason = format!(
                        "{parts} of its {} matches never decide: {} goes first",
                        shadows.len(),
                        written(by)
                    );
                    findings.push(finding.because(reason).so("remove them"));
                }
            }
        }
    }
}

/// Whether `earlier` surely matches everything that `later` matches.
fn covers(earlier: &RouteRule, later: &RouteRule) -> bool {
    let port = earlier.port.is_none() || earlier.port == later.port;
    port && covers_match(&earlier.matches, &later.matches)
}

fn covers_match(earlier: &RouteMatch, later: &RouteMatch) -> bool {
    let part = |earlier: &Option<StringMatch>, later: &Option<StringMatch>| match (earlier, later) {
        (None, _) => true,
        (Some(earlier), Some(later)) => covers_text(earlier, later),
        (Some(_), None) => false,
    };
    let path = match (earlier.path_ignores_case, later.path_ignores_case) {
        (true, _) | (false, false) => part(&earlier.path, &later.path),
        (false, true) => earlier.path.is_none(),
    };
    path && part(&earlier.method, &later.method)
        && part(&earlier.authority, &later.authority)
        && part(&earlier.scheme, &later.scheme)
        && all_covered(&earlier.headers, &later.headers)
        && all_covered(&earlier.query, &later.query)
        && earlier
            .without_headers
            .iter()
            .all(|absent| later.without_headers.contains(absent))
}

/// Whether each condition of `earlier` follows from one of `later`.
fn all_covered(earlier: &[(Arc<str>, StringMatch)], later: &[(Arc<str>, StringMatch)]) -> bool {
    earlier.iter().all(|(name, wanted)| {
        later
            .iter()
            .any(|(other, narrower)| other == name && covers_text(wanted, narrower))
    })
}

/// Whether every text that `narrow` matches is matched by `wide`.
fn covers_text(wide: &StringMatch, narrow: &StringMatch) -> bool {
    use StringMatch::{Exact, PathPrefix, Prefix, Present, Regex, Suffix};
    let segments = |prefix: &str, path: &str| {
        let prefix = prefix.trim_end_matches('/');
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match (wide, narrow) {
        (Present, _) => true,
        (Exact(wide), Exact(narrow)) => wide == narrow,
        (Prefix(wide), Exact(narrow) | Prefix(narrow)) => narrow.starts_with(&**wide),
        // `/a` as path prefix matches `/a` and `/a/…`, so that a plain prefix `/a/` doesn't cover it.
        (Prefix(wide), PathPrefix(narrow)) => {
            narrow.trim_end_matches('/').starts_with(&**wide) || &**wide == "/"
        }
        (Suffix(wide), Exact(narrow) | Suffix(narrow)) => narrow.ends_with(&**wide),
        (PathPrefix(wide), Exact(narrow) | PathPrefix(narrow)) => segments(wide, narrow),
        // A plain prefix `/ab` also matches `/abc`.
        (PathPrefix(wide), Prefix(narrow)) => {
            let wide = wide.trim_end_matches('/');
            narrow.starts_with(wide) && (wide.is_empty() || narrow[wide.len()..].starts_with('/'))
        }
        (Regex(wide), Regex(narrow)) => wide == narrow,
        (Regex(wide), _) => &**wide == ".*",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_covers_what() {
        use StringMatch::{Exact, PathPrefix, Prefix, Present, Regex, Suffix};
        let text = |text: &str| -> Arc<str> { text.into() };
        for (wide, narrow, wanted) in [
            (PathPrefix(text("/")), Exact(text("/a")), true),
            (PathPrefix(text("/a")), Exact(text("/a")), true),
            (PathPrefix(text("/a")), Exact(text("/a/b")), true),
            (PathPrefix(text("/a")), Exact(text("/ab")), false),
            (PathPrefix(text("/a")), PathPrefix(text("/a/b")), true),
            (PathPrefix(text("/a/")), PathPrefix(text("/a")), true),
            (PathPrefix(text("/a/b")), PathPrefix(text("/a")), false),
            (PathPrefix(text("/a")), Prefix(text("/a")), false),
            (PathPrefix(text("/a")), Prefix(text("/a/")), true),
            (PathPrefix(text("/")), Prefix(text("/x")), true),
            (Prefix(text("/a")), PathPrefix(text("/a")), true),
            (Prefix(text("/a/")), PathPrefix(text("/a")), false),
            (Prefix(text("/")), PathPrefix(text("/")), true),
            (Prefix(text("/a")), Prefix(text("/ab")), true),
            (Suffix(text(".png")), Exact(text("/x.png")), true),
            (Present, Exact(text("x")), true),
            (Exact(text("x")), Present, false),
            (Regex(text(".*")), Exact(text("x")), true),
            (Regex(text("a+")), Regex(text("a+")), true),
            (Regex(text("a+")), Exact(text("a")), false),
        ] {
            assert_eq!(covers_text(&wide, &narrow), wanted, "{wide:?} {narrow:?}");
        }
    }
}

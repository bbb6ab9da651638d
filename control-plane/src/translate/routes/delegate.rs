//! Rules of a VirtualService, with the rules that it delegates to in their place.
//!
//! A request must satisfy the match that delegates and the one of the delegate. What the delegate doesn't say is as the rule that
//! delegates says. At most two delegations in a chain; a loop, a delegate that isn't there or may not be used: what matches gets 500.

use super::layer::MOST_RULES;
use crate::mesh::virtual_service::{Callers, CallingPods, VirtualMatch};
use crate::mesh::{Action, Diagnostic, Export, Mesh, VirtualRule, VirtualService};
use std::collections::BTreeSet;
use weft_proto::model::{HeaderChanges, Origin, RouteMatch, ServiceName, StringMatch};

/// Longest chain of delegations.
const LONGEST_CHAIN: usize = 2;

/// A rule that sends, or answers, itself.
pub(super) struct Rule<'a> {
    /// The object and rule that it is of.
    pub(super) origin: Origin,
    /// Any may match.
    pub(super) matches: Vec<VirtualMatch>,
    pub(super) then: std::borrow::Cow<'a, Action>,
}

/// The rules of a VirtualService; notes which others it delegates to.
pub(super) fn rules<'a>(
    mesh: &'a Mesh,
    root: &'a VirtualService,
    delegates: &mut BTreeSet<ServiceName>,
    findings: &mut Vec<Diagnostic>,
) -> Vec<Rule<'a>> {
    let mut walk = Walk {
        mesh,
        delegates,
        findings,
        rules: Vec::new(),
        matches: 0,
    };
    let name = ServiceName::new(&root.origin.namespace, &root.origin.name);
    walk.all(root, None, &mut vec![name]);
    walk.rules
}

struct Walk<'a, 'b> {
    mesh: &'a Mesh,
    delegates: &'b mut BTreeSet<ServiceName>,
    findings: &'b mut Vec<Diagnostic>,
    rules: Vec<Rule<'a>>,
    matches: usize,
}

/// What is known from the rules that delegate.
type Above<'x> = (&'x [VirtualMatch], &'x Action);

impl<'a> Walk<'a, '_> {
    fn all(&mut self, one: &'a VirtualService, above: Option<Above<'_>>, chain: &mut Vec<ServiceName>) {
        for rule in &one.http {
            if self.matches > MOST_RULES {
                return;
            }
            let any = [VirtualMatch::default()];
            let own = rule.matches.as_deref().unwrap_or(&any);
            let matches = match above {
                None => own.to_vec(),
                Some((above, _)) => self.both(one, rule, above, own),
            };
            let then = match above {
                None => std::borrow::Cow::Borrowed(&rule.then),
                Some((_, above)) => std::borrow::Cow::Owned(inherit(&rule.then, above)),
            };
            if matches.is_empty() {
                continue;
            }
            match &rule.delegate {
                None => {
                    self.matches += matches.len();
                    self.rules.push(Rule {
                        origin: one.origin.with_rule(&rule.rule),
                        matches,
                        then,
                    });
                }
                Some(name) => match self.delegate(one, rule, name, chain) {
                    Some(delegate) => {
                        chain.push(name.clone());
                        self.all(delegate, Some((&matches, &then)), chain);
                        chain.pop();
                    }
                    None => {
                        self.matches += matches.len();
                        self.rules.push(Rule {
                            origin: one.origin.with_rule(&rule.rule),
                            matches,
                            then: std::borrow::Cow::Owned(Action::default()),
                        });
                    }
                },
            }
        }
    }

    /// The VirtualService that a rule delegates to, if it may.
    fn delegate(
        &mut self,
        one: &VirtualService,
        rule: &VirtualRule,
        name: &ServiceName,
        chain: &[ServiceName],
    ) -> Option<&'a VirtualService> {
        let found = self.mesh.virtual_services.get(name);
        let own = &one.origin.namespace;
        let wrong: (&'static str, String, &str) = match found {
            _ if chain.contains(name) => (
                "virtual-service-loop",
                format!("{name} delegates back to where it came from"),
                "let one of them send to a Service",
            ),
            _ if chain.len() > LONGEST_CHAIN => (
                "virtual-service-loop",
                format!("there are more than {LONGEST_CHAIN} delegations in a chain"),
                "put the rules of two of them into one",
            ),
            None => (
                "virtual-service-delegate-missing",
                format!("VirtualService {name} doesn't exist, or isn't for the mesh"),
                "create it, or correct the name",
            ),
            Some(found) if !found.hosts.is_empty() => (
                "virtual-service-delegate-missing",
                format!("VirtualService {name} has hosts of its own, so that nobody can delegate to it"),
                "remove its hosts",
            ),
            Some(found) if matches!(&found.export, Export::To(to) if !to.contains(own)) => (
                "virtual-service-delegate-missing",
                format!("VirtualService {name} isn't exported to namespace {own}"),
                "export it there",
            ),
            Some(found) => {
                self.delegates.insert(name.clone());
                return Some(found);
            }
        };
        let (code, reason, action) = wrong;
        let finding = Diagnostic::error(code, &one.origin).at(format!("{}.delegate", rule.field));
        let reason = format!("{reason}; what matches is answered with 500");
        self.findings.push(finding.because(reason).so(action));
        None
    }

    /// Every pair of matches that a request can satisfy both of.
    fn both(
        &mut self,
        one: &VirtualService,
        rule: &VirtualRule,
        above: &[VirtualMatch],
        own: &[VirtualMatch],
    ) -> Vec<VirtualMatch> {
        let mut found = Vec::new();
        'all: for above in above {
            for own in own {
                if found.len() > MOST_RULES {
                    break 'all;
                }
                found.extend(both(above, own));
            }
        }
        if found.is_empty() && !own.is_empty() {
            let finding = Diagnostic::error("virtual-service-delegate-conflict", &one.origin);
            let reason = "matches nothing of what is delegated to it; the rule is left out";
            let finding = finding.at(format!("{}.match", rule.field)).because(reason);
            self.findings
                .push(finding.so("match a part of what the rule that delegates matches"));
        }
        found
    }
}

/// A match that is both; `None` when there is none that Weft can say.
fn both(above: &VirtualMatch, own: &VirtualMatch) -> Option<VirtualMatch> {
    let mut labels = above.of.pods.labels.clone();
    for (key, value) in &own.of.pods.labels {
        if labels
            .insert(key.clone(), value.clone())
            .is_some_and(|old| old != *value)
        {
            return None;
        }
    }
    let (a, b) = (&above.request, &own.request);
    let path = part(&a.path, &b.path)?;
    let folded = match (&a.path, &b.path) {
        (Some(_), None) => a.path_ignores_case,
        (Some(_), Some(_)) if a.path_ignores_case != b.path_ignores_case => return None,
        _ => b.path_ignores_case,
    };
    let joined = |a: &[_], b: &[_]| [a, b].concat();
    Some(VirtualMatch {
        request: RouteMatch {
            path,
            path_ignores_case: folded,
            headers: joined(&a.headers, &b.headers),
            query: joined(&a.query, &b.query),
            method: part(&a.method, &b.method)?,
            authority: part(&a.authority, &b.authority)?,
            scheme: part(&a.scheme, &b.scheme)?,
            without_headers: joined(&a.without_headers, &b.without_headers),
        },
        of: Callers {
            port: same(above.of.port, own.of.port)?,
            namespace: same(above.of.namespace.clone(), own.of.namespace.clone())?,
            pods: CallingPods {
                labels,
                block: same(above.of.pods.block, own.of.pods.block)?,
            },
        },
    })
}

fn same<T: PartialEq>(a: Option<T>, b: Option<T>) -> Option<Option<T>> {
    match (a, b) {
        (Some(a), Some(b)) => (a == b).then_some(Some(a)),
        (a, b) => Some(a.or(b)),
    }
}

/// The narrower of two, if one is a part of the other.
fn part(a: &Option<StringMatch>, b: &Option<StringMatch>) -> Option<Option<StringMatch>> {
    let (a, b) = match (a, b) {
        (Some(a), Some(b)) => (a, b),
        (a, b) => return Some(a.clone().or_else(|| b.clone())),
    };
    match (a, b) {
        _ if a == b => Some(Some(a.clone())),
        (StringMatch::Present, other) | (other, StringMatch::Present) => Some(Some(other.clone())),
        (StringMatch::Prefix(start), StringMatch::Exact(text) | StringMatch::Prefix(text))
            if text.starts_with(&**start) =>
        {
            Some(Some(b.clone()))
        }
        _ => None,
    }
}

/// What the delegate says, and for the rest what the rule says that delegates.
fn inherit(own: &Action, above: &Action) -> Action {
    let or = |own: &HeaderChanges, above: &HeaderChanges| match *own == HeaderChanges::default() {
        true => above.clone(),
        false => own.clone(),
    };
    let mut then = own.clone();
    then.request_headers = or(&own.request_headers, &above.request_headers);
    then.response_headers = or(&own.response_headers, &above.response_headers);
    then.request_timeout = own.request_timeout.or(above.request_timeout);
    then.backend_timeout = own.backend_timeout.or(above.backend_timeout);
    then.retries = own.retries.clone().or_else(|| above.retries.clone());
    then.cors = own.cors.clone().or_else(|| above.cors.clone());
    if own.mirrors.is_empty() {
        then.mirrors = above.mirrors.clone();
    }
    if own.fault == Default::default() {
        then.fault = above.fault.clone();
    }
    if own.rewrite == Default::default() && own.answer.is_none() {
        then.rewrite = above.rewrite.clone();
    }
    then
}

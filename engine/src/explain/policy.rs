//! Why allowed or denied.
//!
//! In: the policies that select the workload, a peer and what it asks for. Out: every policy and rule with why it did or didn't
//! match, and what would change a denial. Never: matching of its own: each rule, and each part of one, is asked by compiling it alone.

use super::objection::Question;
use super::{Considered, End, Stage, Step};
use crate::policy::{Denial, Operation, Peer, PolicySet, Verdict};
use weft_proto::model::{Action, MtlsMode, Origin, PeerAuthentication};

/// Why a connection is or isn't taken, before anything is known of what it asks for.
pub fn admission(authentication: &PeerAuthentication, tls: bool) -> (Step, Option<End>) {
    let mode = match authentication.mode {
        MtlsMode::Strict => "STRICT: mutual TLS only",
        MtlsMode::Permissive => "PERMISSIVE: mutual TLS and plain text",
        MtlsMode::Disable => "DISABLE: plain text, no TLS is terminated",
    };
    let origin = authentication.origin.clone().unwrap_or_default();
    let spoken = if tls { "mutual TLS" } else { "plain text" };
    match crate::policy::admission(authentication, tls) {
        Ok(()) => {
            let mut step =
                Step::new(Stage::Admission, format!("{spoken} is taken ({mode})")).because(&origin);
            if authentication.origin.is_none() {
                step = step.note("no PeerAuthentication is about this port: Weft's default");
            }
            (step, None)
        }
        Err(refused) => {
            let step = Step::new(Stage::Admission, format!("{spoken} is refused ({mode})")).because(&origin);
            let end = End::Refused {
                stage: Stage::Admission,
                status: None,
                why: refused.to_string(),
                because: authentication.origin.clone(),
                remedies: vec![
                    "give the caller a sidecar".to_owned(),
                    "or make the mode PERMISSIVE for this port".to_owned(),
                ],
            };
            (step, Some(end))
        }
    }
}

/// Why a peer may or may not do what it asks for; `operation`: `None` for a connection that isn't HTTP.
pub fn decide(
    set: &PolicySet,
    peer: &Peer<'_>,
    port: u16,
    operation: Option<&Operation<'_>>,
) -> (Step, Option<End>) {
    let question = Question {
        peer,
        port,
        operation,
    };
    let verdict = question.put(set);
    let mut options = Vec::new();
    let mut decided = false;
    for action in [Action::Deny, Action::Allow] {
        for policy in set.policies().iter().filter(|policy| policy.action == action) {
            if policy.rules.is_empty() {
                let nothing = match action {
                    Action::Allow => "has no rules: allows nothing",
                    Action::Deny => "has no rules: denies nothing",
                };
                options.push(
                    Considered::rejected(name(&policy.origin, action), nothing).because(&policy.origin),
                );
            }
            for rule in &policy.rules {
                let what = name(&rule.origin, action);
                let option = match (decided, question.matches(rule, action)) {
                    (true, true) => Considered::rejected(what, "matches too, but an earlier one has decided"),
                    (false, true) => {
                        decided = true;
                        Considered::chosen(what, question.agreement(rule))
                    }
                    (_, false) => Considered::rejected(what, question.objections(rule, action)),
                };
                options.push(option.because(&rule.origin));
            }
        }
    }
    let step = |chosen: &str| Step::new(Stage::Policy, chosen).with(options);
    match verdict {
        Verdict::Allowed { by: None } if set.is_empty() => {
            (step("allowed: no policy selects this workload"), None)
        }
        Verdict::Allowed { by: None } => (
            step("allowed: no DENY rule matches and there is no ALLOW policy"),
            None,
        ),
        Verdict::Allowed { by: Some(origin) } => (step("allowed").because(origin), None),
        Verdict::Denied(Denial::Rule(origin)) => {
            let remedies = vec![format!(
                "change or remove {origin}, so that it does not match this caller"
            )];
            let (why, origin) = (format!("denied by {origin}"), origin.clone());
            (
                step("denied").because(&origin),
                Some(denied(why, Some(origin), remedies, operation)),
            )
        }
        Verdict::Denied(cause @ Denial::NoAllow { .. }) => {
            let why = cause.to_string();
            let end = denied(why, None, question.remedies(set), operation);
            (
                step("denied: there are ALLOW policies and none matches"),
                Some(end),
            )
        }
    }
}

fn denied(
    why: String,
    because: Option<Origin>,
    remedies: Vec<String>,
    operation: Option<&Operation<'_>>,
) -> End {
    End::Refused {
        stage: Stage::Policy,
        status: operation.map(|_| 403),
        why,
        because,
        remedies,
    }
}

fn name(origin: &Origin, action: Action) -> String {
    let action = match action {
        Action::Allow => "ALLOW",
        Action::Deny => "DENY",
    };
    let place = if origin.namespace.is_empty() {
        String::new()
    } else {
        format!("{}/", origin.namespace)
    };
    let rule = if origin.rule.is_empty() {
        String::new()
    } else {
        format!(" {}", origin.rule)
    };
    format!("{action} {place}{}{rule}", origin.name)
}

//! `security.istio.io` AuthorizationPolicy.
//!
//! What Weft can't evaluate never lets more in. Such a field is left out and its rule says so
//! ([`DeclaredRule::unsupported`]): an ALLOW rule then matches nothing, a DENY rule matches without it. Something wrong
//! outside the rules marks all of them. An unknown action counts as ALLOW with such rules.

use super::fields::{Fields, Notes};
use super::peer::selector;
use crate::mesh::{AuthorizationPolicy, DeclaredAction, DeclaredRule, DeclaredSource, Selection};
use ipnet::IpNet;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;
use weft_proto::model::{Operation, ServiceName, Source, StringMatch};

/// Most rules of one policy; with more, all of it counts as something that can't be evaluated.
const MOST_RULES: usize = 1_000;
/// Longest pattern, in bytes.
const LONGEST_PATTERN: usize = 4_096;

pub(super) fn read(body: &Value, notes: &Notes) -> AuthorizationPolicy {
    let origin = notes.object().clone();
    let mut root = Fields::new(body, "", notes);
    root.ignore(&["apiVersion", "kind", "metadata", "status"]);
    let mut policy = AuthorizationPolicy {
        selection: Selection::All,
        action: DeclaredAction::Allow,
        rules: Vec::new(),
        origin: origin.clone(),
    };
    let Some(mut spec) = root.object("spec") else {
        root.finish();
        return policy;
    };
    root.finish();
    policy.selection = selection(&mut spec, notes);
    policy.action = action(&mut spec, notes);
    let unreadable = spec.value("rules").is_some_and(|rules| !rules.is_array());
    let rules = spec.list("rules");
    spec.finish();
    let broken = notes.error_since(0);
    for (i, (path, value)) in rules.iter().enumerate().take(MOST_RULES) {
        let mut rule = self::rule(Fields::new(value, path.as_str(), notes), notes);
        rule.origin = origin.with_rule(format!("rules[{i}]"));
        if rule.unsupported.is_none() {
            rule.unsupported.clone_from(&broken);
        }
        policy.rules.push(rule);
    }
    if rules.len() > MOST_RULES {
        let reason = format!("has {} entries; Weft reads at most {MOST_RULES}", rules.len());
        notes.invalid("spec.rules", &reason, "split the policy");
        policy.rules = vec![catch_all(&policy, format!("spec.rules: {reason}").into())];
    } else if let (true, Some(broken)) = (unreadable, broken) {
        // A DENY must not vanish because its rules can't be read.
        policy.rules = vec![catch_all(&policy, broken)];
    }
    policy
}

fn catch_all(policy: &AuthorizationPolicy, unsupported: Arc<str>) -> DeclaredRule {
    let origin = policy.origin.with_rule("rules");
    DeclaredRule {
        origin,
        unsupported: Some(unsupported),
        ..DeclaredRule::default()
    }
}

fn action(spec: &mut Fields<'_>, notes: &Notes) -> DeclaredAction {
    let provider = spec.value("provider").is_some();
    match spec.text("action") {
        None | Some("ALLOW") => {}
        Some("DENY") => return DeclaredAction::Deny,
        Some("AUDIT") => {
            let reason = "Weft doesn't write audit records; the policy has no effect";
            notes.not_acted_on("spec.action", reason, "read the access log instead");
            return DeclaredAction::Audit;
        }
        Some("CUSTOM") => {
            let reason = "Weft can't ask an external authorizer; requests that match are denied";
            notes.not_acted_on("spec.action", reason, "use ALLOW or DENY, or remove the policy");
            return DeclaredAction::Custom;
        }
        Some(other) => notes.invalid(
            "spec.action",
            format!("{other:?} is no action; the policy allows nothing"),
            "use ALLOW or DENY",
        ),
    }
    if provider {
        notes.invalid("spec.provider", "goes with the action CUSTOM only", "remove it");
    }
    DeclaredAction::Allow
}

fn selection(spec: &mut Fields<'_>, notes: &Notes) -> Selection {
    let labels = selector(spec);
    let mut targets: Vec<Fields<'_>> = spec.object("targetRef").into_iter().collect();
    targets.extend(spec.objects("targetRefs"));
    if targets.is_empty() {
        return labels.map_or(Selection::All, Selection::Labels);
    }
    if labels.is_some() {
        notes.invalid(
            "spec.selector",
            "can't be combined with targetRefs",
            "keep one of them",
        );
    }
    let (mut services, mut gateways, mut classes) = (Vec::new(), Vec::new(), Vec::new());
    let mut broken = false;
    for mut target in targets {
        let (group, kind) = (
            target.text("group").unwrap_or_default(),
            target.text("kind").unwrap_or_default(),
        );
        let (name, path) = (target.text("name"), target.path().to_owned());
        let namespace = target.text("namespace").unwrap_or_default();
        target.finish();
        match (group, kind, name) {
            ("" | "core", "Service", Some(name)) | ("gateway.networking.k8s.io", "Gateway", Some(name)) => {
                if !namespace.is_empty() && *namespace != *notes.object().namespace {
                    notes.invalid(
                        &path,
                        "a policy targets Services and Gateways of its own namespace",
                        "move the policy",
                    );
                    broken = true;
                }
                let name = ServiceName::new(&notes.object().namespace, name);
                match kind {
                    "Gateway" => gateways.push(name),
                    _ => services.push(name),
                }
            }
            ("gateway.networking.k8s.io", "GatewayClass", Some(name)) => {
                if !namespace.is_empty() {
                    notes.not_acted_on(
                        &format!("{path}.namespace"),
                        "a GatewayClass has no namespace",
                        "leave it out",
                    );
                }
                classes.push(Arc::from(name));
            }
            _ => {
                let reason = format!("sidecars can't be targeted by kind {kind:?} of group {group:?}");
                notes.invalid(
                    &path,
                    reason,
                    "name a Service of group \"\", a Gateway or a GatewayClass, or use a selector",
                );
                broken = true;
            }
        }
    }
    match (labels, broken) {
        (Some(labels), ..) => Selection::Labels(labels),
        // Whom it is for can't be told: it is for all, and its rules are marked.
        (None, true) => Selection::All,
        (None, false) => Selection::Targets {
            services,
            gateways,
            classes,
        },
    }
}

fn rule(mut fields: Fields<'_>, notes: &Notes) -> DeclaredRule {
    let mark = notes.mark();
    let mut rule = DeclaredRule::default();
    for mut from in fields.objects("from") {
        let source = from.object("source");
        if source.is_none() {
            notes.invalid(
                &from.at("source"),
                "is missing",
                "say which sources the rule is about",
            );
        }
        from.finish();
        rule.from.push(
            source
                .map(|source| self::source(source, notes))
                .unwrap_or_default(),
        );
    }
    for mut to in fields.objects("to") {
        let operation = to.object("operation");
        if operation.is_none() {
            notes.invalid(
                &to.at("operation"),
                "is missing",
                "say which operations the rule is about",
            );
        }
        to.finish();
        rule.to.push(
            operation
                .map(|operation| self::operation(operation, notes))
                .unwrap_or_default(),
        );
    }
    if !fields.list("when").is_empty() {
        let action = "say it with from and to, or expect the rule to be as strict as it can be";
        notes.unsupported(&fields.at("when"), "Weft doesn't evaluate conditions", action);
    }
    fields.finish();
    rule.unsupported = notes.error_since(mark);
    rule
}

fn source(mut fields: Fields<'_>, notes: &Notes) -> DeclaredSource {
    let mark = notes.mark();
    for name in [
        "requestPrincipals",
        "notRequestPrincipals",
        "remoteIpBlocks",
        "notRemoteIpBlocks",
    ] {
        if !fields.list(name).is_empty() {
            let reason = "Weft doesn't evaluate it";
            notes.unsupported(
                &fields.at(name),
                reason,
                "say it with principals, namespaces or ipBlocks",
            );
        }
    }
    let mut declared = DeclaredSource {
        source: Source {
            principals: principals(&mut fields, "principals", notes),
            not_principals: principals(&mut fields, "notPrincipals", notes),
            namespaces: patterns(&mut fields, "namespaces", notes),
            not_namespaces: patterns(&mut fields, "notNamespaces", notes),
            ip_blocks: parsed(&mut fields, "ipBlocks", notes, block, "an address or CIDR"),
            not_ip_blocks: parsed(&mut fields, "notIpBlocks", notes, block, "an address or CIDR"),
        },
        service_accounts: accounts(&mut fields, "serviceAccounts", notes),
        not_service_accounts: accounts(&mut fields, "notServiceAccounts", notes),
    };
    let others = !declared.source.principals.is_empty() || !declared.source.namespaces.is_empty();
    if others && !declared.service_accounts.is_empty() {
        let reason = "can't be combined with principals or namespaces";
        notes.invalid(&fields.at("serviceAccounts"), reason, "keep one of them");
        declared.service_accounts.clear();
    }
    if declared == DeclaredSource::default() && notes.mark() == mark {
        notes.invalid(
            fields.path(),
            "is empty",
            "say which sources, or leave `from` out to mean all",
        );
    }
    fields.finish();
    declared
}

fn operation(mut fields: Fields<'_>, notes: &Notes) -> Operation {
    let mark = notes.mark();
    let operation = Operation {
        ports: parsed(&mut fields, "ports", notes, port, "a port"),
        not_ports: parsed(&mut fields, "notPorts", notes, port, "a port"),
        methods: patterns(&mut fields, "methods", notes),
        not_methods: patterns(&mut fields, "notMethods", notes),
        paths: paths(&mut fields, "paths", notes),
        not_paths: paths(&mut fields, "notPaths", notes),
        hosts: patterns(&mut fields, "hosts", notes),
        not_hosts: patterns(&mut fields, "notHosts", notes),
    };
    if operation == Operation::default() && notes.mark() == mark {
        notes.invalid(
            fields.path(),
            "is empty",
            "say which operations, or leave `to` out to mean all",
        );
    }
    fields.finish();
    operation
}

/// Reads every entry of a list, or none of it if one is bad: a list that is read in part would mean something else.
fn parsed<T>(
    fields: &mut Fields<'_>,
    name: &'static str,
    notes: &Notes,
    parse: impl Fn(&str) -> Option<T>,
    wanted: &str,
) -> Vec<T> {
    let mark = notes.mark();
    let mut values = Vec::new();
    for (path, text) in fields.texts(name) {
        match parse(text) {
            Some(value) => values.push(value),
            None => notes.invalid(&path, format!("{text:?} is not {wanted}"), "correct it"),
        }
    }
    if notes.error_since(mark).is_some() {
        Vec::new()
    } else {
        values
    }
}

const PATTERN: &str = "a pattern: a text, with one * at its start or its end";

fn patterns(fields: &mut Fields<'_>, name: &'static str, notes: &Notes) -> Vec<StringMatch> {
    parsed(fields, name, notes, pattern, PATTERN)
}

fn principals(fields: &mut Fields<'_>, name: &'static str, notes: &Notes) -> Vec<StringMatch> {
    parsed(
        fields,
        name,
        notes,
        |text| pattern(text.strip_prefix("spiffe://").unwrap_or(text)),
        PATTERN,
    )
}

/// Path templates (`{*}`, `{**}`) are not evaluated.
fn paths(fields: &mut Fields<'_>, name: &'static str, notes: &Notes) -> Vec<StringMatch> {
    parsed(
        fields,
        name,
        notes,
        |text| pattern(text).filter(|_| !text.contains(['{', '}'])),
        PATTERN,
    )
}

/// Istio's patterns: `*`, `x*`, `*x`, `x`.
fn pattern(text: &str) -> Option<StringMatch> {
    let inner = |rest: &str| (!rest.contains('*') && !rest.is_empty()).then(|| Arc::from(rest));
    if text.len() > LONGEST_PATTERN {
        return None;
    }
    if text == "*" {
        return Some(StringMatch::Present);
    }
    match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(rest), _) => inner(rest).map(StringMatch::Suffix),
        (None, Some(rest)) => inner(rest).map(StringMatch::Prefix),
        (None, None) => inner(text).map(StringMatch::Exact),
    }
}

fn block(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .ok()
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

/// `namespace/name`, or a name of the policy's namespace.
fn accounts(fields: &mut Fields<'_>, name: &'static str, notes: &Notes) -> Vec<(Arc<str>, Arc<str>)> {
    let own = &notes.object().namespace;
    let account = |text: &str| {
        let (namespace, account) = text.split_once('/').unwrap_or((own, text));
        let fits = |part: &str| !part.is_empty() && !part.contains(['/', '*']) && part.len() <= 253;
        (fits(namespace) && fits(account)).then(|| (namespace.into(), account.into()))
    };
    parsed(
        fields,
        name,
        notes,
        account,
        "a service account, as name or namespace/name",
    )
}

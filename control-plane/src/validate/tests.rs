use super::*;
use crate::mesh::{Change, Store};
use crate::testing;
use proptest::prelude::*;
use serde_json::{Value, json};

fn bytes(group: &str, version: &str, kind: &str, operation: &str, object: &Value, old: &Value) -> Vec<u8> {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "kind": {"group": group, "version": version, "kind": kind}, "namespace": "shop",
        "operation": operation, "object": object, "oldObject": old}})
    .to_string()
    .into_bytes()
}

fn ask(group: &str, kind: &str, operation: &str, object: &Value, old: &Value) -> Opinion {
    let request = review::read(&bytes(group, "v1", kind, operation, object, old)).unwrap();
    judge(&request, &testing::mesh(1))
}

fn create(group: &str, kind: &str, spec: Value) -> Opinion {
    let object = json!({"metadata": {"name": "x", "namespace": "shop"}, "spec": spec});
    ask(group, kind, "CREATE", &object, &Value::Null)
}

const SECURITY: &str = "security.istio.io";
const GATEWAY: &str = "gateway.networking.k8s.io";
const NETWORKING: &str = "networking.istio.io";

#[test]
fn annotations_are_judged_too() {
    let route = |rate: &str| {
        json!({"metadata": {"name": "x", "namespace": "shop", "annotations": {"traffic.weft.dev/rateLimit": rate}},
            "spec": {"parentRefs": [{"kind": "Service", "group": "", "name": "web"}],
                "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}})
    };
    let opinion = ask(GATEWAY, "HTTPRoute", "UPDATE", &route("-1/s"), &route("1/s"));
    let refused = opinion.refused.unwrap();
    assert!(
        refused.contains("metadata.annotations[traffic.weft.dev/rateLimit]"),
        "{refused}"
    );
    let opinion = ask(GATEWAY, "HTTPRoute", "UPDATE", &route("-1/s"), &route("-1/s"));
    assert_eq!(opinion, Opinion::default());
}

fn ingress(class: &str) -> Value {
    json!({"ingressClassName": class, "rules": [{"http": {"paths": [{"path": "/a/../b", "pathType": "Exact",
        "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]})
}

#[test]
fn what_is_another_implementations_is_not_judged() {
    assert_eq!(
        create("networking.k8s.io", "Ingress", ingress("nginx")),
        Opinion::default()
    );
    let gateway = json!({"gatewayClassName": "other", "listeners": 1});
    assert_eq!(create(GATEWAY, "Gateway", gateway), Opinion::default());
    let route = json!({"parentRefs": [{"name": "theirs"}], "rules": [{"backendRefs": 1}]});
    assert_eq!(create(GATEWAY, "HTTPRoute", route), Opinion::default());
}

#[test]
fn what_is_wrong_in_the_object_alone_is_refused_by_field() {
    for (group, kind, spec, field) in [
        (
            SECURITY,
            "PeerAuthentication",
            json!({"mtls": {"mode": "SOMETIMES"}}),
            "spec.mtls.mode",
        ),
        (
            SECURITY,
            "PeerAuthentication",
            json!({"portLevelMtls": {"80": {"mode": "STRICT"}}}),
            "spec.portLevelMtls",
        ),
        (
            SECURITY,
            "AuthorizationPolicy",
            json!({"action": "PERHAPS"}),
            "spec.action",
        ),
        (SECURITY, "AuthorizationPolicy", json!({"rules": 1}), "spec.rules"),
        (
            GATEWAY,
            "HTTPRoute",
            json!({"parentRefs": [{"kind": "Service", "group": "", "name": "web"}],
                "rules": [{"backendRefs": [{"name": "web", "port": 99999}]}]}),
            "spec.rules[0].backendRefs[0].port",
        ),
        (
            GATEWAY,
            "Gateway",
            json!({"gatewayClassName": "weft",
                "listeners": [{"name": "a", "port": 80, "protocol": "HTTP", "hostname": "a b"}]}),
            "spec.listeners[0].hostname",
        ),
        (
            "networking.k8s.io",
            "Ingress",
            ingress("weft"),
            "spec.rules[0].http.paths[0].path",
        ),
        (
            NETWORKING,
            "DestinationRule",
            json!({"host": "web", "trafficPolicy": {"outlierDetection": {"interval": "-1s"}}}),
            "spec.trafficPolicy.outlierDetection.interval",
        ),
        (
            NETWORKING,
            "DestinationRule",
            json!({"host": "web", "trafficPolicy": {"loadBalancer": {"localityLbSetting": {
                "distribute": [{"from": "a", "to": {"b": 99}}]}}}}),
            "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to",
        ),
    ] {
        let opinion = create(group, kind, spec.clone());
        let refused = opinion.refused.unwrap_or_else(|| panic!("{spec} was taken"));
        assert!(refused.contains(field), "{refused}");
    }
}

#[test]
fn what_depends_on_others_or_is_not_acted_on_only_draws_a_warning() {
    for (group, kind, spec, warning) in [
        (
            GATEWAY,
            "HTTPRoute",
            json!({"parentRefs": [{"kind": "Service", "group": "", "name": "web"}],
                "rules": [{"backendRefs": [{"name": "later", "port": 80}]}]}),
            "Service shop/later doesn't exist yet",
        ),
        (
            NETWORKING,
            "DestinationRule",
            json!({"host": "later.shop"}),
            "Service shop/later doesn't exist yet",
        ),
        (
            SECURITY,
            "PeerAuthentication",
            json!({"selector": {"matchLabels": {"app": "later"}}}),
            "no pod has these labels yet",
        ),
        (
            SECURITY,
            "AuthorizationPolicy",
            json!({"rules": [{"when": [{"key": "request.auth.claims[a]", "values": ["b"]}]}]}),
            "spec.rules[0].when",
        ),
        (
            SECURITY,
            "PeerAuthentication",
            json!({"mtls": {"mode": "STRICT"}, "more": 1}),
            "spec.more",
        ),
    ] {
        let opinion = create(group, kind, spec.clone());
        assert_eq!(opinion.refused, None, "{spec}");
        assert!(
            opinion.warnings.iter().any(|text| text.contains(warning)),
            "{spec}: {:?}",
            opinion.warnings
        );
    }
}

#[test]
fn sound_objects_pass_in_silence() {
    let route = json!({"parentRefs": [{"kind": "Service", "group": "", "name": "web"}],
        "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]});
    assert_eq!(create(GATEWAY, "HTTPRoute", route), Opinion::default());
    let strict = json!({"mtls": {"mode": "STRICT"}});
    assert_eq!(create(SECURITY, "PeerAuthentication", strict), Opinion::default());
    assert_eq!(
        create(SECURITY, "AuthorizationPolicy", json!({})),
        Opinion::default()
    );
}

#[test]
fn what_is_there_already_can_be_released_and_deleted() {
    let wrong = json!({"metadata": {"name": "x"}, "spec": {"mtls": {"mode": "SOMETIMES"}}});
    let (good, nothing) = (json!({"metadata": {"name": "x"}, "spec": {}}), Value::Null);
    let kind = "PeerAuthentication";
    assert!(ask(SECURITY, kind, "UPDATE", &wrong, &good).refused.is_some());
    assert_eq!(ask(SECURITY, kind, "UPDATE", &wrong, &wrong), Opinion::default());
    assert_eq!(
        ask(SECURITY, kind, "DELETE", &nothing, &wrong),
        Opinion::default()
    );
    let mut going = wrong.clone();
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(ask(SECURITY, kind, "UPDATE", &going, &good), Opinion::default());
}

#[test]
fn another_version_is_said_to_have_no_effect() {
    let object = json!({"metadata": {"name": "x"}});
    let body = bytes(GATEWAY, "v9", "HTTPRoute", "CREATE", &object, &Value::Null);
    let opinion = judge(&review::read(&body).unwrap(), &testing::mesh(1));
    assert_eq!(opinion.refused, None);
    assert!(
        opinion.warnings[0].contains("gateway.networking.k8s.io/v9"),
        "{:?}",
        opinion.warnings
    );
}

#[test]
fn malformed_reviews() {
    for body in [
        "",
        "[]",
        "{}",
        r#"{"apiVersion":"v1","kind":"Pod"}"#,
        r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{}}"#,
    ] {
        assert!(review::read(body.as_bytes()).is_err(), "{body}");
    }
    let many = format!("[{}0]", "[],".repeat(200_000));
    let object = bytes(GATEWAY, "v1", "HTTPRoute", "CREATE", &json!("@"), &Value::Null);
    let body = String::from_utf8(object).unwrap().replace("\"@\"", &many);
    assert!(matches!(review::read(body.as_bytes()), Err(Malformed::Values)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
    /// Mutated bytes: an answer or an error, never a panic, and never another uid.
    #[test]
    fn mutated_reviews_do_not_hurt(edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..6)) {
        let spec = json!({"parentRefs": [{"kind": "Service", "group": "", "name": "web"}],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/a"}}], "backendRefs": [{"name": "web", "port": 80}]}]});
        let object = json!({"metadata": {"name": "x"}, "spec": spec});
        let mut body = bytes(GATEWAY, "v1", "HTTPRoute", "CREATE", &object, &Value::Null);
        for (place, byte, kind) in edits {
            let place = place.index(body.len());
            match kind {
                0 => body[place] = byte,
                1 => { body.remove(place); }
                _ => body.insert(place, byte),
            }
        }
        if let Ok(request) = review::read(&body) {
            let opinion = judge(&request, &testing::mesh(1));
            let answer: Value = serde_json::from_slice(&review::reply(&request, &opinion)).unwrap();
            prop_assert_eq!(answer["response"]["uid"].as_str(), Some(request.uid.as_str()));
        }
    }
}

#[test]
fn delegations_that_lead_nowhere_are_told() {
    let opinion = create(
        NETWORKING,
        "VirtualService",
        json!({"hosts": ["web"], "http": [{"delegate": {"name": "x"}}]}),
    );
    let refused = opinion.refused.unwrap_or_default();
    assert!(
        refused.contains("spec.http[0].delegate: is this VirtualService itself"),
        "{refused}"
    );
    let opinion = create(
        NETWORKING,
        "VirtualService",
        json!({"hosts": ["web"], "http": [{"delegate": {"name": "y"}}]}),
    );
    assert_eq!(opinion.refused, None);
    assert!(
        opinion
            .warnings
            .iter()
            .any(|warning| warning.contains("VirtualService shop/y doesn't exist yet")),
        "{opinion:?}"
    );

    // x -> y -> z -> x: whoever closes the circle reads it.
    let (mut store, _) = Store::new((*testing::mesh(1).settings).clone());
    store.apply([("y", "z"), ("z", "x")].map(|(name, to)| {
        let object = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"http": [{"delegate": {"name": to}}]}});
        let metadata = Metadata::from_json(&object["metadata"]).unwrap();
        let known = kind::find("networking.istio.io/v1", "VirtualService").unwrap();
        let origin = Origin::object("VirtualService", "shop", name);
        Change::Put(Box::new(read(known, &metadata, &object, origin)))
    }));
    store.apply([Change::Synced]);
    let object = json!({"metadata": {"name": "x", "namespace": "shop"}, "spec": {"hosts": ["web"], "http": [{"delegate": {"name": "y"}}]}});
    let request = review::read(&bytes(
        NETWORKING,
        "v1",
        "VirtualService",
        "CREATE",
        &object,
        &Value::Null,
    ))
    .unwrap();
    let opinion = judge(&request, store.mesh());
    assert_eq!(opinion.refused, None);
    let warned = |text: &str| opinion.warnings.iter().any(|warning| warning.contains(text));
    assert!(
        warned("spec.http[0].delegate: shop/y leads back to this one"),
        "{opinion:?}"
    );
}

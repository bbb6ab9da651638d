use serde_json::{Value, json};

use super::*;
use crate::admit::{judge_request, read, reply};
use crate::containers::Parts;
use crate::json::Arena;

/// As an API server asks about a ReplicaSet's pod.
fn review(uid: &str, random: &str, time: &str) -> Value {
    let token = format!("kube-api-access-{random}");
    let mount = json!({"name": token, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true});
    let metadata = json!({"generateName": "web-6b7f9d-", "labels": {"app": "web", "pod-template-hash": "6b7f9d"},
        "annotations": {"proxy.weft.dev/logLevel": "debug"},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6b7f9d", "uid": "u", "controller": true}],
        "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "time": time}]});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": uid, "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"}, "namespace": "shop", "operation": "CREATE",
        "userInfo": {"username": uid}, "dryRun": false, "oldObject": null,
        "object": {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {
            "containers": [{"name": "web", "image": "web", "ports": [{"containerPort": 80}], "volumeMounts": [mount],
                "livenessProbe": {"httpGet": {"path": "/\"live", "port": 80}}, "env": [{"name": "A", "value": "b"}]}],
            "volumes": [{"name": token, "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]},
            "status": {}}}})
}

/// What it is known by.
fn key(review: &Value) -> Option<Vec<u8>> {
    Some(Asked::read(review.to_string().as_bytes())?.text)
}

fn asked(number: usize) -> Asked<'static> {
    Asked {
        uid: "1",
        text: number.to_string().into_bytes(),
    }
}

/// Asks, and keeps the answer if it is worth it.
fn ask(cache: &Cache, asked: Asked<'_>, reply: &Reply) -> Found {
    let found = cache.find(&asked);
    if let Found::Again(hash) = found {
        cache.put(asked, hash, reply.clone(), "injected", "Selected");
    }
    found
}

fn judged(review: &Value) -> Reply {
    let (body, arena, parts) = (
        review.to_string(),
        Arena::default(),
        Parts::new(crate::Template::default()),
    );
    let request = read(body.as_bytes(), &arena).unwrap();
    reply(&request, &judge_request(&request, &parts))
}

#[test]
fn pods_of_one_template_get_one_answer() {
    let (one, other) = (
        review("1", "abcde", "2026-01-01"),
        review("2", "x1y2z", "2026-01-02"),
    );
    assert!(key(&one).is_some());
    assert_eq!(key(&one), key(&other));
    assert!(judged(&one).changes());
    assert_eq!(judged(&one), judged(&other));
    let body = other.to_string();
    let asked = Asked::read(body.as_bytes()).unwrap();
    let (cache, reply) = (Cache::default(), judged(&one));
    let first = one.to_string();
    let first = || Asked::read(first.as_bytes()).unwrap();
    assert_eq!(ask(&cache, first(), &reply), Found::New);
    assert!(matches!(ask(&cache, first(), &reply), Found::Again(_)));
    let Found::Known(known) = cache.find(&asked) else {
        panic!("it is known")
    };
    let answer = known.to(asked.uid);
    assert_eq!(answer, judged(&other).to("2"));
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["response"]["uid"], "2");
}

/// Every place within a value, as a JSON pointer.
fn places(value: &Value, here: &str, all: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(name, value)| places(value, &format!("{here}/{}", name.replace('/', "~1")), all)),
        Value::Array(items) => {
            (0..items.len()).for_each(|at| places(&items[at], &format!("{here}/{at}"), all))
        }
        _ => {}
    }
    all.push(here.to_owned());
}

#[test]
fn whatever_else_differs_is_judged_by_itself() {
    let one = review("1", "abcde", "2026-01-01");
    let mut all = Vec::new();
    places(&one["request"]["object"], "/request/object", &mut all);
    all.push("/request/namespace".to_owned());
    let (mut same, mut others) = (0, 0);
    for place in all {
        let mut other = one.clone();
        *other.pointer_mut(&place).unwrap() = json!("another");
        match key(&other) {
            key if key == self::key(&one) => {
                assert!(
                    place.starts_with("/request/object/metadata/managedFields"),
                    "{place}"
                );
                same += 1;
            }
            _ => others += 1,
        }
    }
    assert_eq!(same, 5);
    assert!(others > 30);
}

#[test]
fn what_is_no_usual_creation_is_judged() {
    let one = review("1", "abcde", "2026-01-01");
    for (place, value) in [
        ("/request/operation", json!("UPDATE")),
        ("/request/uid", json!("")),
        ("/request/uid", json!("x".repeat(257))),
        ("/request/uid", json!("a\"b")),
        ("/request/kind/kind", json!("Deployment")),
        ("/request/kind/group", json!("apps")),
        ("/request/object", Value::Null),
        ("/request/object/metadata", json!([])),
        ("/apiVersion", json!("admission.k8s.io/v1beta1")),
        ("/kind", json!("Review")),
        // Another such volume; one that has another name; one within a text.
        (
            "/request/object/spec/volumes/0/name",
            json!("kube-api-access-zzzzz"),
        ),
        (
            "/request/object/spec/volumes/0/name",
            json!("kube-api-access-abcdef"),
        ),
        (
            "/request/object/spec/volumes/0/name",
            json!("kube-api-access-abc"),
        ),
        (
            "/request/object/spec/volumes/0/name",
            json!("kube-api-access-ab.de"),
        ),
        (
            "/request/object/metadata/annotations",
            json!({"a": "{\"name\":\"kube-api-access-abcde\"}"}),
        ),
        ("/request/object/status", json!("x".repeat(LONGEST))),
    ] {
        let mut other = one.clone();
        *other.pointer_mut(place).unwrap() = value;
        assert_eq!(key(&other), None, "{place}");
    }
    let mut part = one.clone();
    part["request"]["subResource"] = json!("status");
    assert_eq!(key(&part), None);
    let text = one.to_string();
    for body in [
        text.replace("\"managedFields\":", "\"managedFields\":[],\"managedFields\":"),
        text.replace("\"uid\":\"1\"", "\"uid\":\"1\",\"uid\":\"1\""),
        text[..text.len() - 1].to_owned(),
        format!("{text}]"),
    ] {
        assert!(Asked::read(body.as_bytes()).is_none(), "{body}");
    }
    assert!(Asked::read(b"\xff").is_none());
}

#[test]
fn an_answer_that_has_the_name_is_not_kept() {
    let mut one = review("1", "abcde", "2026-01-01");
    one["request"]["object"]["metadata"]["labels"]["app"] = json!("kube-api-access-abcde");
    let (cache, reply, body) = (Cache::default(), judged(&one), one.to_string());
    for again in 0..3 {
        let found = ask(&cache, Asked::read(body.as_bytes()).unwrap(), &reply);
        assert_eq!(matches!(found, Found::Again(_)), again > 0);
    }
}

#[test]
fn the_oldest_are_forgotten() {
    let (cache, reply) = (Cache::default(), judged(&review("1", "abcde", "")));
    for number in 0..1_000 {
        for _ in 0..2 {
            ask(&cache, asked(number), &reply);
        }
        let first = matches!(cache.find(&asked(0)), Found::Known(_));
        assert!(first, "what is asked for stays");
        let ages = cache.ages.lock().unwrap();
        let held = ages.young.values().chain(ages.old.values());
        let held: usize = held.map(|(text, known)| text.len() + known.fields.len()).sum();
        assert!(held <= BYTES);
    }
    assert!(!matches!(cache.find(&asked(1)), Found::Known(_)));
    assert!(matches!(cache.find(&asked(999)), Found::Known(_)));
}

//! What people may write about traffic, spoilt at random: reading and translating never panics, and what comes out is always
//! something that a sidecar takes.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use weft_control_plane::ingest::files::{self, Object};
use weft_control_plane::mesh::{Mesh, Settings, Store};
use weft_control_plane::translate::{self, Scope};
use weft_proto::model::{Algorithm, Hash, Preference, RetryBudget, Service, TrustDomain};
use weft_proto::resource::{Kind, Resource};

fn objects() -> Vec<Object> {
    let (objects, findings) = files::load(&[PathBuf::from("tests/golden/traffic/in")]);
    assert_eq!(findings, []);
    objects
}

/// Paths of everything in an object.
fn places(value: &Value, path: String, places: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let name = name.replace('~', "~0").replace('/', "~1");
                self::places(value, format!("{path}/{name}"), places);
            }
        }
        Value::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                self::places(value, format!("{path}/{i}"), places);
            }
        }
        _ => {}
    }
    if !path.is_empty() {
        places.push(path);
    }
}

fn odd() -> impl Strategy<Value = Value> {
    let texts = prop::sample::select(vec![
        "",
        " ",
        "*",
        "a",
        "-1",
        "0s",
        "-1s",
        "1ms",
        "1h",
        "99999h",
        "9223372036854775807ns",
        "1e400s",
        "\u{0}",
        "é",
        "r1/*",
        "r1/r1a/x",
        "*/a",
        "a=b",
        "=",
        "/",
        "cart",
        "cart.shop",
        "*.local",
        ".",
        "~",
        "DISABLE",
        "RANDOM",
        "x-user",
    ]);
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-200_i64..200).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        texts.prop_map(Value::from),
        "\\PC{0,400}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!(["", {}, [], null, 1])),
        Just(json!({"a": 1, "": "", "r1/*": 100, "x": {}})),
        Just(Value::from(vec![
            json!({"name": "v1", "labels": {"a": "b"}, "from": "a", "to": {"b": 100}});
            400
        ])),
    ]
}

fn mesh(objects: &[Object]) -> Arc<Mesh> {
    let (mut store, _) = Store::new(Settings::new(TrustDomain::new("cluster.local").unwrap()));
    store.apply(files::changes(objects));
    Arc::new(store.mesh().clone())
}

/// A Service as pod `cart-1` of its own namespace sees it.
fn cart(objects: &[Object], name: &str) -> Service {
    let scope = Scope {
        namespace: "shop".into(),
        service_account: "shop".into(),
        pod: "cart-1".into(),
        pod_uid: "".into(),
    };
    let resources = translate::kind(&mesh(objects), &scope, Kind::Service);
    let is = |resource: Resource| match resource {
        Resource::Service(service) if *service.name.name == *name => Some(service),
        _ => None,
    };
    resources.into_iter().find_map(is).unwrap()
}

#[test]
fn subsets_inherit_field_by_field_and_ports_nothing() {
    let cart = cart(&objects(), "cart");
    let names: Vec<&str> = cart.subsets.iter().map(|subset| &*subset.name).collect();
    assert_eq!(names, ["v1", "v2", "v3"]);
    let at = |port, subset| {
        let traffic = cart.traffic(port, subset).unwrap();
        (
            traffic.origin.rule.to_string(),
            traffic.balance.algorithm,
            traffic.limits.connections,
            traffic.outliers.consecutive_errors,
            traffic.plain,
            traffic.health_check.is_some(),
        )
    };
    let (none, random) = (Algorithm::PeakEwma, Algorithm::Random);
    let even = Algorithm::RoundRobin;
    for (port, subset, wanted) in [
        (80, None, ("", none, Some(100), Some(7), false, true)),
        (90, None, ("portLevelSettings[90]", none, None, None, true, true)),
        (80, Some("v1"), ("", none, Some(100), Some(7), false, true)),
        (
            90,
            Some("v1"),
            ("portLevelSettings[90]", none, None, None, true, true),
        ),
        (
            80,
            Some("v2"),
            ("subsets[v2]", even, Some(100), Some(7), false, true),
        ),
        (
            90,
            Some("v2"),
            (
                "subsets[v2].portLevelSettings[90]",
                random,
                None,
                None,
                false,
                true,
            ),
        ),
    ] {
        let (rule, rest) = (wanted.0.to_owned(), wanted);
        assert_eq!(
            at(port, subset),
            (rule, rest.1, rest.2, rest.3, rest.4, rest.5),
            "{port} {subset:?}"
        );
    }
    let top = cart.traffic(80, None).unwrap();
    assert_eq!(
        top.retry_budget,
        Some(RetryBudget {
            percent: 25,
            min_per_second: 5
        })
    );
    assert_eq!(top.locality.panic_percent, Some(50));
    assert_eq!(top.locality.preference, Preference::Node);
    assert_eq!(top.outliers.latency_factor, Some(2_500));
    let warm = cart.traffic(80, Some("v2")).unwrap().balance.warmup.unwrap();
    assert_eq!(
        (warm.time.as_secs(), warm.percent, warm.aggression),
        (30, 20, 1_500)
    );
}

#[test]
fn a_rule_for_some_callers_is_not_for_others() {
    let mut objects = objects();
    // Nothing that is wrong in itself, which would be about the same Service.
    objects.retain(|object| *object.metadata.name != *"wrong-balance");
    let sticky = cart(&objects, "sticky");
    let traffic = sticky.traffic(80, None).unwrap();
    // A root rule holds, and the Service's own node and affinity with it.
    assert_eq!(&*traffic.origin.name, "all");
    assert_eq!(traffic.locality.preference, Preference::NodeOnly);
    assert_eq!(traffic.balance.hash, Some(Hash::Source));
    assert_eq!(traffic.limits.connections, None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn spoilt_objects_never_panic_and_sidecars_take_what_comes_out(
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), odd()), 1..8),
    ) {
        let mut objects = objects();
        let kinds = ["DestinationRule", "Service", "XBackendTrafficPolicy", "EndpointSlice", "HTTPRoute"];
        let able: Vec<usize> = (0..objects.len()).filter(|i| kinds.contains(&objects[*i].kind.kind)).collect();
        for (object, place, value) in spoilt {
            let object = &mut objects[*object.get(&able)];
            let mut all = Vec::new();
            places(&object.body, String::new(), &mut all);
            all.retain(|path| !path.starts_with("/metadata") || path.starts_with("/metadata/annotations"));
            if all.is_empty() {
                continue;
            }
            if let Some(found) = object.body.pointer_mut(place.get::<String>(&all)) {
                *found = value;
            }
            if let Ok(metadata) = weft_control_plane::ingest::read::Metadata::from_json(&object.body["metadata"]) {
                object.metadata.annotations = metadata.annotations;
            }
        }
        let mesh = mesh(&objects);
        translate::findings(&mesh);
        for (namespace, pod) in [("web", "web-1"), ("shop", "cart-1")] {
            let scope = Scope {
                namespace: namespace.into(),
                service_account: namespace.into(),
                pod: pod.into(),
                pod_uid: "".into(),
            };
            for resource in translate::resources(&mesh, &scope) {
                let read = Resource::decode(resource.kind(), resource.encode());
                prop_assert_eq!(read.as_ref(), Ok(&resource), "{}", resource.name());
            }
        }
    }
}

//! What people may write about traffic, spoilt at random: reading and translating never panics, and what comes out is always
//! something that a sidecar takes.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use weft_control_plane::ingest::files::{self, Object};
use weft_control_plane::mesh::{Settings, Store};
use weft_control_plane::translate::{self, Scope};
use weft_proto::model::TrustDomain;
use weft_proto::resource::Resource;

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
        let (mut store, _) = Store::new(Settings::new(TrustDomain::new("cluster.local").unwrap()));
        store.apply(files::changes(&objects));
        let mesh = Arc::new(store.mesh().clone());
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

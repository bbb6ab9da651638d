//! Route manifests with something odd in them: they are read and translated without a panic, and what comes of them is what a
//! sidecar takes.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use weft_control_plane::ingest::files;
use weft_control_plane::ingest::read::read;
use weft_control_plane::mesh::{Change, Settings, Store};
use weft_control_plane::translate::{self, Scope, Shared};
use weft_proto::model::TrustDomain;
use weft_proto::resource::{Kind, Resource};

const CASES: [&str; 5] = ["connections", "filters", "gateway", "routes", "virtual-services"];

static OBJECTS: LazyLock<Vec<(files::Object, bool)>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for case in CASES {
        let folder = PathBuf::from("tests/golden").join(case).join("in");
        let (objects, _) = files::load(&[folder]);
        let routes = |object: &files::Object| {
            object.origin.kind.ends_with("Route")
                || matches!(
                    &*object.origin.kind,
                    "VirtualService"
                        | "ReferenceGrant"
                        | "Gateway"
                        | "GatewayClass"
                        | "Ingress"
                        | "IngressClass"
                        | "Secret"
                )
        };
        all.extend(objects.into_iter().map(|object| {
            let changes = routes(&object);
            (object, changes)
        }));
    }
    all
});

/// Values that are wrong almost anywhere, or right where they are not expected.
fn odd(which: usize) -> Value {
    let many = |value: Value, count: usize| Value::Array(vec![value; count]);
    match which {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1),
        3 => json!(i64::MAX),
        4 => json!(1.5),
        5 => json!(""),
        6 => json!("a\nb"),
        7 => json!("é%00*"),
        8 => json!("x".repeat(5_000)),
        9 => json!("((((a{50}){50}){50}){50})"),
        10 => json!("99999h"),
        11 => json!([]),
        12 => json!({}),
        13 => many(json!({}), 300),
        14 => many(json!("a"), 300),
        15 => json!({"exact": "a", "prefix": "b", "regex": "("}),
        16 => json!("*"),
        17 => json!("0s"),
        18 => json!({"name": "cart", "port": 80, "host": "cart", "value": "/"}),
        _ => json!(0),
    }
}
const ODD: usize = 20;

/// The nth value of a tree.
fn at(value: &mut Value, mut n: usize) -> Option<&mut Value> {
    fn walk<'a>(value: &'a mut Value, n: &mut usize) -> Option<&'a mut Value> {
        if *n == 0 {
            return Some(value);
        }
        *n -= 1;
        match value {
            Value::Array(list) => list.iter_mut().find_map(|value| walk(value, n)),
            Value::Object(map) => map.values_mut().find_map(|value| walk(value, n)),
            _ => None,
        }
    }
    walk(value, &mut n)
}

fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(size).sum(),
        Value::Object(map) => map.values().map(size).sum(),
        _ => 0usize,
    }
}

fn mutate(body: &mut Value, place: prop::sample::Index, how: usize) {
    let spec = &mut body["spec"];
    let place = place.index(size(spec));
    let Some(value) = at(spec, place) else { return };
    match (how, value) {
        // Something is there many times.
        (ODD.., Value::Array(list)) if !list.is_empty() => {
            let first = list[0].clone();
            list.resize(list.len() + how, first);
        }
        (ODD.., Value::Object(map)) if !map.is_empty() => {
            let name = map.keys().nth(how % map.len()).cloned().unwrap();
            let value = map.remove(&name).unwrap();
            if how.is_multiple_of(3) {
                map.insert(format!("{name}x"), value);
            }
        }
        (how, value) => *value = odd(how % ODD),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn odd_routes_do_not_hurt(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..ODD + 8), 1..6),
    ) {
        let mut objects: Vec<files::Object> = OBJECTS.iter().map(|(object, _)| object.clone()).collect();
        let routes: Vec<usize> = (0..objects.len()).filter(|i| OBJECTS[*i].1).collect();
        for (object, place, how) in edits {
            let object = &mut objects[*object.get(&routes)];
            mutate(&mut object.body, place, how);
        }
        let (mut store, _) = Store::new(Settings::new(TrustDomain::new("cluster.local").unwrap()));
        store.apply(objects.iter().map(|object| {
            let read = read(object.kind, &object.metadata, &object.body, object.origin.clone());
            Change::Put(Box::new(read))
        }));
        let mesh = Arc::new(store.mesh().clone());
        let scope = Scope {
            namespace: "web".into(),
            service_account: "web".into(),
            pod: "web-0".into(),
            pod_uid: "web-0-uid".into(),
        };
        let shared = Shared::new(mesh.clone());
        let scoped = shared.scoped(&scope).unwrap();
        for item in shared.items(Kind::Routes).values().chain(scoped.routes.values()) {
            let resource = item.resource();
            let taken = Resource::decode(resource.kind(), resource.encode());
            prop_assert_eq!(taken.as_ref(), Ok(resource));
        }
        // What is odd is said.
        prop_assert!(!translate::findings(&mesh).is_empty());
    }
}

//! Any pod: the patch applies, twice is once, nothing of the application is lost, and what another webhook does in between
//! is kept.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test may panic")]

use proptest::prelude::*;
use serde_json::{Value, json};
use weft_injector::Template;
use weft_injector::containers::Parts;
use weft_injector::decide::{Decision, RefusalKind};
use weft_injector::json::Json;
use weft_injector::{diff, verdict};

struct Verdict {
    decision: Decision,
    object: Value,
}

fn ask(pod: &Value) -> Verdict {
    judge(pod, &Template::default())
}

fn judge(pod: &Value, template: &Template) -> Verdict {
    let json = Json::from(pod);
    let parts = Parts::new(template.clone());
    let verdict = verdict::judge(&json, "shop", None, &parts);
    Verdict {
        decision: verdict.decision,
        object: serde_json::to_value(verdict.changed.as_ref().unwrap_or(&json)).unwrap(),
    }
}

fn diff(old: &Value, new: &Value) -> Value {
    let new = Json::from(new);
    json!(diff::diff(&Json::from(old), &new))
}

fn simple() -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "web", "image": "web",
        "livenessProbe": {"httpGet": {"path": "/live", "port": 8080}}}]}})
}

fn by_name<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let init = pod["spec"]["initContainers"].as_array().unwrap();
    init.iter().find(|container| container["name"] == name).unwrap()
}

fn variable<'a>(pod: &'a Value, name: &str) -> &'a str {
    let all = by_name(pod, "weft-proxy")["env"].as_array().unwrap();
    all.iter().find(|variable| variable["name"] == name).unwrap()["value"]
        .as_str()
        .unwrap()
}

#[test]
fn what_others_changed_in_between_is_kept() {
    let mut pod = ask(&simple()).object;
    // A registry mirror, a limit range, defaults of the API server, and another sidecar in front.
    let init = pod["spec"]["initContainers"].as_array_mut().unwrap();
    init[1]["image"] = json!("mirror.example.com/weft:1");
    init[1]["resources"]["limits"] = json!({"cpu": "1"});
    init[1]["terminationMessagePath"] = json!("/dev/termination-log");
    init[1]["volumeMounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "kube-api-access", "mountPath": "/x"}));
    init.insert(
        0,
        json!({"name": "late", "restartPolicy": "Always", "readinessProbe": {"tcpSocket": {"port": 7000}}}),
    );
    pod["spec"]["volumes"][0]["projected"]["defaultMode"] = json!(420);
    let again = ask(&pod);
    let names: Vec<_> = again.object["spec"]["initContainers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["name"])
        .collect();
    assert_eq!(names, ["weft-init", "weft-proxy", "late"]);
    let proxy = by_name(&again.object, "weft-proxy");
    assert_eq!(proxy["image"], "mirror.example.com/weft:1");
    assert_eq!(proxy["resources"]["limits"]["cpu"], "1");
    assert_eq!(proxy["volumeMounts"].as_array().unwrap().len(), 5);
    assert_eq!(again.object["spec"]["volumes"], pod["spec"]["volumes"]);
    // The late sidecar's probe is rewritten, and the application's original is not forgotten.
    assert_eq!(
        by_name(&again.object, "late")["readinessProbe"]["httpGet"]["path"],
        "/app-health/late/readyz"
    );
    let probes = variable(&again.object, "WEFT_APP_PROBES");
    assert!(
        probes.contains("\"path\":\"/live\"") && probes.contains("/app-health/late/readyz"),
        "{probes}"
    );
    assert_eq!(ask(&again.object).object, again.object);
}

#[test]
fn a_forged_status_gets_no_one_past() {
    let real = ask(&simple()).object;
    // The status of a real injection, on a pod without the containers.
    let mut bare = simple();
    bare["metadata"]["annotations"] = real["metadata"]["annotations"].clone();
    assert_eq!(
        ask(&bare).object["spec"]["initContainers"],
        real["spec"]["initContainers"]
    );
    // Or with containers that do something else.
    for (index, change) in [
        (0, json!({"args": ["version"]})),
        (0, json!({"command": ["true"]})),
        (1, json!({"restartPolicy": null})),
        (1, json!({"env": []})),
        (1, json!({"startupProbe": null})),
    ] {
        let mut forged = real.clone();
        for (key, value) in change.as_object().unwrap() {
            forged["spec"]["initContainers"][index][key] = value.clone();
        }
        let verdict = ask(&forged);
        if change["env"].is_array() {
            // The originals of the probes are gone with it: that pod can't be made whole.
            assert!(
                matches!(verdict.decision, Decision::Refuse(refusal) if refusal.kind == RefusalKind::Probe)
            );
        } else {
            assert_eq!(verdict.object, real, "{change}");
        }
    }
}

#[test]
fn another_version_is_replaced() {
    let old = ask(&simple()).object;
    let template = Template {
        image: "weft.dev/weft:next".into(),
        ..Template::default()
    };
    let new = judge(&old, &template).object;
    assert_eq!(by_name(&new, "weft-proxy")["image"], "weft.dev/weft:next");
    assert_eq!(new["spec"]["initContainers"].as_array().unwrap().len(), 2);
    assert_eq!(
        variable(&new, "WEFT_APP_PROBES"),
        variable(&old, "WEFT_APP_PROBES")
    );
    assert_eq!(new["spec"]["containers"], old["spec"]["containers"]);
}

#[test]
fn names_ports_and_users_of_weft_are_refused() {
    for (change, kind, field) in [
        (
            json!({"containers": [{"name": "weft-proxy"}]}),
            RefusalKind::ReservedName,
            "spec.containers[0].name",
        ),
        (
            json!({"initContainers": [{"name": "weft-init"}]}),
            RefusalKind::ReservedName,
            "spec.initContainers[0].name",
        ),
        (
            json!({"volumes": [{"name": "weft-token"}]}),
            RefusalKind::ReservedName,
            "spec.volumes[0].name",
        ),
        (
            json!({"securityContext": {"runAsUser": 1337}}),
            RefusalKind::ReservedUser,
            "spec.securityContext.runAsUser",
        ),
        (
            json!({"containers": [{"name": "a", "securityContext": {"runAsUser": 1337}}]}),
            RefusalKind::ReservedUser,
            "spec.containers[0].securityContext.runAsUser",
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 15021}]}]}),
            RefusalKind::ReservedPort,
            "spec.containers[0].ports[0].containerPort",
        ),
        (
            json!({"containers": [{"name": "a", "livenessProbe": {"grpc": {"port": 9, "service": "x".repeat(130_000)}}}]}),
            RefusalKind::Probe,
            "spec.containers",
        ),
    ] {
        let mut pod = simple();
        for (key, value) in change.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        match ask(&pod).decision {
            Decision::Refuse(refusal) => assert_eq!((refusal.kind, refusal.field.as_str()), (kind, field)),
            other => panic!("{change}: {other:?}"),
        }
    }
}

fn maybe(strategy: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Option<Value>> {
    proptest::option::of(strategy).boxed()
}

fn probe() -> impl Strategy<Value = Value> {
    let port = prop_oneof![
        (1..=9999u16).prop_map(|port| json!(port)),
        Just(json!("http")),
        Just(json!("80"))
    ];
    prop_oneof![
        (port.clone(), "[a-z/$(){}\"]{0,8}")
            .prop_map(|(port, path)| json!({"httpGet": {"port": port, "path": path}})),
        (port.clone()).prop_map(|port| json!({"tcpSocket": {"port": port}, "timeoutSeconds": 3})),
        (1..=9999u16).prop_map(|port| json!({"grpc": {"port": port}})),
        Just(json!({"exec": {"command": ["true"]}})),
        port.prop_map(|port| json!({"httpGet": {"port": port, "host": "example.com"}})),
    ]
}

fn container(prefix: &'static str) -> impl Strategy<Value = Value> {
    let fields = (
        maybe(probe()),
        maybe(probe()),
        maybe(probe()),
        maybe(probe()),
        any::<bool>(),
    );
    fields.prop_map(move |(startup, ready, live, hook, ports)| {
        let mut container =
            json!({"name": prefix, "ports": [{"name": "http", "containerPort": 8080}], "extra": [1, null]});
        if ports {
            container["ports"]
                .as_array_mut()
                .unwrap()
                .push(json!({"containerPort": 53, "protocol": "UDP"}));
        }
        for (key, value) in [
            ("startupProbe", startup),
            ("readinessProbe", ready),
            ("livenessProbe", live),
        ] {
            if let Some(value) = value {
                container[key] = value;
            }
        }
        if let Some(hook) = hook {
            container["lifecycle"] = json!({"preStop": hook});
        }
        container
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let containers = proptest::collection::vec(container("c"), 1..4);
    let init = proptest::option::of(proptest::collection::vec(container("i"), 0..3));
    let labels = proptest::option::of(proptest::collection::btree_map(
        "(app|version|x)",
        "[a-z0-9]{0,5}",
        0..3,
    ));
    (
        containers,
        init,
        labels,
        any::<bool>(),
        proptest::option::of(0..5u64),
    )
        .prop_map(|(mut containers, init, labels, volumes, grace)| {
            for (index, container) in containers.iter_mut().enumerate() {
                container["name"] = json!(format!("c{index}"));
            }
            let mut pod =
                json!({"metadata": {"name": "p", "labels": labels}, "spec": {"containers": containers}});
            if let Some(mut init) = init {
                for (index, container) in init.iter_mut().enumerate() {
                    container["name"] = json!(format!("i{index}"));
                }
                pod["spec"]["initContainers"] = json!(init);
            }
            if volumes {
                pod["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
            }
            if let Some(grace) = grace {
                pod["spec"]["terminationGracePeriodSeconds"] = json!(grace);
            }
            pod
        })
}

proptest! {
    #[test]
    fn twice_is_once_and_nothing_is_lost(pod in pod()) {
        let first = ask(&pod);
        prop_assert!(matches!(first.decision, Decision::Inject(_)), "{:?}", first.decision);
        let mut patched = pod.clone();
        let patch: json_patch::Patch = serde_json::from_value(diff(&pod, &first.object)).unwrap();
        json_patch::patch(&mut patched, &patch).unwrap();
        prop_assert_eq!(&patched, &first.object);
        let second = ask(&patched);
        prop_assert_eq!(diff(&patched, &second.object), json!([]));
        prop_assert_eq!(&second.decision, &first.decision);

        let names = |list: &Value| -> Vec<String> {
            list.as_array().into_iter().flatten().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
        };
        prop_assert_eq!(names(&pod["spec"]["containers"]), names(&patched["spec"]["containers"]));
        let init = names(&patched["spec"]["initContainers"]);
        prop_assert_eq!(&init[..2], ["weft-init", "weft-proxy"]);
        prop_assert_eq!(names(&pod["spec"]["initContainers"]), init[2..].to_vec());
        for container in patched["spec"]["containers"].as_array().unwrap() {
            prop_assert_eq!(&container["extra"], &json!([1, null]));
            for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                let probe = &container[probe];
                let stays = probe.is_null() || probe["exec"].is_object() || probe["httpGet"]["host"].is_string();
                prop_assert!(stays || probe["httpGet"]["port"] == 15021, "{probe}");
            }
        }
        // What the sidecar reads is what was there.
        let originals = weft_proto::model::probes::AppProbe::parse_list(variable(&patched, "WEFT_APP_PROBES")).unwrap();
        let rewritten = patched.to_string().matches("\"port\":15021").count() - 2;
        prop_assert_eq!(originals.len(), rewritten);
        prop_assert!(!variable(&patched, "WEFT_APP_PROBES").contains('$'));
    }

    #[test]
    fn any_json_is_judged(value in any_json()) {
        let verdict = ask(&value);
        prop_assert!(matches!(verdict.decision, Decision::Refuse(_)) || value["spec"]["containers"].is_array());
        let mut pod = simple();
        pod["spec"]["containers"][0]["livenessProbe"] = value.clone();
        ask(&pod);
        pod["metadata"] = value.clone();
        ask(&pod);
        pod = simple();
        pod["spec"] = value;
        ask(&pod);
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let key =
        "(spec|metadata|containers|name|httpGet|port|labels|annotations|ports|env|volumes|lifecycle|preStop)";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i32>().prop_map(Value::from),
        "[a-z]{0,3}".prop_map(Value::from)
    ];
    leaf.prop_recursive(5, 64, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

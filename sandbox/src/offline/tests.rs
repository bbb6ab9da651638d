use super::*;

fn nothing(pod: &Value, _: &str) -> Result<Value, String> {
    let mut pod = pod.clone();
    pod["metadata"]["annotations"]["injected"] = "yes".into();
    Ok(pod)
}

fn node(name: &str, zone: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name,
        "labels": {"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": zone}}})
}

fn workload(kind: &str, version: &str, name: &str, replicas: i64, spec: Value) -> Value {
    let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "shop"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "serviceName": name,
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [
                {"name": name, "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}]}}}});
    if let (Some(into), Some(more)) = (
        object
            .pointer_mut("/spec/template/spec")
            .and_then(Value::as_object_mut),
        spec.as_object(),
    ) {
        into.extend(more.clone());
    }
    object
}

fn service(name: &str, spec: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}});
    if let (Some(into), Some(more)) = (object["spec"].as_object_mut(), spec.as_object()) {
        into.extend(more.clone());
    }
    object
}

fn namespace(meshed: bool) -> Value {
    let labels = if meshed {
        json!({"weft.dev/injection": "enabled"})
    } else {
        json!({})
    };
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}})
}

fn of<'a>(world: &'a World, kind: &str) -> Vec<&'a Value> {
    let objects = world.objects.iter().map(|made| &made.object);
    objects.filter(|object| object["kind"] == kind).collect()
}

#[test]
fn a_deployment_runs_spread_and_is_behind_its_service() {
    let given = [
        namespace(true),
        node("a1", "a"),
        node("b1", "b"),
        workload("Deployment", "apps/v1", "cart", 4, json!({})),
        service("cart", json!({})),
        service("bare", json!({"clusterIP": "None", "selector": {"app": "cart"}})),
    ];
    let world = expand(&given, &nothing);
    assert_eq!(world.problems, []);
    assert_eq!(
        world,
        expand(&given, &nothing),
        "the same manifests, the same world"
    );
    let pods = of(&world, "Pod");
    assert_eq!(pods.len(), 4);
    for zone in ["a", "b"] {
        let here = |pod: &&&Value| object::label(pod, "topology.kubernetes.io/zone") == Some(zone);
        assert_eq!(pods.iter().filter(here).count(), 2);
    }
    assert!(
        pods.iter()
            .all(|pod| pod["metadata"]["annotations"]["injected"] == "yes")
    );
    assert!(pods.iter().all(|pod| object::is_true(pod, "Ready")));
    let mut names: Vec<&str> = pods.iter().map(|pod| object::name(pod)).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 4);
    let slices = of(&world, "EndpointSlice");
    assert_eq!(slices.len(), 4, "two families of two Services");
    assert!(
        slices
            .iter()
            .all(|slice| object::list(slice, "/endpoints").len() == 4)
    );
    assert_eq!(slices[0]["ports"][0]["port"], 8080);
    assert_eq!(of(&world, "Service")[0]["spec"]["clusterIP"], "10.96.1.0");
    let from = |kind: &str| {
        let found = world.objects.iter().find(|made| made.object["kind"] == kind);
        found.and_then(|made| made.from)
    };
    assert_eq!((from("Pod"), from("EndpointSlice")), (Some(3), Some(4)));
}

#[test]
fn every_kind_of_workload() {
    let mut daemon = workload("DaemonSet", "apps/v1", "agent", 1, json!({}));
    let mut job = workload("Job", "batch/v1", "once", 1, json!({"restartPolicy": "Never"}));
    for object in [&mut daemon, &mut job] {
        let spec = object["spec"].as_object_mut().unwrap();
        spec.remove("serviceName");
        spec.remove("replicas");
    }
    job["spec"].as_object_mut().unwrap().remove("selector");
    let given = [
        namespace(false),
        node("a1", "a"),
        node("b1", "b"),
        workload("StatefulSet", "apps/v1", "db", 2, json!({})),
        workload(
            "ReplicaSet",
            "apps/v1",
            "old",
            1,
            json!({"nodeSelector": {"topology.kubernetes.io/zone": "b"}}),
        ),
        workload(
            "Deployment",
            "apps/v1",
            "lost",
            1,
            json!({"nodeSelector": {"topology.kubernetes.io/zone": "c"}}),
        ),
        daemon,
        job,
        service("db", json!({"clusterIP": "None"})),
    ];
    let world = expand(&given, &nothing);
    let pods = of(&world, "Pod");
    let names = |prefix: &str| -> Vec<(&str, &str)> {
        let all = pods.iter().filter(|pod| object::name(pod).starts_with(prefix));
        all.map(|pod| {
            (
                object::name(pod),
                object::string(pod, "/spec/nodeName").unwrap_or(""),
            )
        })
        .collect()
    };
    assert_eq!(
        names("db-").iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        ["db-0", "db-1"]
    );
    assert_eq!(names("old-")[0].1, "b1");
    assert_eq!(
        names("agent-").iter().map(|(_, node)| *node).collect::<Vec<_>>(),
        ["a1", "b1"]
    );
    assert_eq!(names("once-").len(), 1);
    assert_eq!(names("lost-")[0].1, "");
    assert_eq!(world.problems.len(), 1, "{:?}", world.problems);
    assert_eq!(world.problems[0].0, 5);
    assert!(
        pods.iter()
            .all(|pod| pod["metadata"]["annotations"]["injected"].is_null())
    );
    let slices = of(&world, "EndpointSlice");
    assert_eq!(slices[0]["endpoints"][0]["hostname"], "db-0");
}

#[test]
fn a_clusters_listing_stays_as_it_is() {
    let given = [
        namespace(true),
        node("a1", "a"),
        workload("Deployment", "apps/v1", "cart", 4, json!({})),
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "cart-x", "namespace": "shop",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "cart", "uid": "d", "controller": true}]},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "cart"}}, "template": {"metadata": {"labels": {"app": "cart"}},
                "spec": {"containers": [{"name": "cart", "image": "i"}]}}}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "cart-x-1", "namespace": "shop", "labels": {"app": "cart"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "cart-x", "uid": "r", "controller": true}]},
            "spec": {"nodeName": "a1", "containers": [{"name": "cart", "image": "i", "ports": [{"name": "http", "containerPort": 80}]}]},
            "status": {"podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}], "conditions": [{"type": "Ready", "status": "False"}]}}),
        service(
            "cart",
            json!({"clusterIP": "172.20.0.7", "clusterIPs": ["172.20.0.7"], "ipFamilies": ["IPv4"]}),
        ),
    ];
    let world = expand(&given, &nothing);
    assert_eq!(world.problems, []);
    assert_eq!(of(&world, "Pod").len(), 1);
    let slices = of(&world, "EndpointSlice");
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0]["endpoints"][0]["addresses"], json!(["10.1.2.3"]));
    assert_eq!(slices[0]["endpoints"][0]["conditions"]["ready"], false);
    assert_eq!(of(&world, "Service")[0]["spec"]["clusterIP"], "172.20.0.7");
}

#[test]
fn what_the_api_refuses_is_left_out_and_said() {
    let given = [
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": "broken"}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": "broken"}),
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d"}, "spec": {"template": {"spec": {"affinity": 3}}}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": "broken"}),
        service("x", json!({"clusterIP": "10.96.0.1"})),
        workload("Deployment", "apps/v1", "huge", 1_000_000_000, json!({})),
    ];
    let world = expand(&given, &|_, _| Err("no".to_owned()));
    let mut about: Vec<usize> = world.problems.iter().map(|(at, _)| *at).collect();
    about.dedup();
    about.sort_unstable();
    assert_eq!(about, [0, 1, 2, 3, 4, 5], "{:?}", world.problems);
    assert!(of(&world, "Pod").len() <= MOST_PODS);
}

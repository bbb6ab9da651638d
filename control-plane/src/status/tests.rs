//! Conditions by table, then writes to an API server that keeps routes.

use super::*;
use crate::ingest::kind;
use crate::ingest::read::{self, Metadata};
use crate::mesh::{Change, Read, Store};
use crate::testing::{self, Api};
use serde_json::{Value, json};
use weft_proto::model::Origin;

const PATH: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/cart";

fn route(generation: i64, spec: Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"namespace": "shop", "name": "cart", "generation": generation}, "spec": spec})
}

fn parent() -> Value {
    json!({"group": "", "kind": "Service", "name": "web", "port": 80})
}

fn spec(parents: Value, rules: Value) -> Value {
    json!({"parentRefs": parents, "rules": rules})
}

fn to(name: &str) -> Value {
    json!([{"backendRefs": [{"name": name, "port": 80}]}])
}

fn put(object: &Value) -> Change {
    let kind = kind::find("gateway.networking.k8s.io/v1", "HTTPRoute").unwrap();
    let metadata = Metadata::from_json(&object["metadata"]).unwrap();
    let origin = Origin::object("HTTPRoute", "shop", "cart");
    let read: Read = read::read(kind, &metadata, object, origin);
    Change::Put(Box::new(read))
}

fn key() -> Key {
    Key::new("HTTPRoute", "shop", "cart")
}

/// `Accepted=True/Accepted ResolvedRefs=…` of each parent.
fn told(spec: &Value) -> Vec<String> {
    let object = route(1, spec.clone());
    let (mut store, _) = testing::store(1);
    store.apply([put(&object)]);
    let mesh = store.mesh();
    let mut findings = translate::route_findings(mesh);
    findings.extend(
        mesh.findings
            .get(&key())
            .into_iter()
            .flat_map(|list| list.iter().cloned()),
    );
    let refs = spec["parentRefs"].as_array().unwrap();
    conditions(&wanted::parents(mesh, &mesh.routes[&key()], refs, &findings, &[]))
}

/// One line for each parent.
fn conditions(parents: &[ParentStatus]) -> Vec<String> {
    let line = |status: &ParentStatus| {
        let conditions = status.conditions.iter();
        let conditions = conditions.map(|condition| {
            let holds = if condition.holds { "" } else { "!" };
            format!("{holds}{}/{}", condition.kind, condition.reason)
        });
        conditions.collect::<Vec<_>>().join(" ")
    };
    parents.iter().map(line).collect()
}

#[test]
fn conditions_say_what_is_so() {
    let gateway = json!({"name": "edge"});
    let service = |more: Value| {
        let mut parent = parent();
        for (name, value) in more.as_object().unwrap() {
            parent[name] = value.clone();
        }
        parent
    };
    let good = "Accepted/Accepted ResolvedRefs/ResolvedRefs";
    let filter =
        |kind: &str| json!([{"filters": [{"type": kind}], "backendRefs": [{"name": "web", "port": 80}]}]);
    let odd = json!([{"matches": [{"path": {"type": "Nonsense", "value": "/"}}], "backendRefs": [{"name": "web", "port": 80}]}]);
    for (spec, wanted) in [
        (spec(json!([parent()]), to("web")), vec![good]),
        (spec(json!([gateway]), to("web")), vec![]),
        (spec(json!([gateway, parent(), parent()]), to("web")), vec![good]),
        (
            spec(json!([parent(), service(json!({"name": "lost"}))]), to("web")),
            vec![good, "!Accepted/NoMatchingParent ResolvedRefs/ResolvedRefs"],
        ),
        (
            spec(json!([service(json!({"port": 81}))]), to("web")),
            vec!["!Accepted/NoMatchingParent ResolvedRefs/ResolvedRefs"],
        ),
        (
            spec(json!([parent()]), to("lost")),
            vec!["Accepted/Accepted !ResolvedRefs/BackendNotFound"],
        ),
        (
            spec(
                json!([parent()]),
                json!([{"backendRefs": [{"name": "web", "port": 81}]}]),
            ),
            vec!["Accepted/Accepted !ResolvedRefs/BackendNotFound"],
        ),
        (
            spec(
                json!([parent()]),
                json!([{"backendRefs": [{"kind": "Bucket", "group": "x.io", "name": "web"}]}]),
            ),
            vec!["Accepted/Accepted !ResolvedRefs/InvalidKind"],
        ),
        (
            spec(json!([parent()]), filter("RequestMirror")),
            vec!["Accepted/Accepted ResolvedRefs/ResolvedRefs PartiallyInvalid/UnsupportedValue"],
        ),
        // A mirror is a reference too.
        (
            spec(
                json!([parent()]),
                json!([{"filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "lost", "port": 80}}}],
                    "backendRefs": [{"name": "web", "port": 80}]}]),
            ),
            vec!["Accepted/Accepted !ResolvedRefs/BackendNotFound"],
        ),
        (
            spec(
                json!([parent()]),
                json!([{"backendRefs": [{"name": "web", "namespace": "other", "port": 80}]}]),
            ),
            vec!["Accepted/Accepted !ResolvedRefs/RefNotPermitted"],
        ),
        // Accepted, as the API says; the message tells.
        (
            spec(
                json!([parent()]),
                json!([{"backendRefs": [{"name": "web", "port": 80, "weight": 0}]}]),
            ),
            vec![good],
        ),
        (
            spec(json!([parent()]), odd),
            vec!["!Accepted/UnsupportedValue ResolvedRefs/ResolvedRefs"],
        ),
    ] {
        assert_eq!(told(&spec), wanted, "{spec}");
    }
}

struct Bench {
    api: Api,
    store: Store,
    routes: Arc<Routes>,
    lead: watch::Sender<Leadership>,
}

impl Bench {
    fn start(leads: bool) -> Self {
        let api = Api::default();
        let (store, meshes) = testing::store(1);
        let routes = Arc::new(Routes::default());
        let leadership = Leadership {
            leads,
            ..Leadership::default()
        };
        let (lead, leadership) = watch::channel(leadership);
        let writer = StatusWriter::new(api.client());
        tokio::spawn(run(writer, routes.clone(), meshes, leadership));
        Self {
            api,
            store,
            routes,
            lead,
        }
    }

    /// Somebody writes the route, and the watch says so.
    fn apply(&mut self, object: Value) {
        self.api.put(PATH, object);
        self.watched();
    }

    fn watched(&mut self) {
        let object = self.api.get(PATH).unwrap();
        self.routes.observe_json(key(), "httproutes", &object);
        self.store.apply([put(&object)]);
    }

    fn parents(&self) -> Vec<Value> {
        let object = self.api.get(PATH).unwrap_or_default();
        object["status"]["parents"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    }

    async fn until(&self, done: impl Fn(&[Value]) -> bool) {
        let wait = self.api.until(|_| done(&self.parents()));
        let found = tokio::time::timeout(Duration::from_secs(3600), wait).await;
        found.unwrap_or_else(|_| panic!("never so: {:?}", self.parents()));
    }

    fn writes(&self) -> usize {
        let writes = self.api.writes.lock().unwrap();
        writes.iter().filter(|write| write.contains(PATH)).count()
    }
}

fn reason<'a>(parent: &'a Value, kind: &str) -> &'a str {
    let conditions = parent["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found
        .and_then(|condition| condition["reason"].as_str())
        .unwrap_or_default()
}

fn others() -> Value {
    json!({"parentRef": {"name": "edge"}, "controllerName": "example.org/edge",
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_once_beside_those_of_others_and_taken_back() {
    let mut bench = Bench::start(true);
    let mut object = route(1, spec(json!([{"name": "edge"}, parent()]), to("lost")));
    object["status"] = json!({"parents": [others()], "more": 1});
    bench.apply(object.clone());
    bench.until(|parents| parents.len() == 2).await;
    let parents = bench.parents();
    assert_eq!(parents[0], others());
    assert_eq!(parents[1]["controllerName"], "weft.dev/mesh");
    assert_eq!(parents[1]["parentRef"], parent());
    assert_eq!(reason(&parents[1], "ResolvedRefs"), "BackendNotFound");
    assert_eq!(parents[1]["conditions"][0]["observedGeneration"], 1);
    assert_eq!(bench.api.get(PATH).unwrap()["status"]["more"], 1);
    let since = parents[1]["conditions"][0]["lastTransitionTime"].clone();

    // The watch brings the written status: nothing more is written.
    bench.watched();
    bench.store.apply([testing::service("other")]);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(bench.writes(), 1);

    // The backend appears: one condition changes, the other keeps its time.
    bench.store.apply([testing::service("lost")]);
    bench
        .until(|parents| reason(&parents[1], "ResolvedRefs") == "ResolvedRefs")
        .await;
    assert_eq!(bench.parents()[1]["conditions"][0]["lastTransitionTime"], since);
    bench.watched();

    // Another controller writes its part at the same time: both stay.
    let mut changed = bench.api.get(PATH).unwrap();
    changed["status"]["parents"][0]["conditions"][0]["reason"] = json!("Pending");
    changed["metadata"]["generation"] = json!(2);
    bench.apply(changed);
    bench
        .until(|parents| parents[1]["conditions"][0]["observedGeneration"] == 2)
        .await;
    assert_eq!(reason(&bench.parents()[0], "Accepted"), "Pending");
    bench.watched();

    // No parent of Weft's any more: its entry goes, and only that.
    let mut changed = bench.api.get(PATH).unwrap();
    changed["spec"]["parentRefs"] = json!([{"name": "edge"}]);
    changed["metadata"]["generation"] = json!(3);
    bench.apply(changed);
    bench.until(|parents| parents.len() == 1).await;
    assert_eq!(bench.parents()[0]["controllerName"], "example.org/edge");
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_writes_and_a_refusal_is_no_end() {
    let mut bench = Bench::start(false);
    bench.apply(route(1, spec(json!([parent()]), to("web"))));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.writes(), 0);
    // No right at first.
    bench.api.forbidden.lock().unwrap().push("/status");
    bench.lead.send_modify(|now| now.leads = true);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.writes(), 0);
    bench.api.forbidden.lock().unwrap().clear();
    bench.until(|parents| parents.len() == 1).await;
    // An older installation of Weft is there: hands off.
    bench.lead.send_modify(|now| now.elder = Some("mesh".into()));
    let mut changed = bench.api.get(PATH).unwrap();
    changed["metadata"]["generation"] = json!(2);
    bench.apply(changed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn somebody_who_always_undoes_it_makes_no_storm() {
    let mut bench = Bench::start(true);
    let object = route(1, spec(json!([parent()]), to("web")));
    bench.apply(object.clone());
    for _ in 0..3600 {
        if !bench.parents().is_empty() {
            bench.apply(object.clone());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!((5..60).contains(&bench.writes()), "{}", bench.writes());
}

#[tokio::test(start_paused = true)]
async fn the_class_is_made_by_the_leader_where_there_is_none() {
    const CLASS: &str = "/apis/gateway.networking.k8s.io/v1/gatewayclasses/weft";
    let bench = Bench::start(false);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(bench.api.get(CLASS), None);
    bench.lead.send_modify(|now| now.leads = true);
    let wait = bench.api.until(|api| api.get(CLASS).is_some());
    tokio::time::timeout(Duration::from_secs(3600), wait)
        .await
        .unwrap();
    let class = bench.api.get(CLASS).unwrap();
    assert_eq!(class["spec"]["controllerName"], "weft.dev/gateway-controller");
}

/// `type=status/reason` of conditions.
fn shown(conditions: &Value) -> String {
    let all = conditions.as_array().into_iter().flatten();
    let one = |condition: &Value| {
        let text = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
        format!("{}={}/{}", text("type"), text("status"), text("reason"))
    };
    all.map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn gateways_and_ingresses_are_told_how_they_stand() {
    let (objects, _) = crate::ingest::files::load(&["tests/golden/gateway/in".into()]);
    let (mut store, _) = testing::store(0);
    store.apply(crate::ingest::files::changes(&objects));
    let mesh = store.mesh();
    let gateways = Gateways::new(mesh);
    let of = |kind: &str, namespace: &str, name: &str| {
        edge::wanted(mesh, &gateways, &Key::new(kind, namespace, name), 0)
    };
    let now = SystemTime::UNIX_EPOCH;
    // What others wrote stays; the same again is no change.
    let mut object = json!({"status": {"conditions": [{"type": "Theirs", "status": "True"}], "more": 1}});
    let wanted = of("Gateway", "edge", "public").unwrap();
    assert!(merge::apply(&mut object, &wanted, 3, now));
    assert!(!merge::apply(
        &mut object,
        &wanted,
        3,
        now + Duration::from_secs(60)
    ));
    let status = &object["status"];
    assert_eq!(status["more"], 1);
    // Pods of manifests aren't ready.
    assert_eq!(
        shown(&status["conditions"]),
        "Theirs=True/ Accepted=True/ListenersNotValid Programmed=False/AddressNotAssigned"
    );
    assert_eq!(status["conditions"][1]["observedGeneration"], 3);
    let good = "Accepted=True/Accepted Conflicted=False/NoConflicts ResolvedRefs=True/ResolvedRefs Programmed=False/Pending";
    let listeners: BTreeMap<&str, &Value> = status["listeners"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one))
        .collect();
    for (name, attached, conditions) in [
        ("http", 4, good),
        ("https", 1, good),
        ("calls", 2, good),
        ("passthrough", 1, good),
        ("sql", 1, good),
        (
            "https-other",
            0,
            "Accepted=True/Accepted Conflicted=False/NoConflicts ResolvedRefs=False/InvalidCertificateRef Programmed=False/Pending",
        ),
        (
            "https-foreign",
            0,
            "Accepted=True/Accepted Conflicted=False/NoConflicts ResolvedRefs=False/RefNotPermitted Programmed=False/Invalid",
        ),
        (
            "https-checked",
            0,
            "Accepted=False/UnsupportedValue Conflicted=False/NoConflicts ResolvedRefs=True/ResolvedRefs Programmed=False/Invalid",
        ),
        (
            "own",
            0,
            "Accepted=False/PortUnavailable Conflicted=False/NoConflicts ResolvedRefs=True/ResolvedRefs Programmed=False/Invalid",
        ),
        (
            "one",
            0,
            "Accepted=False/HostnameConflict Conflicted=True/HostnameConflict ResolvedRefs=True/ResolvedRefs Programmed=False/Invalid",
        ),
        (
            "plain",
            0,
            "Accepted=False/ProtocolConflict Conflicted=True/ProtocolConflict ResolvedRefs=True/ResolvedRefs Programmed=False/Invalid",
        ),
        (
            "datagrams",
            0,
            "Accepted=False/UnsupportedProtocol Conflicted=False/NoConflicts ResolvedRefs=True/ResolvedRefs Programmed=False/Invalid",
        ),
        (
            "wrong-kinds",
            0,
            "Accepted=True/Accepted Conflicted=False/NoConflicts ResolvedRefs=False/InvalidRouteKinds Programmed=False/Pending",
        ),
    ] {
        let listener = listeners[name];
        assert_eq!(shown(&listener["conditions"]), conditions, "{name}");
        assert_eq!(listener["attachedRoutes"], attached, "{name}");
    }
    assert_eq!(
        listeners["wrong-kinds"]["supportedKinds"],
        json!([{"group": "gateway.networking.k8s.io", "kind": "GRPCRoute"}])
    );
    // An HTTPRoute has the host already: at one reference's only listener, at some of those that another one stands for.
    let route = mesh
        .routes
        .get(&Key::new("GRPCRoute", "shop", "shop-calls"))
        .unwrap();
    let mut found = Vec::new();
    gateways.findings(mesh, &mut found);
    found.retain(|finding| finding.object.name == route.origin.name);
    let refs = [
        json!({"name": "public", "sectionName": "https"}),
        json!({"name": "public"}),
    ];
    let parents = wanted::parents(mesh, route, &refs, &found, gateways.attachments(&route.origin));
    assert_eq!(
        conditions(&parents),
        [
            "!Accepted/HostnameConflict ResolvedRefs/ResolvedRefs",
            "Accepted/Accepted ResolvedRefs/ResolvedRefs PartiallyInvalid/UnsupportedValue"
        ]
    );
    // Others' are left alone.
    assert_eq!(of("Gateway", "edge", "foreign"), None);
    assert_eq!(of("GatewayClass", "", "other"), None);
    assert_eq!(of("Ingress", "shop", "foreign"), None);
    let ingress = of("Ingress", "shop", "shop").unwrap();
    assert_eq!(ingress, Wanted::Ingress(vec![]));
    assert!(!merge::apply(&mut json!({}), &ingress, 1, now), "nothing to say");
}

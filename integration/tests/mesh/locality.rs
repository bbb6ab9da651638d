//! Which place a request goes to: what spills over, and where a rule says that it should go. In the town of [`crate::traffic`]; besides, pods
//! `south` and `west` are in two other regions.

use crate::behaviour::{Behaviour, Got, ask};
use crate::mesh::{Mesh, Temporary, until};
use crate::suite::Test;
use crate::town::echo;
use std::collections::BTreeSet;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("locality::spills_over_in_proportion", spills_over_in_proportion),
    ("locality::retries_leave_the_zone", retries_leave_the_zone),
    ("locality::regions_to_fail_over_to", regions_to_fail_over_to),
    (
        "locality::labels_come_before_distance",
        labels_come_before_distance,
    ),
    ("locality::pods_that_are_not_ready", pods_that_are_not_ready),
];

const CLIENT: &str = "traffic/deployment/client";
const POST: &str = "POST /";

/// A Service of pods with a label, with the `trafficPolicy` of its callers; once every sidecar obeys.
fn service<'a>(mesh: &'a Mesh, name: &str, part: &str, policy: &str) -> Temporary<'a> {
    obeyed(mesh, &[plain(name, part), rule(name, policy)].concat())
}

fn plain(name: &str, part: &str) -> String {
    format!(
        "\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: traffic}}\nspec:\n  \
         selector: {{part: {part}}}\n  ports: [{{name: http, port: 80, targetPort: http}}]\n"
    )
}

fn rule(name: &str, policy: &str) -> String {
    format!(
        "\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: traffic}}\nspec:\n  \
         host: {name}\n  trafficPolicy: {{{policy}}}\n"
    )
}

fn obeyed<'a>(mesh: &'a Mesh, yaml: &str) -> Temporary<'a> {
    let objects = mesh.with(yaml);
    all_obey(mesh);
    objects
}

fn all_obey(mesh: &Mesh) {
    let output = mesh.weft(&["status", "--wait", "--timeout", "60s"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
}

fn deployments(got: &[Got]) -> BTreeSet<&str> {
    got.iter().filter_map(|got| got.pod.split('-').next()).collect()
}

/// Waits until requests reach exactly the pods of these Deployments.
fn reaches(mesh: &Mesh, host: &str, wanted: &[&str]) {
    until(&format!("{host} is {wanted:?}"), || {
        let got = ask(mesh, CLIENT, host, "GET /", 40);
        let found = deployments(&got);
        if found.iter().eq(wanted) {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
}

/// Two of three in the zone are sick: it keeps 1.4 times a third of the traffic, and the next zone gets the rest.
fn spills_over_in_proportion(mesh: &Mesh) {
    let near = [mesh.ready("traffic", "one", 2), mesh.ready("traffic", "two", 1)].concat();
    let _objects = service(
        mesh,
        "spill",
        "shop",
        "loadBalancer: {simple: ROUND_ROBIN}, \
         outlierDetection: {consecutiveGatewayErrors: 2, maxEjectionPercent: 100}",
    );
    reaches(mesh, "spill", &["one", "two"]);
    let sick: Vec<_> = near[..2]
        .iter()
        .map(|pod| Behaviour::of(mesh, "traffic", &pod.name, "status=503"))
        .collect();
    until("each zone gets its share", || {
        let got = ask(mesh, CLIENT, "spill", POST, 300);
        let of = |name: &str| got.iter().filter(|got| got.pod.starts_with(name)).count();
        let (sick, near, far) = (of("one-"), of("two-"), of("three-"));
        // 160, and six standard deviations; now and then somebody finds out whether the sick are back.
        if sick <= 10 && (108..=212).contains(&far) {
            Ok(())
        } else {
            Err(format!("{sick}, {near}, {far}"))
        }
    });
    drop(sick);
}

/// Nothing is put aside, and all of the zone is sick: each try is another pod's, and the last one another zone's.
fn retries_leave_the_zone(mesh: &Mesh) {
    let near = [mesh.ready("traffic", "one", 2), mesh.ready("traffic", "two", 1)].concat();
    let _objects = service(
        mesh,
        "leaves",
        "shop",
        "loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 0}",
    );
    let _rule = obeyed(
        mesh,
        r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: leaves, namespace: traffic}
spec:
  hosts: [leaves]
  http: [{retries: {attempts: 3, retryOn: 5xx}, route: [{destination: {host: leaves}}]}]
",
    );
    reaches(mesh, "leaves", &["one", "two"]);
    let _sick: Vec<_> = near
        .iter()
        .map(|pod| Behaviour::of(mesh, "traffic", &pod.name, "status=503"))
        .collect();
    let got = ask(mesh, CLIENT, "leaves", POST, 2);
    assert!(
        got.iter()
            .all(|got| got.status == 200 && got.pod.starts_with("three-")),
        "{got:?}"
    );
}

fn regions_to_fail_over_to(mesh: &Mesh) {
    let setting = |to: &str| {
        format!("loadBalancer: {{localityLbSetting: {{enabled: true, failover: [{{from: r, to: {to}}}]}}}}")
    };
    let _service = obeyed(mesh, &plain("abroad", "abroad"));
    reaches(mesh, "abroad", &["south", "west"]);
    for (region, wanted) in [("s", "south"), ("w", "west")] {
        let _rule = obeyed(mesh, &rule("abroad", &setting(region)));
        reaches(mesh, "abroad", &[wanted]);
    }
}

fn labels_come_before_distance(mesh: &Mesh) {
    let priority = "loadBalancer: {localityLbSetting: {enabled: true, failoverPriority: ['version=v3', topology.kubernetes.io/zone]}}";
    let _objects = service(mesh, "labels", "shop", priority);
    reaches(mesh, "labels", &["three"]);
    // Where no pod has the label, the next one counts.
    let other = priority.replace("v3", "v9");
    mesh.apply(&rule("labels", &other));
    all_obey(mesh);
    reaches(mesh, "labels", &["one", "three", "two"]);
}

fn pods_that_are_not_ready(mesh: &Mesh) {
    let never = echo("traffic", "never", 1, "").replace("{path: /,", "{path: '/?status=500',");
    let _pods = mesh.with(&never);
    let service = |name: &str, more: &str| {
        format!(
            "\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: traffic}}\nspec:\n  \
             selector: {{app: never}}\n  ports: [{{name: http, port: 80, targetPort: http}}]\n{more}"
        )
    };
    let _services = obeyed(
        mesh,
        &[
            service("published", "  publishNotReadyAddresses: true\n"),
            service("unpublished", ""),
        ]
        .concat(),
    );
    until("a pod that isn't ready answers", || {
        let answer = mesh.curl(CLIENT, &["http://published/"]);
        (answer.status == 200).then_some(()).ok_or(format!("{answer:?}"))
    });
    let answer = mesh.curl(CLIENT, &["http://unpublished/"]);
    assert_eq!(answer.status, 503, "{answer:?}");
}

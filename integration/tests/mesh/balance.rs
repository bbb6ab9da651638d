//! Which pod of many: what each algorithm does to requests that really went out. In the town of [`crate::traffic`]: `one` (two pods) on the
//! client's node, `two` on another one of its zone, `three` in another zone.

use crate::mesh::{Mesh, Temporary, until};
use crate::suite::Test;
use crate::town::echo;
use std::collections::BTreeMap;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("balance::round_robin_is_exact", round_robin_is_exact),
    ("balance::every_algorithm_serves", every_algorithm_serves),
    ("balance::shares_of_localities", shares_of_localities),
    ("balance::hashes_stay_when_pods_go", hashes_stay_when_pods_go),
    ("balance::what_is_hashed", what_is_hashed),
];

const CLIENT: &str = "traffic/deployment/client";

/// A Service over all pods of the shop, and how its callers choose; once every sidecar obeys.
fn service<'a>(mesh: &'a Mesh, name: &str, balancer: &str) -> Temporary<'a> {
    obeyed(
        mesh,
        &format!(
            r"
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: traffic}}
spec:
  selector: {{part: shop}}
  ports: [{{name: http, port: 80, targetPort: http}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: traffic}}
spec:
  host: {name}
  trafficPolicy: {{loadBalancer: {balancer}}}
"
        ),
    )
}

fn obeyed<'a>(mesh: &'a Mesh, yaml: &str) -> Temporary<'a> {
    let objects = mesh.with(yaml);
    let output = mesh.weft(&["status", "--wait", "--timeout", "60s"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    objects
}

/// How many of so many requests each pod answers.
fn counts(mesh: &Mesh, requests: usize, arguments: &[&str]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        *counts.entry(pod(mesh, arguments)).or_default() += 1;
    }
    counts
}

fn pod(mesh: &Mesh, arguments: &[&str]) -> String {
    let echo = mesh.curl(CLIENT, arguments).ok().echo();
    echo["pod"].as_str().unwrap().to_owned()
}

/// Waits until all four pods answer.
fn all_answer(mesh: &Mesh, url: &str) {
    until("all four pods answer", || {
        let found = counts(mesh, 24, &[url]);
        if found.len() == 4 {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
}

fn round_robin_is_exact(mesh: &Mesh) {
    let url = "http://turns/";
    let _objects = service(
        mesh,
        "turns",
        "{simple: ROUND_ROBIN, localityLbSetting: {enabled: false}}",
    );
    all_answer(mesh, url);
    let found = counts(mesh, 40, &[url]);
    assert!(found.values().all(|count| *count == 10), "{found:?}");
}

fn every_algorithm_serves(mesh: &Mesh) {
    for (name, balancer) in [
        (
            "least",
            "{simple: LEAST_REQUEST, localityLbSetting: {enabled: false}}",
        ),
        ("random", "{simple: RANDOM, localityLbSetting: {enabled: false}}"),
        (
            // Without the header that would be hashed, it is chance.
            "ring",
            "{consistentHash: {httpHeaderName: x-user, ringHash: {minimumRingSize: 4096}}, localityLbSetting: {enabled: false}}",
        ),
    ] {
        let _objects = service(mesh, name, balancer);
        all_answer(mesh, &format!("http://{name}/"));
    }
}

fn shares_of_localities(mesh: &Mesh) {
    let url = "http://parts/";
    let _objects = service(
        mesh,
        "parts",
        "{localityLbSetting: {enabled: true, distribute: [{from: r/a/*, to: {r/a/*: 30, r/b/*: 70}}]}}",
    );
    all_answer(mesh, url);
    let found = counts(mesh, 120, &[url]);
    let far: usize = found
        .iter()
        .filter(|(pod, _)| pod.starts_with("three-"))
        .map(|(_, count)| count)
        .sum();
    // 84, and five standard deviations.
    assert!((59..=109).contains(&far), "{found:?}");
}

fn hashes_stay_when_pods_go(mesh: &Mesh) {
    let labels = |yaml: &str| {
        yaml.replace(
            "metadata: {labels: {app: five}}",
            "metadata: {labels: {app: five, kind: five}}",
        )
    };
    let pods = |replicas| labels(&echo("traffic", "five", replicas, ""));
    let _pods = mesh.with(&pods(5));
    mesh.ready("traffic", "five", 5);
    let _objects = obeyed(
        mesh,
        r"
apiVersion: v1
kind: Service
metadata: {name: five, namespace: traffic}
spec:
  selector: {kind: five}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: five, namespace: traffic}
spec:
  host: five
  trafficPolicy:
    loadBalancer: {consistentHash: {httpHeaderName: x-user, maglev: {}}, localityLbSetting: {enabled: false}}
",
    );
    let users: Vec<String> = (0..40).map(|n| format!("x-user: {n}")).collect();
    let ask = || -> Vec<String> {
        users
            .iter()
            .map(|user| pod(mesh, &["-H", user, "http://five/"]))
            .collect()
    };
    until("every user has a pod, and there are five", || {
        let found = ask();
        let different: std::collections::BTreeSet<_> = found.iter().collect();
        if different.len() == 5 {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
    let before = ask();
    assert_eq!(before, ask(), "everybody stays");
    mesh.apply(&pods(4));
    let left: Vec<String> = mesh
        .ready("traffic", "five", 4)
        .into_iter()
        .map(|pod| pod.name)
        .collect();
    until("nobody goes to the pod that left", || {
        let found = ask();
        if found.iter().all(|pod| left.contains(pod)) {
            Ok(())
        } else {
            Err(format!("{found:?}, left are {left:?}"))
        }
    });
    let after = ask();
    let stayed = |(before, _): &(&String, &String)| left.contains(*before);
    let moved = std::iter::zip(&before, &after)
        .filter(stayed)
        .filter(|(before, after)| before != after)
        .count();
    assert!(
        moved <= 4,
        "{moved} users moved whose pod is still there: {before:?} {after:?}"
    );
}

/// A cookie, which is set if it is missing; a parameter; the caller's address.
fn what_is_hashed(mesh: &Mesh) {
    let service = |name: &str, hash: &str| {
        let hash = format!("{{consistentHash: {{{hash}}}, localityLbSetting: {{enabled: false}}}}");
        service(mesh, name, &hash)
    };
    let _cookie = service("by-cookie", "httpCookie: {name: place, path: /, ttl: 1h}");
    let mut places = BTreeMap::new();
    for _ in 0..12 {
        let answer = mesh.curl(CLIENT, &["-i", "http://by-cookie/"]).ok();
        let cookie = crate::routing::field(&answer, "set-cookie").unwrap_or_else(|| panic!("{answer:?}"));
        assert!(
            cookie.contains("Path=/") && cookie.contains("Max-Age=3600"),
            "{cookie}"
        );
        let header = format!("cookie: {}", cookie.split(';').next().unwrap());
        let first = pod(mesh, &["-H", &header, "http://by-cookie/"]);
        let again = mesh
            .curl(CLIENT, &["-i", "-H", &header, "http://by-cookie/"])
            .ok();
        assert!(
            again.body.contains(&format!("\"pod\":\"{first}\"")),
            "{first}: {again:?}"
        );
        assert_eq!(crate::routing::field(&again, "set-cookie"), None, "{again:?}");
        *places.entry(first).or_insert(0) += 1;
    }
    assert!(places.len() > 1, "new callers go everywhere: {places:?}");
    let _parameter = service("by-parameter", "httpQueryParameterName: user");
    let places = |user: usize| counts(mesh, 2, &[&format!("http://by-parameter/?x=1&user={user}")]);
    let all: Vec<_> = (0..12).map(places).collect();
    assert!(all.iter().all(|one| one.len() == 1), "{all:?}");
    assert!(all.iter().any(|one| *one != all[0]), "{all:?}");
    let _address = service("by-address", "useSourceIp: true");
    let found = counts(mesh, 6, &["http://by-address/"]);
    assert_eq!(found.len(), 1, "{found:?}");
}

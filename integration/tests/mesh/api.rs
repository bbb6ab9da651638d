//! The sandbox's API as clients of a cluster meet it, over HTTPS from the host.
//!
//! Enters: the kubeconfig that `weft up` writes. Leaves: answers of the API to `curl`. Never: anything that only the sandbox's
//! own verbs can do.

use crate::mesh::{Mesh, until};
use crate::suite::Test;
use base64::Engine as _;
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("api::discovery_and_tables", discovery_and_tables),
    ("api::pages_and_watches", pages_and_watches),
    ("api::writes", writes),
    ("api::applied_fields_have_owners", applied_fields_have_owners),
    ("api::rights", rights),
    ("api::definitions", definitions),
    ("api::jobs_end_and_names_stay", jobs_end_and_names_stay),
];

/// The way of the host's clients.
struct Api {
    server: String,
    token: String,
    ca: tempfile::NamedTempFile,
}

/// What the API answered.
struct Said {
    status: u16,
    head: String,
    body: Value,
}

impl Said {
    fn ok(self, what: &str) -> Value {
        assert!(
            (200..300).contains(&self.status),
            "{what}: {} {}",
            self.status,
            self.body
        );
        self.body
    }

    fn refused(self, status: u16, word: &str) {
        assert_eq!(self.status, status, "{}", self.body);
        let message = self.body["message"].as_str().unwrap_or_default();
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

impl Api {
    fn of(mesh: &Mesh) -> Self {
        let output = mesh.weft(&["kubeconfig"]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        let word = |key: &str| {
            let found = text.lines().find_map(|line| line.trim().strip_prefix(key));
            found
                .unwrap_or_else(|| panic!("{key} is not in the kubeconfig"))
                .trim()
                .to_owned()
        };
        let mut ca = tempfile::NamedTempFile::new().unwrap();
        let pem = base64::engine::general_purpose::STANDARD.decode(word("certificate-authority-data:"));
        ca.write_all(&pem.unwrap()).unwrap();
        Self {
            server: word("server:"),
            token: word("token:"),
            ca,
        }
    }

    /// `content` is the body's type; `headers` are added.
    fn send(&self, method: &str, path: &str, content: &str, body: &Value, headers: &[&str]) -> Said {
        let mut command = Command::new("curl");
        command
            .args([
                "-sS",
                "--max-time",
                "20",
                "-i",
                "--http1.1",
                "-X",
                method,
                "--cacert",
            ])
            .arg(self.ca.path())
            .args(["-H", &format!("authorization: Bearer {}", self.token)])
            .args(["-H", &format!("content-type: {content}")])
            .args(headers.iter().flat_map(|header| ["-H", header]))
            .arg(format!("{}{path}", self.server))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if !body.is_null() {
            command.args(["--data-binary", "@-"]);
        }
        let mut child = command.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(body.to_string().as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| {
            panic!(
                "{method} {path}: no answer: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        });
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap();
        // A watch is a line for every change.
        let body = serde_json::from_str(body).unwrap_or_else(|_| {
            let lines = body.lines().filter_map(|line| serde_json::from_str(line).ok());
            Value::Array(lines.collect())
        });
        Said {
            status,
            head: head.to_lowercase(),
            body,
        }
    }

    fn get(&self, path: &str) -> Said {
        self.send("GET", path, "application/json", &Value::Null, &[])
    }

    fn post(&self, path: &str, body: &Value) -> Said {
        self.send("POST", path, "application/json", body, &[])
    }

    fn delete(&self, path: &str) -> Said {
        self.send("DELETE", path, "application/json", &Value::Null, &[])
    }

    fn merge(&self, path: &str, body: &Value) -> Said {
        self.send("PATCH", path, "application/merge-patch+json", body, &[])
    }

    fn apply(&self, path: &str, manager: &str, body: &Value) -> Said {
        let path = format!("{path}?fieldManager={manager}");
        self.send("PATCH", &path, "application/apply-patch+yaml", body, &[])
    }
}

const MAPS: &str = "/api/v1/namespaces/land/configmaps";

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"of": "api-test"}}, "data": data})
}

fn discovery_and_tables(mesh: &Mesh) {
    let api = Api::of(mesh);
    let accept =
        "accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let all = api.send("GET", "/apis", "application/json", &Value::Null, &[accept]);
    assert!(all.head.contains("as=apigroupdiscoverylist"), "{}", all.head);
    let groups = all.ok("discovery");
    // What discovery lists is served: every kind of every group answers a list.
    for group in groups["items"].as_array().unwrap() {
        let name = group["metadata"]["name"].as_str().unwrap();
        for version in group["versions"].as_array().unwrap() {
            for resource in version["resources"].as_array().unwrap() {
                if resource["verbs"].as_array().unwrap().contains(&json!("list")) {
                    let (version, plural) = (
                        version["version"].as_str().unwrap(),
                        resource["resource"].as_str().unwrap(),
                    );
                    api.get(&format!("/apis/{name}/{version}/{plural}?limit=1"))
                        .ok(plural);
                }
            }
        }
    }
    api.get("/apis/batch/v1/cronjobs").refused(404, "serves nothing");
    api.get("/api/v1/namespaces/land/pods/full/exec")
        .refused(404, "weft exec");
    let accept = "accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = api.send(
        "GET",
        "/api/v1/namespaces/land/pods",
        "application/json",
        &Value::Null,
        &[accept],
    );
    let table = table.ok("table");
    assert_eq!(table["kind"], "Table");
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert_eq!(names[..5], ["Name", "Ready", "Status", "Restarts", "Age"]);
    let full = table["rows"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["cells"][0] == "full")
        .unwrap();
    assert_eq!(
        (&full["cells"][1], &full["cells"][2]),
        (&json!("2/2"), &json!("Running"))
    );
    let proto = ["accept: application/vnd.kubernetes.protobuf"];
    api.send("GET", MAPS, "application/json", &Value::Null, &proto)
        .refused(406, "application/json");
}

fn pages_and_watches(mesh: &Mesh) {
    let api = Api::of(mesh);
    for number in 0..3 {
        api.post(MAPS, &map(&format!("page-{number}"), json!({})))
            .ok("create");
    }
    let some = "labelSelector=of%3Dapi-test";
    let first = api.get(&format!("{MAPS}?{some}&limit=2")).ok("first page");
    let token = first["metadata"]["continue"].as_str().unwrap();
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    // What comes meanwhile is not in the list that was begun, but in the watch from its version.
    api.post(MAPS, &map("page-x", json!({}))).ok("create");
    let rest = api
        .get(&format!("{MAPS}?{some}&limit=2&continue={token}"))
        .ok("second page");
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap();
        items
            .iter()
            .map(|o| o["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        [names(&first), names(&rest)].concat(),
        ["page-0", "page-1", "page-2"]
    );
    let seen = api
        .get(&format!(
            "{MAPS}?watch=1&{some}&timeoutSeconds=1&resourceVersion={version}"
        ))
        .ok("watch");
    let seen = match seen {
        Value::Array(lines) => lines,
        one => vec![one],
    };
    assert_eq!(
        (&seen[0]["type"], &seen[0]["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("page-x"))
    );
    let all = format!(
        "{MAPS}?watch=1&{some}&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let all = api.get(&all).ok("streaming list");
    let ended = all.as_array().unwrap().last().unwrap();
    assert_eq!(ended["type"], "BOOKMARK");
    api.get(&format!("{MAPS}?continue=0.1")).refused(410, "too old");
    api.delete(&format!("{MAPS}?{some}")).ok("deletecollection");
    assert_eq!(
        names(&api.get(&format!("{MAPS}?{some}")).ok("list")),
        Vec::<String>::new()
    );
}

fn writes(mesh: &Mesh) {
    let api = Api::of(mesh);
    let at = format!("{MAPS}/w");
    // For show, nothing is stored.
    api.post(&format!("{MAPS}?dryRun=All"), &map("w", json!({})))
        .ok("dry run");
    api.get(&at).refused(404, "configmaps \"w\" not found");
    let made = api.post(MAPS, &map("w", json!({"a": "1"}))).ok("create");
    api.post(MAPS, &map("w", json!({})))
        .refused(409, "already exists");
    api.merge(&at, &json!({"data": {"a": "2"}})).ok("patch");
    // A writer that has not seen the change is told.
    api.send("PUT", &at, "application/json", &made, &[])
        .refused(409, "has been modified");
    let stale = json!({"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}});
    api.send("DELETE", &at, "application/json", &stale, &[])
        .refused(409, "Precondition failed");
    // Finalizers hold an object until they are gone.
    api.merge(&at, &json!({"metadata": {"finalizers": ["test.dev/held"]}}))
        .ok("hold");
    assert!(api.delete(&at).ok("delete")["metadata"]["deletionTimestamp"].is_string());
    api.get(&at).ok("still there");
    api.merge(&at, &json!({"metadata": {"finalizers": null}}))
        .ok("let go");
    api.get(&at).refused(404, "not found");
    let web = "/apis/apps/v1/namespaces/land/deployments/web";
    let odd = json!({"spec": {"replicsa": 3}});
    api.merge(&format!("{web}?fieldValidation=Strict"), &odd)
        .refused(400, "unknown field \"spec.replicsa\"");
    let warned = api.merge(&format!("{web}?dryRun=All"), &odd);
    assert!(
        warned.head.contains("warning: 299 - \"unknown field"),
        "{}",
        warned.head
    );
    api.merge(
        web,
        &json!({"spec": {"selector": {"matchLabels": {"app": "other"}}}}),
    )
    .refused(422, "spec.selector");
    let scale = api.get(&format!("{web}/scale")).ok("scale");
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"]),
        (&json!("Scale"), &json!(2))
    );
}

fn applied_fields_have_owners(mesh: &Mesh) {
    let api = Api::of(mesh);
    let at = format!("{MAPS}/owned");
    api.apply(&at, "one", &map("owned", json!({"a": "1", "b": "1"})))
        .ok("apply");
    api.apply(&at, "two", &map("owned", json!({"c": "1"})))
        .ok("apply");
    api.apply(&at, "two", &map("owned", json!({"a": "2"})))
        .refused(409, "conflict with \"one\" using v1: .data.a");
    // What the first does not apply any more goes; the other's stays.
    let left = api
        .apply(&at, "one", &map("owned", json!({"a": "1"})))
        .ok("apply");
    assert_eq!(left["data"], json!({"a": "1", "c": "1"}));
    let managers = left["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(managers.len(), 2, "{managers:?}");
    api.delete(&at).ok("delete");
}

fn rights(mesh: &Mesh) {
    let api = Api::of(mesh);
    let user = "impersonate-user: system:serviceaccount:land:default";
    let asked = |path: &str| api.send("GET", path, "application/json", &Value::Null, &[user]);
    asked(MAPS).refused(
        403,
        "cannot list resource \"configmaps\" in API group \"\" in the namespace \"land\"",
    );
    let may = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "configmaps", "namespace": "land"}}});
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = |allowed: bool| {
        let said = api
            .send("POST", reviews, "application/json", &may, &[user])
            .ok("review");
        assert_eq!(said["status"]["allowed"], allowed, "{said}");
    };
    answer(false);
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/land";
    let role = json!({"metadata": {"name": "maps"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]});
    api.post(&format!("{rbac}/roles"), &role).ok("role");
    let binding = json!({"metadata": {"name": "maps"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "maps"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "land", "name": "default"}]});
    api.post(&format!("{rbac}/rolebindings"), &binding).ok("binding");
    asked(MAPS).ok("list");
    answer(true);
    asked("/api/v1/configmaps").refused(403, "at the cluster scope");
    api.delete(&format!("{rbac}/rolebindings/maps")).ok("delete");
    asked(MAPS).refused(403, "forbidden");
    api.delete(&format!("{rbac}/roles/maps")).ok("delete");
}

fn definitions(mesh: &Mesh) {
    let api = Api::of(mesh);
    let all = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let there = api
        .get(&format!("{all}/httproutes.gateway.networking.k8s.io"))
        .ok("definition");
    assert!(there["status"]["conditions"].to_string().contains("Established"));
    let things = json!({"metadata": {"name": "things.test.dev"}, "spec": {"group": "test.dev", "scope": "Namespaced",
        "names": {"kind": "Thing", "plural": "things", "shortNames": ["th"]},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}},
            "additionalPrinterColumns": [{"name": "Size", "type": "string", "jsonPath": ".spec.size"}]}]}});
    api.get("/apis/test.dev/v1").refused(404, "serves nothing");
    api.post(all, &things).ok("definition");
    let at = "/apis/test.dev/v1/namespaces/land/things";
    api.post(at, &json!({"metadata": {"name": "t"}, "spec": {"size": "large"}}))
        .ok("thing");
    let accept = ["accept: application/json;as=Table;v=v1;g=meta.k8s.io"];
    let table = api
        .send("GET", at, "application/json", &Value::Null, &accept)
        .ok("table");
    assert_eq!(table["rows"][0]["cells"], json!(["t", "large"]));
    // The kind goes with its definition, and its objects with the kind.
    api.delete(&format!("{all}/things.test.dev")).ok("delete");
    api.get(at).refused(404, "serves nothing");
    api.post(all, &things).ok("definition");
    let again = api.get(at).ok("list");
    assert_eq!(again["items"], json!([]));
    api.delete(&format!("{all}/things.test.dev")).ok("delete");
}

fn jobs_end_and_names_stay(mesh: &Mesh) {
    let api = Api::of(mesh);
    let yaml = "---\napiVersion: batch/v1\nkind: Job\nmetadata: {name: sums, namespace: land}\nspec:\n  completions: 2\n  parallelism: 2\n  \
                completionMode: Indexed\n  template:\n    spec:\n      restartPolicy: Never\n      initContainers:\n        - {name: side, image: none, \
                restartPolicy: Always, command: [sleep, '100000']}\n      containers:\n        - {name: main, image: none, command: [sh, -c, \
                'echo part $JOB_COMPLETION_INDEX']}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: rows, namespace: land}\nspec: \
                {clusterIP: None, selector: {app: rows}, ports: [{name: http, port: 8080}]}\n---\napiVersion: apps/v1\nkind: StatefulSet\n\
                metadata: {name: rows, namespace: land}\nspec:\n  serviceName: rows\n  replicas: 2\n  selector: {matchLabels: {app: rows}}\n  template:\n    \
                metadata: {labels: {app: rows}}\n    spec:\n      containers:\n        - name: main\n          image: weft.dev/echo\n          \
                readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}\n";
    let _objects = mesh.with(yaml);
    until("the Job is complete", || {
        let job = api.get("/apis/batch/v1/namespaces/land/jobs/sums").ok("job");
        let conditions = job["status"]["conditions"].to_string();
        if conditions.contains("\"Complete\"") {
            Ok(())
        } else {
            Err(job["status"].to_string())
        }
    });
    let job = api.get("/apis/batch/v1/namespaces/land/jobs/sums").ok("job");
    assert_eq!(
        (&job["status"]["succeeded"], &job["status"]["completedIndexes"]),
        (&json!(2), &json!("0-1"))
    );
    let ready = || {
        let set = api
            .get("/apis/apps/v1/namespaces/land/statefulsets/rows")
            .ok("set");
        if set["status"]["readyReplicas"] == 2 {
            Ok(set)
        } else {
            Err(set["status"].to_string())
        }
    };
    until("both rows are ready", ready);
    let found = mesh
        .tool(
            "land/deployment/web",
            &["resolve", "rows-1.rows.land.svc.cluster.local"],
        )
        .output()
        .unwrap();
    let pod = api.get("/api/v1/namespaces/land/pods/rows-1").ok("pod");
    let address = pod["status"]["podIP"].as_str().unwrap();
    assert!(
        String::from_utf8_lossy(&found.stdout)
            .lines()
            .any(|line| line == address)
    );
    // One that goes comes back under its name.
    let uid = pod["metadata"]["uid"].clone();
    api.delete("/api/v1/namespaces/land/pods/rows-1?gracePeriodSeconds=0")
        .ok("delete");
    until("rows-1 is back", || {
        let said = api.get("/api/v1/namespaces/land/pods/rows-1");
        let new = said.status == 200 && said.body["metadata"]["uid"] != uid;
        if new { Ok(()) } else { Err(said.body.to_string()) }
    });
    until("both rows are ready again", ready);
}

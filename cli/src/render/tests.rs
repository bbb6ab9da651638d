#![allow(clippy::unwrap_used)]
use super::*;
use std::collections::BTreeSet;
use std::path::Path;
use weft_proto::model::annotations::{
    APP_KUBERNETES_COMPONENT, APP_KUBERNETES_INSTANCE, CA_CONFIG_MAP, CA_DIR, CANONICAL_NAME, CONTROL_PLANE,
    CONTROL_PLANE_ADDRESS, GATEWAY_CLASS, GATEWAY_COMPONENT, GATEWAY_NAME, GATEWAY_NAMESPACE, INGRESS_CLASS,
    INGRESS_CONTROLLER, INJECTION_ENABLED, INJECTOR, KUBERNETES_NAMESPACES, NAMESPACE_INJECTION, POD_INJECT,
    PORT_CONTROL_PLANE, PORT_CONTROL_PLANE_METRICS, PORT_HEALTH, PORT_INJECTOR, PORT_METRICS,
    PORT_NAME_METRICS, PROXY_UID, READY_PATH, STATE_DIR, SYSTEM_NAMESPACE, TOKEN_AUDIENCE, TOKEN_DIR,
    TOKEN_NAME, TOKEN_SECONDS, TRUST_DOMAIN, VOLUME_CA, VOLUME_STATE, VOLUME_TOKEN, env,
};

fn template(text: &str, context: &Value) -> Result<String, TemplateError> {
    let nodes = syntax::parse("t", text)?;
    let mut named = evaluate::Named::default();
    named.collect("t", &nodes);
    evaluate::evaluate("t", &nodes, context, &named)
}

fn every_chart() -> impl Iterator<Item = &'static Chart> {
    charts::MESH.iter().chain(&charts::GATEWAY)
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .unwrap()
}

#[test]
fn templates_say_what_go_says() {
    let context = json!({"a": {"b": "x"}, "list": ["p", "q"], "map": {"z": 1, "k": 2}, "no": false, "n": 3});
    for (text, expected) in [
        ("a {{ .a.b }} c", "a x c"),
        ("a  {{- .a.b -}}  c", "axc"),
        ("{{/* }} */}}x{{- /* y */ -}} z", "xz"),
        ("{{ if .no }}1{{ else if .a }}2{{ else }}3{{ end }}", "2"),
        ("{{ if not .a.c }}1{{ end }}", "1"),
        ("{{ range .list }}{{ . }},{{ end }}", "p,q,"),
        (
            "{{ range $k, $v := .map }}{{ $k }}={{ $v }};{{ end }}",
            "k=2;z=1;",
        ),
        (
            "{{ range $i, $v := .list }}{{ $i }}{{ $v }}{{ $.n }}{{ end }}",
            "0p31q3",
        ),
        ("{{ range .nothing }}1{{ else }}2{{ end }}", "2"),
        ("{{ with .a }}{{ .b }}{{ $.n }}{{ end }}", "x3"),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}", "2"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ end }}{{ $x }}", "1"),
        (
            "{{ define \"t\" }}<{{ .b }}>{{ end }}{{ include \"t\" .a | quote }}",
            "\"<x>\"",
        ),
        ("{{ (dict \"k\" \"v\").k }}", "v"),
        ("{{ default \"d\" .a.c }}{{ .a.b | default \"d\" }}", "dx"),
        ("{{ printf \"%s-%d\" .a.b 4 }}", "x-4"),
        ("{{ list 1 2 | toYaml | nindent 2 }}", "\n  - 1\n  - 2"),
        (
            "{{ and .a .no }}{{ or .no .n }}{{ eq .n 3 }}{{ ne .n 3 }}",
            "false3truefalse",
        ),
        ("{{ .missing }}", ""),
    ] {
        assert_eq!(template(text, &context).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_not_understood_is_an_error_with_a_line() {
    for (text, expected) in [
        ("\n{{ if .a }}", "t:2: an `if` without its `end`"),
        ("{{ end }}", "t:1: an `end` or `else` without a beginning"),
        ("x\n\n{{ .a", "t:3: an action without its end"),
        (
            "{{ template \"x\" . }}",
            "t:1: `template` isn't used in Weft's charts",
        ),
        (
            "{{ lookup 1 }}",
            "t: the function lookup can't be called with [1]",
        ),
        ("{{ $x }}", "t: $x isn't declared"),
        ("{{ fail \"no\" }}", "t: no"),
        ("{{ .a.b.c }}", "t: .b is asked of 1"),
        (
            "{{ define \"t\" }}{{ include \"t\" . }}{{ end }}{{ include \"t\" . }}",
            "t: template \"t\" includes itself",
        ),
    ] {
        let error = template(text, &json!({"a": 1})).unwrap_err();
        assert_eq!(error.to_string(), expected, "{text}");
    }
}

#[test]
fn every_file_of_the_charts_is_built_in() {
    fn files(folder: &Path, below: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder.join(below)).unwrap() {
            let entry = entry.unwrap();
            let path = below.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                files(folder, &path, found);
            } else {
                found.insert(path.to_string_lossy().into_owned());
            }
        }
    }
    let helm = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm");
    let mut there = BTreeSet::new();
    files(&helm, Path::new(""), &mut there);
    let built_in = every_chart().flat_map(|chart| {
        chart
            .files
            .iter()
            .map(|(path, _)| format!("{}/{path}", chart.name))
    });
    assert_eq!(there, built_in.collect());
}

#[test]
fn the_schemas_use_only_what_is_checked() {
    fn walk(schema: &Value) {
        for (keyword, value) in schema.as_object().into_iter().flatten() {
            assert!(schema::KEYWORDS.contains(&keyword.as_str()), "{keyword}");
            match keyword.as_str() {
                "properties" => value.as_object().unwrap().values().for_each(walk),
                "items" | "additionalProperties" => walk(value),
                _ => {}
            }
        }
    }
    for chart in every_chart() {
        walk(&chart.schema());
        schema::check("", &chart.schema(), &chart.defaults()).unwrap();
    }
}

#[test]
fn the_charts_use_the_names_of_the_contract() {
    let objects = manifests(&Release::Mesh, &json!({})).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    for (name, verb, port) in [
        (CONTROL_PLANE, "control-plane", PORT_CONTROL_PLANE),
        (INJECTOR, "injector", PORT_INJECTOR),
    ] {
        let deployment = find(&objects, "Deployment", name);
        assert_eq!(deployment["metadata"]["namespace"], SYSTEM_NAMESPACE);
        assert_eq!(
            deployment["spec"]["template"]["metadata"]["labels"][POD_INJECT],
            "false"
        );
        let spec = &deployment["spec"]["template"]["spec"];
        assert_eq!(spec["serviceAccountName"], name);
        assert_eq!(spec["securityContext"]["runAsUser"], PROXY_UID);
        let container = &spec["containers"][0];
        assert_eq!(container["args"], json!([verb]));
        assert_eq!(container["image"], format!("weft.dev/weft:{version}"));
        let ports: Vec<&Value> = container["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| &p["containerPort"])
            .collect();
        assert_eq!(ports, [&json!(port), &json!(PORT_CONTROL_PLANE_METRICS)]);
        let service = find(&objects, "Service", name);
        assert_eq!(
            service["spec"]["selector"],
            deployment["spec"]["selector"]["matchLabels"]
        );
        find(&objects, "ServiceAccount", name);
    }
    let control_plane = find(&objects, "Service", CONTROL_PLANE);
    assert_eq!(control_plane["spec"]["ports"][0]["port"], PORT_CONTROL_PLANE);
    let webhook = &find(&objects, "MutatingWebhookConfiguration", INJECTOR)["webhooks"][0];
    assert_eq!(webhook["clientConfig"]["service"]["name"], INJECTOR);
    let expressions = webhook["namespaceSelector"]["matchExpressions"]
        .as_array()
        .unwrap();
    assert_eq!(expressions[0]["key"], NAMESPACE_INJECTION);
    assert_eq!(expressions[0]["values"], json!([INJECTION_ENABLED]));
    let left_alone: Vec<&str> = KUBERNETES_NAMESPACES
        .into_iter()
        .chain([SYSTEM_NAMESPACE])
        .collect();
    assert_eq!(expressions[1]["values"], json!(left_alone));
    assert_eq!(
        webhook["objectSelector"]["matchExpressions"][0]["key"],
        POD_INJECT
    );
    assert_eq!(
        values::of_each(&charts::MESH, &json!({})).unwrap()[1]["trustDomain"],
        TRUST_DOMAIN
    );
}

#[test]
fn every_object_says_what_it_belongs_to() {
    for object in manifests(&Release::Mesh, &json!({"commonLabels": {"team": "mesh"}})).unwrap() {
        let labels = &object["metadata"]["labels"];
        assert_eq!(labels["app.kubernetes.io/part-of"], "weft", "{object}");
        assert_eq!(labels["app.kubernetes.io/managed-by"], MANAGED_BY, "{object}");
        assert_eq!(labels["team"], "mesh", "{object}");
    }
}

#[test]
fn values_are_set_by_type() {
    let mut user = json!({});
    for assignment in [
        "controlPlane.replicas=3",
        "image.tag=1.2",
        "podMonitor.enabled=true",
        "injector.nodeSelector.kubernetes\\.io/arch=arm64",
        "injector.tolerations=[{\"operator\": \"Exists\"}]",
        "commonLabels.team=a=b",
    ] {
        set(&charts::MESH, &mut user, assignment).unwrap();
    }
    assert_eq!(
        user,
        json!({
            "controlPlane": {"replicas": 3},
            "image": {"tag": "1.2"},
            "podMonitor": {"enabled": true},
            "injector": {"nodeSelector": {"kubernetes.io/arch": "arm64"}, "tolerations": [{"operator": "Exists"}]},
            "commonLabels": {"team": "a=b"},
        })
    );
    let objects = manifests(&Release::Mesh, &user).unwrap();
    assert_eq!(find(&objects, "Deployment", CONTROL_PLANE)["spec"]["replicas"], 3);
    let spec = &find(&objects, "Deployment", INJECTOR)["spec"]["template"]["spec"];
    assert_eq!(
        spec["nodeSelector"],
        json!({"kubernetes.io/arch": "arm64", "kubernetes.io/os": "linux"})
    );
}

#[test]
fn wrong_values_are_refused_by_key_and_reason() {
    for (assignment, key, reason) in [
        ("replicas=3", "replicas", "there is no such value; there are"),
        (
            "controlPlane.replicas=many",
            "controlPlane.replicas",
            "not of the type integer",
        ),
        (
            "controlPlane.replicas=0",
            "controlPlane.replicas",
            "0 is not between 1 and 100",
        ),
        (
            "injector.webhook.failurePolicy=Maybe",
            "injector.webhook.failurePolicy",
            "is none of \"Fail\", \"Ignore\"",
        ),
        (
            "controlPlane.certificateTtl=1w",
            "controlPlane.certificateTtl",
            "is not like",
        ),
        ("image.repository=", "image.repository", "it is empty"),
        ("image", "image", "write --set key=value"),
        (
            "injector.tolerations=x",
            "injector.tolerations",
            "written as JSON",
        ),
    ] {
        let error = set(&charts::MESH, &mut json!({}), assignment).unwrap_err();
        assert_eq!(error.key, key);
        assert!(error.reason.contains(reason), "{error}");
    }
    let error = manifests(
        &Release::Mesh,
        &json!({"injector": {"webhook": {"failurepolicy": "Fail"}}}),
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("injector.webhook.failurepolicy: there is no such value"),
        "{error}"
    );
    assert!(manifests(&Release::Mesh, &json!({"nothing": 1})).is_err());
}

#[test]
fn yaml_reads_back() {
    for object in manifests(&Release::Mesh, &json!({})).unwrap() {
        let text = yaml(&object);
        assert!(text.starts_with("apiVersion: "), "{text}");
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), object);
    }
}

#[test]
fn the_gateway_uses_the_names_of_the_contract() {
    let release = Release::Gateway("edge/public".parse().unwrap());
    let objects = manifests(&release, &json!({"ingressClass": GATEWAY_CLASS})).unwrap();
    let deployment = find(&objects, "Deployment", "public");
    let template = &deployment["spec"]["template"];
    let labels = &template["metadata"]["labels"];
    for (label, value) in [
        (GATEWAY_NAME, "public"),
        (INGRESS_CLASS, GATEWAY_CLASS),
        (POD_INJECT, "false"),
        (GATEWAY_NAMESPACE, "edge"),
        (CANONICAL_NAME, "public"),
        (APP_KUBERNETES_INSTANCE, "public"),
        (APP_KUBERNETES_COMPONENT, GATEWAY_COMPONENT),
    ] {
        assert_eq!(labels[label], value, "{label}");
    }
    let spec = &template["spec"];
    assert_eq!(spec["securityContext"]["runAsUser"], PROXY_UID);
    let container = &spec["containers"][0];
    assert_eq!(container["args"], json!(["gateway"]));
    let ports = container["ports"].as_array().unwrap();
    assert!(
        ports.contains(&json!({"name": PORT_NAME_METRICS, "containerPort": PORT_METRICS, "protocol": "TCP"}))
    );
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], PORT_HEALTH, "{probe}");
    }
    assert_eq!(container["readinessProbe"]["httpGet"]["path"], READY_PATH);
    // What the program reads, by the names by which it reads it.
    let variable = |name: &str| {
        let list = container["env"].as_array().unwrap();
        list.iter()
            .find(|variable| variable["name"] == name)
            .unwrap()
            .clone()
    };
    for (name, path) in [
        (env::POD_NAME, "metadata.name"),
        (env::POD_NAMESPACE, "metadata.namespace"),
        (env::POD_UID, "metadata.uid"),
        (env::INSTANCE_IPS, "status.podIPs"),
        (env::HOST_IP, "status.hostIP"),
        (env::NODE_NAME, "spec.nodeName"),
        (env::SERVICE_ACCOUNT, "spec.serviceAccountName"),
    ] {
        assert_eq!(variable(name)["valueFrom"]["fieldRef"]["fieldPath"], path);
    }
    for (name, value) in [
        (env::CONTROL_PLANE, CONTROL_PLANE_ADDRESS),
        (env::TRUST_DOMAIN, TRUST_DOMAIN),
        (env::WORKLOAD, "public"),
    ] {
        assert_eq!(variable(name)["value"], value);
    }
    let mounts: Vec<(&str, &str)> = container["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| {
            (
                mount["name"].as_str().unwrap(),
                mount["mountPath"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        mounts,
        [
            (VOLUME_TOKEN, TOKEN_DIR),
            (VOLUME_CA, CA_DIR),
            (VOLUME_STATE, STATE_DIR)
        ]
    );
    let volumes = spec["volumes"].as_array().unwrap();
    let token = &volumes[0]["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(
        token,
        &json!({"audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": TOKEN_NAME})
    );
    assert_eq!(volumes[1]["configMap"]["name"], CA_CONFIG_MAP);
    // Private keys are in it.
    assert_eq!(volumes[2]["emptyDir"]["medium"], "Memory");
    let service = find(&objects, "Service", "public");
    assert_eq!(
        service["spec"]["selector"],
        deployment["spec"]["selector"]["matchLabels"]
    );
    let binding = find(&objects, "RoleBinding", "weft-gateway:edge:public");
    assert_eq!(
        binding["subjects"][0],
        json!({"kind": "ServiceAccount", "name": CONTROL_PLANE, "namespace": SYSTEM_NAMESPACE})
    );
    let class = manifests(&Release::Mesh, &json!({})).unwrap();
    let class = find(&class, "IngressClass", GATEWAY_CLASS);
    assert_eq!(class["spec"]["controller"], INGRESS_CONTROLLER);
}

#[test]
fn a_gateway_reads_no_secret_that_nobody_gave_it() {
    let release = Release::Gateway("edge/public".parse().unwrap());
    let rights = |values: Value| -> Vec<(String, Value)> {
        let objects = manifests(&release, &values).unwrap();
        let roles = objects.iter().filter(|object| object.get("rules").is_some());
        roles
            .map(|role| {
                let place = role["metadata"]["namespace"].as_str().unwrap_or("everywhere");
                (place.to_owned(), role["rules"][0]["resourceNames"].clone())
            })
            .collect()
    };
    let place = |name: &str, secrets: Value| (name.to_owned(), secrets);
    assert_eq!(rights(json!({})), [place("edge", Value::Null)]);
    assert_eq!(
        rights(json!({"tls": {"secrets": ["a"], "namespaces": ["shop", "edge"]}})),
        [place("edge", json!(["a"])), place("shop", json!(["a"]))]
    );
    assert_eq!(
        rights(json!({"tls": {"allNamespaces": true}})),
        [place("everywhere", Value::Null)]
    );
}

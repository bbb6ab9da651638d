//! The containers and volumes that are put into a pod.
//!
//! In: the template, what the pod's annotations ask for, and what the pod is called. Out: JSON of two init containers
//! and four volumes. Never: more privilege than each needs; only `weft-init`, which ends before anything of the
//! application starts, may change the pod's network.

use serde_json::{Value, json};
use weft_proto::model::annotations::{self as names, env};

use crate::called::Called;
use crate::overrides::{Overrides, Resource};
use crate::quantity;
use crate::settings::Template;

/// `weft-init`: writes the interception rules and ends.
#[must_use]
pub fn init(template: &Template, asked: &Overrides) -> Value {
    let mut variables = vec![plain(env::PROXY_UID, names::PROXY_UID.to_string())];
    variables.extend(socket_mark(template));
    let mut list = |name, value: Option<String>| variables.extend(value.map(|value| plain(name, value)));
    list(
        env::INCLUDE_INBOUND_PORTS,
        asked.include_inbound_ports.as_ref().map(ToString::to_string),
    );
    list(
        env::EXCLUDE_INBOUND_PORTS,
        asked.exclude_inbound_ports.as_ref().map(ToString::to_string),
    );
    list(
        env::INCLUDE_OUTBOUND_PORTS,
        asked.include_outbound_ports.as_ref().map(ToString::to_string),
    );
    list(
        env::EXCLUDE_OUTBOUND_PORTS,
        asked.exclude_outbound_ports.as_ref().map(ToString::to_string),
    );
    list(
        env::INCLUDE_OUTBOUND_RANGES,
        asked.include_outbound_ranges.as_ref().map(ToString::to_string),
    );
    list(
        env::EXCLUDE_OUTBOUND_RANGES,
        asked.exclude_outbound_ranges.as_ref().map(ToString::to_string),
    );
    let mut container = json!({
        "name": names::INIT_CONTAINER,
        "image": template.image,
        "args": ["init"],
        "env": variables,
        "resources": resources(template, asked),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    });
    pull_policy(&mut container, template);
    container
}

/// `weft-proxy`: the native sidecar. The application's probes and ports are added by [`crate::patch`].
#[must_use]
pub fn proxy(template: &Template, asked: &Overrides, called: &Called) -> Value {
    let mut variables = vec![
        field(env::POD_NAME, "metadata.name"),
        field(env::POD_NAMESPACE, "metadata.namespace"),
        field(env::POD_UID, "metadata.uid"),
        field(env::INSTANCE_IPS, "status.podIPs"),
        field(env::HOST_IP, "status.hostIP"),
        field(env::NODE_NAME, "spec.nodeName"),
        field(env::SERVICE_ACCOUNT, "spec.serviceAccountName"),
        plain(env::WORKLOAD, &called.workload),
        plain(env::APP, &called.app),
        plain(env::VERSION, &called.version),
        plain(env::CONTROL_PLANE, &template.control_plane),
        plain(env::TRUST_DOMAIN, &template.trust_domain),
        plain(env::LOG, asked.log_level.unwrap_or(&template.proxy_log)),
    ];
    variables.extend(asked.workers.map(|count| plain(env::WORKERS, count.to_string())));
    variables.extend(socket_mark(template));
    let security = match template.socket_mark {
        None => json!({
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": names::PROXY_UID,
            "runAsNonRoot": true,
            "runAsUser": names::PROXY_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        }),
        // Marking a socket takes NET_ADMIN, and there is no second uid to run as.
        Some(_) => json!({
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        }),
    };
    let ready = json!({"path": names::READY_PATH, "port": names::PORT_HEALTH, "scheme": "HTTP"});
    let mut container = json!({
        "name": names::PROXY_CONTAINER,
        "image": template.image,
        "args": ["proxy"],
        "restartPolicy": "Always",
        "env": variables,
        "ports": [{"name": names::PORT_NAME_METRICS, "containerPort": names::PORT_METRICS, "protocol": "TCP"}],
        "startupProbe": {"httpGet": ready, "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 600},
        "readinessProbe": {"httpGet": ready, "periodSeconds": 2, "timeoutSeconds": 3, "failureThreshold": 4},
        "resources": resources(template, asked),
        "securityContext": security,
        "volumeMounts": [
            {"name": names::VOLUME_TOKEN, "mountPath": names::TOKEN_DIR, "readOnly": true},
            {"name": names::VOLUME_CA, "mountPath": names::CA_DIR, "readOnly": true},
            {"name": names::VOLUME_STATE, "mountPath": names::STATE_DIR},
            {"name": names::VOLUME_PODINFO, "mountPath": names::PODINFO_DIR, "readOnly": true},
        ],
    });
    pull_policy(&mut container, template);
    container
}

/// Names of [`volumes`].
pub const VOLUMES: [&str; 4] = [
    names::VOLUME_TOKEN,
    names::VOLUME_CA,
    names::VOLUME_STATE,
    names::VOLUME_PODINFO,
];

/// The volumes that `weft-proxy` mounts.
#[must_use]
pub fn volumes() -> Vec<Value> {
    vec![
        json!({"name": names::VOLUME_TOKEN, "projected": {"sources": [{"serviceAccountToken": {
            "audience": names::TOKEN_AUDIENCE,
            "expirationSeconds": names::TOKEN_SECONDS,
            "path": names::TOKEN_NAME,
        }}]}}),
        json!({"name": names::VOLUME_CA, "configMap": {"name": names::CA_CONFIG_MAP}}),
        json!({"name": names::VOLUME_STATE, "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}),
        json!({"name": names::VOLUME_PODINFO, "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}},
        ]}}),
    ]
}

/// A variable with a fixed value. Kubernetes expands `$(NAME)` in it: values with a `$` double it.
#[must_use]
pub fn plain(name: &str, value: impl AsRef<str>) -> Value {
    json!({"name": name, "value": value.as_ref().replace('$', "$$")})
}

fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

fn socket_mark(template: &Template) -> Option<Value> {
    template
        .socket_mark
        .map(|mark| plain(env::SOCKET_MARK, mark.to_string()))
}

fn pull_policy(container: &mut Value, template: &Template) {
    if let Some(policy) = &template.image_pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
}

fn resources(template: &Template, asked: &Overrides) -> Value {
    let (cpu, memory) = (&asked.cpu, &asked.memory);
    let mut resources = json!({"requests": {
        "cpu": request(cpu, &template.proxy_cpu),
        "memory": request(memory, &template.proxy_memory),
    }});
    if let Some(limit) = &cpu.limit {
        resources["limits"]["cpu"] = json!(limit);
    }
    if let Some(limit) = &memory.limit {
        resources["limits"]["memory"] = json!(limit);
    }
    resources
}

/// The request: what was asked for, or the default, lowered to a limit that was asked for.
fn request<'a>(asked: &'a Resource, default: &'a str) -> &'a str {
    match (&asked.request, &asked.limit) {
        (Some(request), _) => request,
        (None, Some(limit)) if quantity::parse(limit) < quantity::parse(default) => limit,
        (None, _) => default,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called() -> Called {
        Called {
            workload: "web".into(),
            app: "web".into(),
            version: "v1".into(),
        }
    }

    #[test]
    fn the_sidecar_has_no_privilege() {
        let proxy = proxy(&Template::default(), &Overrides::default(), &called());
        let security = &proxy["securityContext"];
        assert_eq!(security["runAsUser"], 1337);
        assert_eq!(security["runAsNonRoot"], true);
        assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!(proxy["restartPolicy"], "Always");
        assert!(!proxy["env"].to_string().contains("WEFT_SOCKET_MARK"));
    }

    #[test]
    fn with_a_socket_mark_it_may_set_marks() {
        let template = Template {
            socket_mark: Some(1337),
            ..Template::default()
        };
        let proxy = proxy(&template, &Overrides::default(), &called());
        assert_eq!(proxy["securityContext"]["runAsUser"], 0);
        assert_eq!(
            proxy["securityContext"]["capabilities"]["add"],
            json!(["NET_ADMIN"])
        );
        for container in [proxy, init(&template, &Overrides::default())] {
            let variables = container["env"].as_array().unwrap();
            assert!(variables.contains(&json!({"name": "WEFT_SOCKET_MARK", "value": "1337"})));
        }
    }

    #[test]
    fn volumes_have_their_names() {
        let made: Vec<_> = volumes().iter().map(|volume| volume["name"].clone()).collect();
        assert_eq!(made, VOLUMES);
    }

    #[test]
    fn a_low_limit_lowers_the_default_request() {
        let asked = |request: Option<&str>, limit: Option<&str>| Overrides {
            cpu: Resource {
                request: request.map(Into::into),
                limit: limit.map(Into::into),
            },
            ..Overrides::default()
        };
        let template = Template::default();
        for (request, limit, wanted) in [
            (None, None, "50m"),
            (None, Some("10m"), "10m"),
            (None, Some("1"), "50m"),
            (Some("20m"), Some("1"), "20m"),
        ] {
            let resources = resources(&template, &asked(request, limit));
            assert_eq!(resources["requests"]["cpu"], wanted);
            assert_eq!(resources["limits"]["cpu"].as_str(), limit);
        }
    }
}

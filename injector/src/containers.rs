//! The containers and volumes that are put into a pod.
//!
//! In: the template (once), what a pod's annotations ask for, and what it is called. Out: JSON of two init containers and four
//! volumes. Never: more privilege than each needs; only `weft-init`, which ends before anything of the
//! application starts, may change the pod's network.

use std::borrow::Cow;

use weft_proto::model::annotations::{self as names, env};

use crate::called::Called;
use crate::hash::hash;
use crate::json::Json;
use crate::overrides::{Overrides, Resource};
use crate::quantity;
use crate::settings::Template;

/// What is put into pods, made once; a pod shares it, and has of its own what its annotations and its names say.
#[derive(Debug, Clone)]
pub struct Parts {
    /// What the operator set.
    pub template: Template,
    init: Json<'static>,
    proxy: Json<'static>,
    volumes: Vec<Json<'static>>,
    /// Tells these from those of another version or another template.
    digest: String,
}

impl Parts {
    /// The parts that are the same for all pods.
    #[must_use]
    pub fn new(template: Template) -> Self {
        let (init, proxy) = (init(&template).written(), proxy(&template).written());
        let volumes: Vec<_> = volumes().into_iter().map(Json::written).collect();
        let digest = hash([&init, &proxy].into_iter().chain(&volumes));
        Self {
            template,
            init,
            proxy,
            volumes,
            digest,
        }
    }

    /// Both containers of a pod, and what tells them and the volumes from others. The application's probes and ports are added by
    /// [`crate::patch`].
    #[must_use]
    pub fn of_pod<'a>(&'a self, asked: &Overrides, called: &Called<'a>) -> ([Json<'a>; 2], String) {
        let rules = rules(asked);
        let mut own = vec![
            plain(env::WORKLOAD, called.workload),
            plain(env::APP, called.app),
            plain(env::VERSION, called.version),
        ];
        own.push(plain(
            env::LOG,
            asked.log_level.unwrap_or(&self.template.proxy_log),
        ));
        own.extend(asked.workers.map(|count| plain(env::WORKERS, count.to_string())));
        let concurrency = asked.inbound_concurrency.clone();
        own.extend(concurrency.map(|bound| plain(env::INBOUND_CONCURRENCY, bound)));
        let resources = resources(&self.template, asked);
        let varying = [
            Json::from(self.digest.as_str()),
            Json::array(rules),
            Json::array(own),
            resources,
        ];
        let hash = hash(varying.iter());
        let [_, rules, own, resources] = varying;
        let mut parts = [self.init.share(), self.proxy.share()];
        for (part, mut more) in parts.iter_mut().zip([rules, own]) {
            part.entry("env").items().append(more.items());
            part.fields().set("resources", resources.clone());
        }
        (parts, hash)
    }

    /// The volumes that `weft-proxy` mounts.
    pub fn volumes(&self) -> impl Iterator<Item = Json<'_>> {
        self.volumes.iter().map(Json::share)
    }
}

/// What the interception rules are made of.
fn rules(asked: &Overrides) -> Vec<Json<'static>> {
    let ports = [
        (env::INCLUDE_INBOUND_PORTS, &asked.include_inbound_ports),
        (env::EXCLUDE_INBOUND_PORTS, &asked.exclude_inbound_ports),
        (env::INCLUDE_OUTBOUND_PORTS, &asked.include_outbound_ports),
        (env::EXCLUDE_OUTBOUND_PORTS, &asked.exclude_outbound_ports),
    ];
    let ranges = [
        (env::INCLUDE_OUTBOUND_RANGES, &asked.include_outbound_ranges),
        (env::EXCLUDE_OUTBOUND_RANGES, &asked.exclude_outbound_ranges),
    ];
    let ports = ports
        .into_iter()
        .filter_map(|(name, list)| Some(plain(name, list.as_ref()?.to_string())));
    let ranges = ranges
        .into_iter()
        .filter_map(|(name, list)| Some(plain(name, list.as_ref()?.to_string())));
    ports.chain(ranges).collect()
}

/// `weft-init`: writes the interception rules and ends.
fn init(template: &Template) -> Json<'_> {
    let mut variables = vec![plain(env::PROXY_UID, names::PROXY_UID.to_string())];
    variables.extend(socket_mark(template));
    let mut container = Json::object([
        ("name", names::INIT_CONTAINER.into()),
        ("image", template.image.as_str().into()),
        ("args", Json::array(["init".into()])),
        ("env", Json::array(variables)),
        ("securityContext", security(0, &["NET_ADMIN", "NET_RAW"])),
    ]);
    pull_policy(&mut container, template);
    container
}

/// `weft-proxy`: the native sidecar.
fn proxy(template: &Template) -> Json<'_> {
    let mut variables = vec![
        field(env::POD_NAME, "metadata.name"),
        field(env::POD_NAMESPACE, "metadata.namespace"),
        field(env::POD_UID, "metadata.uid"),
        field(env::INSTANCE_IPS, "status.podIPs"),
        field(env::HOST_IP, "status.hostIP"),
        field(env::NODE_NAME, "spec.nodeName"),
        field(env::SERVICE_ACCOUNT, "spec.serviceAccountName"),
        plain(env::CONTROL_PLANE, template.control_plane.as_str()),
        plain(env::TRUST_DOMAIN, template.trust_domain.as_str()),
    ];
    variables.extend(socket_mark(template));
    let security = match template.socket_mark {
        None => security(names::PROXY_UID, &[]),
        // Marking a socket takes NET_ADMIN, and there is no second uid to run as.
        Some(_) => security(0, &["NET_ADMIN"]),
    };
    let ready = || {
        Json::object([
            ("path", names::READY_PATH.into()),
            ("port", number(names::PORT_HEALTH)),
            ("scheme", "HTTP".into()),
        ])
    };
    let probe = |period: u64, failures: u64| {
        Json::object([
            ("httpGet", ready()),
            ("periodSeconds", period.into()),
            ("timeoutSeconds", 3.into()),
            ("failureThreshold", failures.into()),
        ])
    };
    let mount = |name: &'static str, path: &'static str, read_only: bool| {
        let mut mount = Json::object([("name", name.into()), ("mountPath", path.into())]);
        if read_only {
            mount.fields().set("readOnly", true);
        }
        mount
    };
    let port = Json::object([
        ("name", names::PORT_NAME_METRICS.into()),
        ("containerPort", number(names::PORT_METRICS)),
        ("protocol", "TCP".into()),
    ]);
    let mut container = Json::object([
        ("name", names::PROXY_CONTAINER.into()),
        ("image", template.image.as_str().into()),
        ("args", Json::array(["proxy".into()])),
        ("restartPolicy", "Always".into()),
        ("env", Json::array(variables)),
        ("ports", Json::array([port])),
        ("startupProbe", probe(1, 600)),
        ("readinessProbe", probe(2, 4)),
        ("securityContext", security),
        (
            "volumeMounts",
            Json::array([
                mount(names::VOLUME_TOKEN, names::TOKEN_DIR, true),
                mount(names::VOLUME_CA, names::CA_DIR, true),
                mount(names::VOLUME_STATE, names::STATE_DIR, false),
                mount(names::VOLUME_PODINFO, names::PODINFO_DIR, true),
            ]),
        ),
    ]);
    pull_policy(&mut container, template);
    container
}

/// Names of Weft's volumes.
pub const VOLUMES: [&str; 4] = [
    names::VOLUME_TOKEN,
    names::VOLUME_CA,
    names::VOLUME_STATE,
    names::VOLUME_PODINFO,
];

/// The volumes that `weft-proxy` mounts.
fn volumes() -> Vec<Json<'static>> {
    let token = Json::object([
        ("audience", names::TOKEN_AUDIENCE.into()),
        ("expirationSeconds", u64::from(names::TOKEN_SECONDS).into()),
        ("path", names::TOKEN_NAME.into()),
    ]);
    let item = |path: &'static str, field: &'static str| {
        let field = Json::object([("fieldPath", field.into())]);
        Json::object([("path", path.into()), ("fieldRef", field)])
    };
    let items = [
        item("labels", "metadata.labels"),
        item("annotations", "metadata.annotations"),
    ];
    let sources = Json::array([Json::object([("serviceAccountToken", token)])]);
    let sources = [
        ("projected", Json::object([("sources", sources)])),
        ("configMap", Json::object([("name", names::CA_CONFIG_MAP.into())])),
        (
            "emptyDir",
            Json::object([("medium", "Memory".into()), ("sizeLimit", "64Mi".into())]),
        ),
        ("downwardAPI", Json::object([("items", Json::array(items))])),
    ];
    let named = VOLUMES.into_iter().zip(sources);
    named
        .map(|(name, source)| Json::object([("name", name.into()), source]))
        .collect()
}

/// A variable with a fixed value. Kubernetes expands `$(NAME)` in it: values with a `$` double it.
fn plain<'a>(name: &'static str, value: impl Into<Cow<'a, str>>) -> Json<'a> {
    let mut value = value.into();
    if value.contains('$') {
        value = value.replace('$', "$$").into();
    }
    Json::object([("name", name.into()), ("value", value.into())])
}

fn field(name: &'static str, path: &'static str) -> Json<'static> {
    let reference = Json::object([("fieldPath", path.into())]);
    let source = Json::object([("fieldRef", reference)]);
    Json::object([("name", name.into()), ("valueFrom", source)])
}

fn number(value: u16) -> Json<'static> {
    u64::from(value).into()
}

/// As little as can be, but for the capabilities that are needed.
fn security(user: u32, capabilities: &'static [&'static str]) -> Json<'static> {
    let mut rights = Json::object([("drop", Json::array(["ALL".into()]))]);
    if !capabilities.is_empty() {
        let added = capabilities.iter().map(|name| Json::from(*name));
        rights.fields().set("add", Json::array(added));
    }
    Json::object([
        ("allowPrivilegeEscalation", false.into()),
        ("capabilities", rights),
        ("privileged", false.into()),
        ("readOnlyRootFilesystem", true.into()),
        ("runAsGroup", u64::from(user).into()),
        ("runAsNonRoot", (user != 0).into()),
        ("runAsUser", u64::from(user).into()),
        (
            "seccompProfile",
            Json::object([("type", "RuntimeDefault".into())]),
        ),
    ])
}

fn socket_mark(template: &Template) -> Option<Json<'static>> {
    template
        .socket_mark
        .map(|mark| plain(env::SOCKET_MARK, mark.to_string()))
}

fn pull_policy<'a>(container: &mut Json<'a>, template: &'a Template) {
    if let Some(policy) = &template.image_pull_policy {
        container.fields().set("imagePullPolicy", policy.as_str());
    }
}

fn resources<'a>(template: &'a Template, asked: &Overrides) -> Json<'a> {
    let (cpu, memory) = (&asked.cpu, &asked.memory);
    let requests = [
        ("cpu", request(cpu, &template.proxy_cpu)),
        ("memory", request(memory, &template.proxy_memory)),
    ];
    let mut resources = Json::object([("requests", Json::object(requests))]);
    for (name, asked) in [("cpu", cpu), ("memory", memory)] {
        if let Some(limit) = &asked.limit {
            resources.entry("limits").fields().set(name, limit.clone());
        }
    }
    resources
}

/// The request: what was asked for, or the default, lowered to a limit that was asked for.
fn request<'a>(asked: &Resource, default: &'a str) -> Json<'a> {
    match (&asked.request, &asked.limit) {
        (Some(request), _) => request.clone().into(),
        (None, Some(limit)) if quantity::parse(limit) < quantity::parse(default) => limit.clone().into(),
        (None, _) => default.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn value(json: &Json<'_>) -> Value {
        serde_json::to_value(json).unwrap()
    }

    fn called() -> Called<'static> {
        Called {
            workload: "web",
            app: "web",
            version: "v1",
        }
    }

    #[test]
    fn the_sidecar_has_no_privilege() {
        let parts = Parts::new(Template::default());
        let proxy = value(&parts.of_pod(&Overrides::default(), &called()).0[1]);
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
        let parts = Parts::new(template);
        let [init, proxy] = parts.of_pod(&Overrides::default(), &called()).0;
        let (init, proxy) = (value(&init), value(&proxy));
        assert_eq!(proxy["securityContext"]["runAsUser"], 0);
        assert_eq!(
            proxy["securityContext"]["capabilities"]["add"],
            json!(["NET_ADMIN"])
        );
        for container in [proxy, init] {
            let variables = container["env"].as_array().unwrap();
            assert!(variables.contains(&json!({"name": "WEFT_SOCKET_MARK", "value": "1337"})));
        }
    }

    #[test]
    fn volumes_have_their_names() {
        let made: Vec<_> = volumes().iter().map(|volume| value(&volume["name"])).collect();
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
            let resources = value(&resources(&template, &asked(request, limit)));
            assert_eq!(resources["requests"]["cpu"], wanted);
            assert_eq!(resources["limits"]["cpu"].as_str(), limit);
        }
    }
}

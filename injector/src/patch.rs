//! The pod as it should be.
//!
//! In: a pod that is to be injected. Out: the same pod with Weft's containers and volumes, its probes sent by way of the
//! sidecar, and its labels and annotations. Pure, and idempotent: what comes out, put in again, stays as it is, also when
//! another webhook has added to it in between. Never: something of the application removed.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use weft_proto::model::annotations::{self as names, env};
use weft_proto::model::probes::{AppPort, AppProbe};

use crate::called::{Called, called};
use crate::containers;
use crate::decide::{InjectCause, Refusal, RefusalKind, SkipCause};
use crate::hash::hash;
use crate::overrides;
use crate::pod::{Pod, list};
use crate::probes::{self, Originals};
use crate::settings::Template;

const OURS: [&str; 2] = [names::INIT_CONTAINER, names::PROXY_CONTAINER];

/// What the status annotation says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whether Weft's containers are in the pod.
    pub injected: bool,
    /// Why, or why not.
    pub reason: String,
    /// Hash of what was put in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
    /// Names of Weft's init containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<String>,
    /// Names of Weft's volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
}

/// The pod with everything put in, and warnings for whoever creates it. `workload` is the owner's name, where it is known.
///
/// # Errors
/// A [`Refusal`] that names the field that stands in the way.
pub fn inject(
    pod: &Pod<'_>,
    cause: InjectCause,
    workload: Option<&str>,
    template: &Template,
) -> Result<(Value, Vec<String>), Refusal> {
    let before = pod
        .annotation(names::STATUS)
        .and_then(|text| serde_json::from_str::<Status>(text).ok());
    let before = before.filter(|status| status.injected);
    let mut asked = overrides::read(pod)?;
    check(pod, before.is_some(), &mut asked.warnings)?;
    let called = called(pod, workload);
    let parts = [
        containers::init(template, &asked),
        containers::proxy(template, &asked, &called),
    ];
    let volumes = containers::volumes();
    let hash = hash(parts.iter().chain(&volumes));
    let keep = before.as_ref().is_some_and(|status| status.hash == hash);

    let mut new = pod.value().clone();
    let (originals, ports) = application(&mut new, &put_aside(pod, before.is_some()), template)?;
    let mut ours = parts.map(|fresh| {
        let name = fresh["name"].as_str().unwrap_or_default();
        let there = pod
            .init_container(name)
            .filter(|there| keep && still_sound(there, &fresh));
        there.cloned().unwrap_or(fresh)
    });
    set_env(&mut ours[1], env::APP_PROBES, &safe_json(&originals));
    set_env(&mut ours[1], env::APP_PORTS, &safe_json(&ports));
    readable(&originals, &ports)?;

    let others = pod
        .init_containers()
        .iter()
        .map(|container| container["name"].as_str().unwrap_or_default());
    let others: Vec<usize> = others
        .enumerate()
        .filter(|(_, name)| !OURS.contains(name))
        .map(|(i, _)| i)
        .collect();
    let rewritten = list(&new["spec"]["initContainers"]);
    let init: Vec<Value> = ours
        .into_iter()
        .chain(others.iter().map(|index| rewritten[*index].clone()))
        .collect();
    new["spec"]["initContainers"] = Value::Array(init);
    let status = Status {
        injected: true,
        reason: cause.as_str().to_owned(),
        hash,
        init_containers: OURS.map(str::to_owned).to_vec(),
        volumes: volumes
            .iter()
            .filter_map(|volume| volume["name"].as_str().map(str::to_owned))
            .collect(),
    };
    new["spec"]["volumes"] = Value::Array(all_volumes(pod, volumes, keep));
    describe(&mut new, &status, &called);
    Ok((new, asked.warnings))
}

/// The pod with a note of why it was left alone.
#[must_use]
pub fn note(pod: &Pod<'_>, cause: SkipCause) -> Value {
    let mut new = pod.value().clone();
    let status = Status {
        injected: false,
        reason: cause.as_str().to_owned(),
        hash: String::new(),
        init_containers: Vec::new(),
        volumes: Vec::new(),
    };
    entry(&mut new["metadata"], "annotations").insert(names::STATUS.to_owned(), json!(safe_json(&status)));
    new
}

/// What can't be in a pod of the mesh.
fn check(pod: &Pod<'_>, injected: bool, warnings: &mut Vec<String>) -> Result<(), Refusal> {
    let user = |context: &Value, path: &str| match context["runAsUser"].as_u64() {
        Some(uid) if uid == u64::from(names::PROXY_UID) => Err(Refusal::new(
            RefusalKind::ReservedUser,
            format!("{path}.securityContext.runAsUser"),
            "1337 is the sidecar's user, whose traffic is not intercepted; choose another",
        )),
        _ => Ok(()),
    };
    user(&pod.spec()["securityContext"], "spec")?;
    for (field, containers) in [
        ("containers", pod.containers()),
        ("initContainers", pod.init_containers()),
    ] {
        for (index, container) in containers.iter().enumerate() {
            let path = format!("spec.{field}[{index}]");
            let name = container["name"].as_str().unwrap_or_default();
            if OURS.contains(&name) {
                if injected && field == "initContainers" {
                    continue;
                }
                return Err(Refusal::new(
                    RefusalKind::ReservedName,
                    format!("{path}.name"),
                    format!(
                        "{name} is the name of a container that Weft puts in; choose another, or, if Weft put it there and its \
                         annotation {} got lost or damaged, apply the manifest without Weft's containers and volumes",
                        names::STATUS
                    ),
                ));
            }
            user(&container["securityContext"], &path)?;
            for (index, port) in list(&container["ports"]).iter().enumerate() {
                let number = port["containerPort"].as_u64().unwrap_or_default();
                if names::SIDECAR_PORTS.iter().any(|own| u64::from(*own) == number) {
                    return Err(Refusal::new(
                        RefusalKind::ReservedPort,
                        format!("{path}.ports[{index}].containerPort"),
                        format!("{number} is a port of the sidecar; choose another"),
                    ));
                }
            }
            let security = &container["securityContext"];
            let added = list(&security["capabilities"]["add"]);
            if security["privileged"] == true || added.iter().any(|c| c == "NET_ADMIN" || c == "ALL") {
                warnings.push(format!(
                    "container {name}: may change the pod's network, and so leave the mesh"
                ));
            }
        }
    }
    for (index, volume) in pod.volumes().iter().enumerate().filter(|_| !injected) {
        if containers::VOLUMES.iter().any(|own| volume["name"] == *own) {
            return Err(Refusal::new(
                RefusalKind::ReservedName,
                format!("spec.volumes[{index}].name"),
                "is the name of a volume that Weft puts in; choose another",
            ));
        }
    }
    Ok(())
}

/// The originals of probes that an earlier injection rewrote.
fn put_aside(pod: &Pod<'_>, injected: bool) -> Originals {
    let proxy = pod.init_container(names::PROXY_CONTAINER).filter(|_| injected);
    let text = proxy.and_then(|proxy| {
        list(&proxy["env"])
            .iter()
            .find(|variable| variable["name"] == env::APP_PROBES)?["value"]
            .as_str()
    });
    let probes = text
        .and_then(|text| AppProbe::parse_list(text).ok())
        .unwrap_or_default();
    probes
        .into_iter()
        .map(|probe| (probe.path.clone(), probe))
        .collect()
}

/// Changes the application's own containers; returns its original probes and its ports.
fn application(
    pod: &mut Value,
    before: &Originals,
    template: &Template,
) -> Result<(Vec<AppProbe>, Vec<AppPort>), Refusal> {
    let (mut originals, mut ports) = (Vec::new(), Vec::new());
    let sleep = u64::from(template.pre_stop_sleep_seconds);
    let grace = pod["spec"]["terminationGracePeriodSeconds"]
        .as_u64()
        .unwrap_or(30);
    for field in ["containers", "initContainers"] {
        for (index, container) in items(&mut pod["spec"], field).iter_mut().enumerate() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            if OURS.contains(&name.as_str()) {
                continue;
            }
            originals.extend(probes::rewrite(
                container,
                &format!("spec.{field}[{index}]"),
                before,
            )?);
            for (place, port) in list(&container["ports"]).iter().enumerate() {
                ports.push(declared(&name, port).ok_or_else(|| {
                    Refusal::new(
                        RefusalKind::MalformedPod,
                        format!("spec.{field}[{index}].ports[{place}]"),
                        "needs a containerPort, and a protocol of TCP, UDP or SCTP",
                    )
                })?);
            }
            if field == "containers"
                && sleep > 0
                && sleep < grace
                && container["lifecycle"]["preStop"].is_null()
            {
                entry(container, "lifecycle")
                    .insert("preStop".to_owned(), json!({"sleep": {"seconds": sleep}}));
            }
        }
    }
    Ok((originals, ports))
}

fn declared(container: &str, port: &Value) -> Option<AppPort> {
    let protocol = match &port["protocol"] {
        Value::Null => json!("TCP"),
        given => given.clone(),
    };
    Some(AppPort {
        container: container.to_owned(),
        name: port["name"]
            .as_str()
            .filter(|name| !name.is_empty())
            .map(str::to_owned),
        port: port["containerPort"]
            .as_u64()
            .and_then(|number| u16::try_from(number).ok())?,
        protocol: serde_json::from_value(protocol).ok()?,
    })
}

/// Whether the sidecar will take what it is handed, and Linux a variable of that length.
fn readable(originals: &[AppProbe], ports: &[AppPort]) -> Result<(), Refusal> {
    let refuse = |kind, what: &str, error: String| {
        Refusal::new(
            kind,
            "spec.containers",
            format!("the {what} of all containers together: {error}"),
        )
    };
    AppProbe::parse_list(&safe_json(&originals))
        .map_err(|error| refuse(RefusalKind::Probe, "probes", error.to_string()))?;
    AppPort::parse_list(&safe_json(&ports))
        .map_err(|error| refuse(RefusalKind::MalformedPod, "ports", error.to_string()))?;
    Ok(())
}

/// Whether a container of an earlier injection still does what it was put in for. Image, resources and security context may have
/// been changed since by those whose business it is (registry mirrors, limit ranges, security policies).
fn still_sound(there: &Value, fresh: &Value) -> bool {
    let mut wanted = fresh.clone();
    if let Some(wanted) = wanted.as_object_mut() {
        for field in ["image", "imagePullPolicy", "resources", "securityContext"] {
            wanted.remove(field);
        }
    }
    there["command"].is_null() && covers(there, &wanted)
}

/// Whether everything in `wanted` is in `there`.
fn covers(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| there.get(key).is_some_and(|there| covers(there, value))),
        (Value::Array(there), Value::Array(wanted)) => {
            if wanted.iter().all(|item| item["name"].is_string()) {
                wanted.iter().all(|item| {
                    there
                        .iter()
                        .filter(|there| there["name"] == item["name"])
                        .all(|there| covers(there, item))
                        && there.iter().any(|there| there["name"] == item["name"])
                })
            } else {
                there.len() == wanted.len()
                    && there.iter().zip(wanted).all(|(there, item)| covers(there, item))
            }
        }
        _ => there == wanted,
    }
}

fn all_volumes(pod: &Pod<'_>, fresh: Vec<Value>, keep: bool) -> Vec<Value> {
    let mut all: Vec<Value> = pod.volumes().to_vec();
    for volume in fresh {
        match all.iter_mut().find(|there| there["name"] == volume["name"]) {
            Some(there) if keep && covers(there, &volume) => {}
            Some(there) => *there = volume,
            None => all.push(volume),
        }
    }
    all
}

/// Labels and annotations.
fn describe(pod: &mut Value, status: &Status, called: &Called) {
    let first = pod["spec"]["containers"][0]["name"].clone();
    let metadata = entry(pod, "metadata");
    let mut metadata = Value::Object(std::mem::take(metadata));
    let labels = entry(&mut metadata, "labels");
    for (name, value) in [
        (names::CANONICAL_NAME, &called.app),
        (names::CANONICAL_REVISION, &called.version),
    ] {
        if !labels.contains_key(name) {
            labels.insert(name.to_owned(), json!(label_value(value)));
        }
    }
    let annotations = entry(&mut metadata, "annotations");
    annotations.insert(names::STATUS.to_owned(), json!(safe_json(status)));
    for name in [names::DEFAULT_CONTAINER, names::DEFAULT_LOGS_CONTAINER] {
        if !annotations.contains_key(name) {
            annotations.insert(name.to_owned(), first.clone());
        }
    }
    // All three or none: the application's port with the sidecar's path would be nobody's.
    let scraped = [
        (names::PROMETHEUS_SCRAPE, "true".to_owned()),
        (names::PROMETHEUS_PORT, names::PORT_METRICS.to_string()),
        (names::PROMETHEUS_PATH, names::METRICS_PATH.to_owned()),
    ];
    if scraped.iter().all(|(name, _)| !annotations.contains_key(*name)) {
        annotations.extend(scraped.map(|(name, value)| (name.to_owned(), json!(value))));
    }
    pod["metadata"] = metadata;
}

/// The text as a label's value: at most 63 characters, letters and digits at both ends.
fn label_value(text: &str) -> String {
    let kept: String = text
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        .take(63)
        .collect();
    kept.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

/// JSON in which no `$` is left for Kubernetes to expand.
fn safe_json(value: &impl Serialize) -> String {
    serde_json::to_string(value)
        .unwrap_or_default()
        .replace('$', "\\u0024")
}

fn set_env(container: &mut Value, name: &str, value: &str) {
    let variables = items(container, "env");
    let variable = json!({"name": name, "value": value});
    match variables.iter_mut().find(|there| there["name"] == name) {
        Some(there) => *there = variable,
        None => variables.push(variable),
    }
}

/// The object under `key`, made where there is none.
fn entry<'a>(value: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    let value = &mut value[key];
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was just made an object"),
    }
}

/// The list under `key`, made where there is none.
fn items<'a>(value: &'a mut Value, key: &str) -> &'a mut Vec<Value> {
    let value = &mut value[key];
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    match value {
        Value::Array(list) => list,
        _ => unreachable!("it was just made a list"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_valid() {
        assert_eq!(label_value("web.v1_x-2"), "web.v1_x-2");
        assert_eq!(label_value(&"a".repeat(80)).len(), 63);
        assert_eq!(label_value("-a/b-"), "ab");
        assert_eq!(label_value("é"), "");
    }

    #[test]
    fn nothing_is_left_to_expand() {
        assert_eq!(safe_json(&["$(POD_NAME)"]), r#"["\u0024(POD_NAME)"]"#);
        assert_eq!(
            serde_json::from_str::<Vec<String>>(&safe_json(&["$(X)"])).unwrap(),
            ["$(X)"]
        );
    }
}

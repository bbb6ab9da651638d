//! The pod as it should be.
//!
//! In: a pod that is to be injected. Out: the same pod with Weft's containers and volumes, its probes sent by way of the
//! sidecar, and its labels and annotations. Pure, and idempotent: what comes out, put in again, stays as it is, also when
//! another webhook has added to it in between. Never: something of the application removed.

use serde::{Deserialize, Serialize};
use weft_proto::model::annotations::{self as names, env};
use weft_proto::model::probes::{AppPort, AppProbe, Protocol};

use crate::called::{Called, called};
use crate::containers;
use crate::containers::Parts;
use crate::decide::{InjectCause, Refusal, RefusalKind, SkipCause};
use crate::json::Json;
use crate::overrides;
use crate::pod::{Place, Pod, list};
use crate::probes::{self, Originals};

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
pub fn inject<'a>(
    pod: &Pod<'a>,
    cause: InjectCause,
    workload: Option<&'a str>,
    parts: &'a Parts,
) -> Result<(Json<'a>, Vec<String>), Refusal> {
    let before = pod
        .annotation(names::STATUS)
        .and_then(|text| serde_json::from_str::<Status>(text).ok());
    let before = before.filter(|status| status.injected);
    let mut asked = overrides::read(pod)?;
    check(pod, before.is_some(), &mut asked.warnings)?;
    let called = called(pod, workload);
    let (fresh, hash) = parts.of_pod(&asked, &called);
    let keep = before.as_ref().is_some_and(|status| status.hash == hash);

    let mut new = pod.value().share();
    let (originals, ports) = application(&mut new, pod, &put_aside(pod, before.is_some()), &parts.template)?;
    let (probes, declared) = (originals, ports);
    let (originals, ports) = (safe_json(&probes), safe_json(&declared));
    readable((&probes, &originals), (&declared, &ports))?;

    let mut ours = fresh.map(|fresh| {
        let there = pod.init_container(fresh["name"].as_str().unwrap_or_default());
        let there = there.filter(|there| keep && still_sound(there, &fresh));
        there.map_or(fresh, Json::share)
    });
    set_env(&mut ours[1], env::APP_PROBES, originals);
    set_env(&mut ours[1], env::APP_PORTS, ports);

    let spec = new.entry("spec");
    let others = std::mem::take(spec.entry("initContainers").items());
    let others = others.into_iter().filter(|container| !is_ours(container));
    let all = Json::array(ours.into_iter().chain(others));
    spec.fields().set("initContainers", all);
    let status = Status {
        injected: true,
        reason: cause.as_str().to_owned(),
        hash,
        init_containers: OURS.map(str::to_owned).to_vec(),
        volumes: containers::VOLUMES.map(str::to_owned).to_vec(),
    };
    let volumes = all_volumes(pod, parts, keep);
    spec.fields().set("volumes", Json::array(volumes));
    describe(&mut new, pod, &status, &called);
    Ok((new, asked.warnings))
}

/// Whether it is one of Weft's containers, by its name.
fn is_ours(container: &Json<'_>) -> bool {
    OURS.iter().any(|name| container["name"] == *name)
}

/// The pod with a note of why it was left alone.
#[must_use]
pub fn note<'a>(pod: &Pod<'a>, cause: SkipCause) -> Json<'a> {
    let mut new = pod.value().share();
    let status = Status {
        injected: false,
        reason: cause.as_str().to_owned(),
        hash: String::new(),
        init_containers: Vec::new(),
        volumes: Vec::new(),
    };
    let annotations = new.entry("metadata").entry("annotations");
    annotations.fields().set(names::STATUS, safe_json(&status));
    new
}

/// What can't be in a pod of the mesh.
fn check(pod: &Pod<'_>, injected: bool, warnings: &mut Vec<String>) -> Result<(), Refusal> {
    let user = |context: &Json<'_>, path: &dyn std::fmt::Display| match context["runAsUser"].as_u64() {
        Some(uid) if uid == u64::from(names::PROXY_UID) => Err(Refusal::new(
            RefusalKind::ReservedUser,
            format!("{path}.securityContext.runAsUser"),
            "1337 is the sidecar's user, whose traffic is not intercepted; choose another",
        )),
        _ => Ok(()),
    };
    user(&pod.spec()["securityContext"], &"spec")?;
    for (field, containers) in [
        ("containers", pod.containers()),
        ("initContainers", pod.init_containers()),
    ] {
        for (index, container) in containers.iter().enumerate() {
            let path = Place { field, index };
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
fn application<'a>(
    new: &mut Json<'a>,
    pod: &Pod<'a>,
    before: &Originals,
    template: &crate::Template,
) -> Result<(Vec<AppProbe>, Vec<AppPort>), Refusal> {
    let (mut originals, mut ports) = (Vec::new(), Vec::new());
    let sleep = u64::from(template.pre_stop_sleep_seconds);
    let grace = pod.spec()["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
    let spec = new.entry("spec");
    for (field, containers) in [
        ("containers", pod.containers()),
        ("initContainers", pod.init_containers()),
    ] {
        let places = spec.entry(field).items();
        for (index, (original, container)) in containers.iter().zip(places).enumerate() {
            if is_ours(original) {
                continue;
            }
            let name = original["name"].as_str().unwrap_or_default();
            let path = Place { field, index };
            originals.extend(probes::rewrite(container, original, &path, before)?);
            for (place, port) in list(&original["ports"]).iter().enumerate() {
                ports.push(declared(name, port).ok_or_else(|| {
                    Refusal::new(
                        RefusalKind::MalformedPod,
                        format!("{path}.ports[{place}]"),
                        "needs a containerPort, and a protocol of TCP, UDP or SCTP",
                    )
                })?);
            }
            if field == "containers"
                && sleep > 0
                && sleep < grace
                && original["lifecycle"]["preStop"].is_null()
            {
                let seconds = Json::object([("seconds", sleep.into())]);
                let sleep = Json::object([("sleep", seconds)]);
                container.entry("lifecycle").fields().set("preStop", sleep);
            }
        }
    }
    Ok((originals, ports))
}

fn declared(container: &str, port: &Json<'_>) -> Option<AppPort> {
    let protocol = match &port["protocol"] {
        Json::Null => Protocol::Tcp,
        Json::String(name) => match &**name {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => return None,
        },
        _ => return None,
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
        protocol,
    })
}

/// Whether the sidecar will take what it is handed, and Linux a variable of that length.
fn readable(probes: (&[AppProbe], &str), ports: (&[AppPort], &str)) -> Result<(), Refusal> {
    let refuse = |kind, what: &str, error: String| {
        Refusal::new(
            kind,
            "spec.containers",
            format!("the {what} of all containers together: {error}"),
        )
    };
    AppProbe::check_list(probes.0, probes.1)
        .map_err(|error| refuse(RefusalKind::Probe, "probes", error.to_string()))?;
    AppPort::check_list(ports.0, ports.1)
        .map_err(|error| refuse(RefusalKind::MalformedPod, "ports", error.to_string()))?;
    Ok(())
}

/// Whether a container of an earlier injection still does what it was put in for. Image, resources and security context may have
/// been changed since by those whose business it is (registry mirrors, limit ranges, security policies).
fn still_sound(there: &Json<'_>, fresh: &Json<'_>) -> bool {
    const OTHERS: [&str; 4] = ["image", "imagePullPolicy", "resources", "securityContext"];
    let wanted = fresh.as_object().unwrap_or_default();
    let mut wanted = wanted.iter().filter(|(name, _)| !OTHERS.contains(&&**name));
    there["command"].is_null()
        && wanted.all(|(name, value)| there.get(name).is_some_and(|there| covers(there, value)))
}

/// Whether everything in `wanted` is in `there`.
fn covers(there: &Json<'_>, wanted: &Json<'_>) -> bool {
    match (there, wanted) {
        (Json::Object(_), Json::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| there.get(key).is_some_and(|there| covers(there, value))),
        (Json::Array(there), Json::Array(wanted)) => {
            if wanted.iter().all(|item| item["name"].as_str().is_some()) {
                wanted.iter().all(|item| {
                    there
                        .iter()
                        .filter(|there| there["name"] == item["name"])
                        .all(|there| covers(there, item))
                        && there.iter().any(|there| there["name"] == item["name"])
                })
            } else {
                there.len() == wanted.len()
                    && there
                        .iter()
                        .zip(wanted.iter())
                        .all(|(there, item)| covers(there, item))
            }
        }
        _ => there == wanted,
    }
}

fn all_volumes<'a>(pod: &Pod<'a>, parts: &'a Parts, keep: bool) -> Vec<Json<'a>> {
    let mut all: Vec<Json<'a>> = pod.volumes().iter().map(Json::share).collect();
    for volume in parts.volumes() {
        match all.iter_mut().find(|there| there["name"] == volume["name"]) {
            Some(there) if keep && covers(there, &volume) => {}
            Some(there) => *there = volume,
            None => all.push(volume),
        }
    }
    all
}

/// Labels and annotations.
fn describe<'a>(new: &mut Json<'a>, pod: &Pod<'a>, status: &Status, called: &Called<'a>) {
    let first = &pod.spec()["containers"][0]["name"];
    let metadata = new.entry("metadata");
    let mut labels = metadata.entry("labels").fields();
    for (name, value) in [
        (names::CANONICAL_NAME, called.app),
        (names::CANONICAL_REVISION, called.version),
    ] {
        if !labels.has(name) {
            labels.set(name, label_value(value));
        }
    }
    let mut annotations = metadata.entry("annotations").fields();
    annotations.set(names::STATUS, safe_json(status));
    for name in [names::DEFAULT_CONTAINER, names::DEFAULT_LOGS_CONTAINER] {
        if !annotations.has(name) {
            annotations.set(name, first.share());
        }
    }
    // All three or none: the application's port with the sidecar's path would be nobody's.
    let scraped = [
        (names::PROMETHEUS_SCRAPE, "true".to_owned()),
        (names::PROMETHEUS_PORT, names::PORT_METRICS.to_string()),
        (names::PROMETHEUS_PATH, names::METRICS_PATH.to_owned()),
    ];
    if scraped.iter().all(|(name, _)| !annotations.has(name)) {
        for (name, value) in scraped {
            annotations.set(name, value);
        }
    }
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
    let mut text = Vec::with_capacity(512);
    if serde_json::to_writer(&mut text, value).is_err() {
        text.clear();
    }
    let text = String::from_utf8(text).unwrap_or_default();
    if text.contains('$') {
        return text.replace('$', "\\u0024");
    }
    text
}

fn set_env<'a>(container: &mut Json<'a>, name: &'static str, value: String) {
    let variables = container.entry("env").items();
    let variable = Json::object([("name", name.into()), ("value", value.into())]);
    match variables.iter_mut().find(|there| there["name"] == name) {
        Some(there) => *there = variable,
        None => variables.push(variable),
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

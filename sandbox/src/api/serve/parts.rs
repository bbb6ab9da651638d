//! `…/log` and `…/token`.
//!
//! In: an object and what is asked of it. Out: a stream of its log; a signed token. Never: an option that is read and not obeyed.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::super::refusal::Refusal;
use super::super::route::{Place, Query};
use super::super::tokens::{Grant, MIN_SECONDS};
use super::super::{Api, object};
use super::{Reply, logs};

pub(super) fn log(api: &Arc<Api>, place: &Place, name: &str, query: &Query) -> Result<Reply, Refusal> {
    let pod = api.get(&place.kind, place.namespace(), name)?;
    for option in ["sinceSeconds", "sinceTime", "timestamps"] {
        if query
            .get(option)
            .is_some_and(|v| !matches!(v, "" | "0" | "false"))
        {
            let why = format!("{option}: the sandbox's logs carry no times; use tailLines");
            return Err(Refusal::bad_request(why));
        }
    }
    let names = || {
        ["/spec/containers", "/spec/initContainers"]
            .into_iter()
            .flat_map(|l| object::list(&pod, l))
            .filter_map(|c| c["name"].as_str())
    };
    let annotated = pod.pointer("/metadata/annotations/kubectl.kubernetes.io~1default-container");
    let container = query
        .get("container")
        .filter(|c| !c.is_empty())
        .or_else(|| annotated.and_then(Value::as_str))
        .or_else(|| names().next())
        .unwrap_or_default();
    if !names().any(|n| n == container) {
        let all: Vec<&str> = names().collect();
        let why = format!(
            "container {container:?} is not in pod {name}; it has {}",
            all.join(", ")
        );
        return Err(Refusal::bad_request(why));
    }
    if query.flag("previous") {
        let why = format!("previous terminated container {container:?} in pod {name:?} not found");
        return Err(Refusal::bad_request(why));
    }
    let tail = query.number("tailLines")?.and_then(|n| usize::try_from(n).ok());
    let path = api.log_path(place.namespace(), name, container);
    Ok(Reply::Stream(
        logs::follow(path, tail, query.flag("follow")),
        "text/plain",
    ))
}

pub(super) fn token(api: &Api, place: &Place, name: &str, request: &Value) -> Result<Reply, Refusal> {
    let account = api.get(&place.kind, place.namespace(), name)?;
    let seconds = object::number(request, "/spec/expirationSeconds").unwrap_or(3600);
    let invalid = |field: &str, why: String| Err(Refusal::invalid("TokenRequest", name, field, why));
    if seconds < MIN_SECONDS {
        return invalid(
            "spec.expirationSeconds",
            format!("may not be less than {MIN_SECONDS}"),
        );
    }
    let audiences: Vec<String> = object::list(request, "/spec/audiences")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let bound = request.pointer("/spec/boundObjectRef").filter(|b| b.is_object());
    let pod = match bound {
        None => None,
        Some(bound) if bound["kind"] == "Pod" => {
            let bound_name = bound["name"].as_str().unwrap_or_default();
            let pod = api.store.get("pods", place.namespace(), bound_name);
            let pod = pod.filter(|p| {
                bound["uid"].as_str().is_none_or(|u| u == object::uid(p))
                    && object::string(p, "/spec/serviceAccountName") == Some(name)
            });
            match pod {
                Some(pod) => Some(pod),
                None => {
                    return invalid(
                        "spec.boundObjectRef",
                        format!("no pod {bound_name:?} of this account"),
                    );
                }
            }
        }
        Some(_) => return invalid("spec.boundObjectRef.kind", "only Pod is supported".to_owned()),
    };
    let (token, expires) = api.tokens.issue(
        &account,
        &Grant {
            audiences: &audiences,
            seconds,
            pod: pod.as_deref(),
        },
    )?;
    let mut answer = request.clone();
    answer["apiVersion"] = "authentication.k8s.io/v1".into();
    answer["kind"] = "TokenRequest".into();
    object::member(&mut answer, "metadata").insert("name".into(), name.into());
    answer["status"] = json!({"token": token, "expirationTimestamp": object::timestamp(expires)});
    Ok(Reply::Json(StatusCode::CREATED, answer, Vec::new()))
}

//! From a request whose caller is known to its answer.
//!
//! In: method, target, query, body. Out: a [`Reply`]. Never: a method that is not served answered as if it were.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::patch::Style;
use super::super::refusal::Refusal;
use super::super::route::{Place, Query, Target};
use super::super::selector::{Fields, Labels};
use super::super::tokens::{Caller, Grant, MIN_SECONDS};
use super::super::verbs::{Deletion, Part, Written};
use super::super::{Api, discovery, object, validate};
use super::{Reply, as_version, logs, stream};

/// A request, read in full.
pub(super) struct Asked {
    pub method: Method,
    pub path: String,
    pub query: Query,
    pub content: String,
    pub body: Bytes,
    pub who: Caller,
}

fn ok(value: Value) -> Result<Reply, Refusal> {
    Ok(Reply::Json(StatusCode::OK, value, Vec::new()))
}

/// Answers.
pub(super) async fn to(api: &Arc<Api>, target: Target, asked: Asked) -> Result<Reply, Refusal> {
    let no_method = || Refusal::no_method(asked.method.as_str(), &asked.path);
    let no_path = || Refusal::no_path(&asked.path);
    let place = match target {
        Target::TokenReview if asked.method == Method::POST => {
            let review = asked.json()?;
            return Ok(Reply::Json(
                StatusCode::CREATED,
                api.tokens.review(&review, &api.store),
                Vec::new(),
            ));
        }
        Target::Objects(place) => place,
        _ if asked.method != Method::GET => return Err(no_method()),
        Target::Core => return ok(discovery::core()),
        Target::Groups => return ok(discovery::groups(&api.kinds)),
        Target::Group(group) => return ok(discovery::one_group(&api.kinds, &group).ok_or_else(no_path)?),
        Target::Resources(group, version) => {
            return ok(discovery::resources(&api.kinds, &group, &version).ok_or_else(no_path)?);
        }
        Target::Health | Target::Version | Target::TokenReview => return Err(no_method()),
    };
    if asked.query.get("dryRun").is_some_and(|d| !d.is_empty()) {
        return Err(Refusal::bad_request(
            "dryRun is not supported by the sandbox's API",
        ));
    }
    match (&asked.method, place.name.as_deref(), place.sub.as_deref()) {
        (&Method::GET, None, None) => list(api, &place, &asked.query),
        (&Method::GET, Some(name), None | Some("status")) => {
            if asked.query.flag("watch") {
                return Err(Refusal::bad_request(
                    "watch one object with a list and fieldSelector=metadata.name=…",
                ));
            }
            let found = api.get(&place.kind, place.namespace(), name)?;
            ok(as_version((*found).clone(), &place))
        }
        (&Method::GET, Some(name), Some("log")) => log(api, &place, name, &asked.query),
        (&Method::POST, Some(name), Some("token")) => token(api, &place, name, &asked.json()?),
        (&Method::POST, None, None) => {
            let namespace = match (&place.namespace, place.kind.namespaced) {
                (Some(namespace), true) => namespace.as_str(),
                (None, true) => return Err(no_method()),
                _ => "",
            };
            let new = asked.json()?;
            asked.strict(&place, &new)?;
            written(api.create(&place.kind, namespace, new, &asked.who).await?, &place)
        }
        (&Method::PUT, Some(name), None | Some("status")) => {
            let new = asked.json()?;
            asked.strict(&place, &new)?;
            written(
                api.replace(&place.kind, place.namespace(), name, new, place.part())?,
                &place,
            )
        }
        (&Method::PATCH, Some(name), None | Some("status")) => {
            let style = Style::of(&asked.content).ok_or_else(|| {
                let why = format!(
                    "{:?} is not a patch type that the sandbox's API knows",
                    asked.content
                );
                Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", why)
            })?;
            let change = if style == Style::Apply {
                asked.yaml()?
            } else {
                asked.json()?
            };
            let to = (place.namespace(), name);
            written(
                api.patch(&place.kind, to, style, change, (place.part(), &asked.who))
                    .await?,
                &place,
            )
        }
        (&Method::DELETE, Some(name), None) => {
            let how = asked.deletion()?;
            let last = api.delete(&place.kind, place.namespace(), name, &how)?;
            if object::is_terminating(&last) {
                return ok(as_version((*last).clone(), &place));
            }
            ok(
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {"name": name, "group": place.kind.group, "kind": place.kind.plural,
                            "uid": object::uid(&last)}}),
            )
        }
        (&Method::DELETE, None, None) if place.namespace.is_some() == place.kind.namespaced => {
            let how = asked.deletion()?;
            let (labels, fields) = asked.query.selectors()?;
            for one in select(api, &place, &labels, &fields).0 {
                match api.delete(&place.kind, object::namespace(&one), object::name(&one), &how) {
                    Err(e) if !e.is_not_found() => return Err(e),
                    _ => {}
                }
            }
            list(api, &place, &asked.query)
        }
        _ => Err(no_method()),
    }
}

impl Place {
    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    fn part(&self) -> Part {
        if self.sub.is_some() {
            Part::Status
        } else {
            Part::Main
        }
    }
}

impl Asked {
    fn json(&self) -> Result<Value, Refusal> {
        if self.content.contains("yaml") {
            return self.yaml();
        }
        if self.content.contains("protobuf") {
            let why = "the sandbox's API reads JSON and YAML, not protobuf";
            return Err(Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "UnsupportedMediaType",
                why,
            ));
        }
        serde_json::from_slice(&self.body)
            .map_err(|e| Refusal::bad_request(format!("the body is not JSON: {e}")))
    }

    fn yaml(&self) -> Result<Value, Refusal> {
        if let Ok(value) = serde_json::from_slice(&self.body) {
            return Ok(value);
        }
        let text =
            std::str::from_utf8(&self.body).map_err(|_| Refusal::bad_request("the body is not UTF-8"))?;
        serde_saphyr::from_str(text).map_err(|e| Refusal::bad_request(format!("the body is not YAML: {e}")))
    }

    /// With `fieldValidation=Strict` (what `kubectl` asks for), unknown fields are refused.
    fn strict(&self, place: &Place, new: &Value) -> Result<(), Refusal> {
        if self.query.get("fieldValidation") != Some("Strict") {
            return Ok(());
        }
        match validate::fields(&place.kind, new) {
            Ok(unknown) if !unknown.is_empty() => Err(Refusal::bad_request(format!(
                "strict decoding error: {}",
                unknown.join(", ")
            ))),
            // A wrong type is told after defaults are filled in, with the object's name.
            _ => Ok(()),
        }
    }

    fn deletion(&self) -> Result<Deletion, Refusal> {
        let options = if self.body.is_empty() {
            Value::Null
        } else {
            self.json()?
        };
        let grace = match self.query.number("gracePeriodSeconds")? {
            Some(seconds) => i64::try_from(seconds).ok(),
            None => object::number(&options, "/gracePeriodSeconds"),
        };
        let policy = self
            .query
            .get("propagationPolicy")
            .or_else(|| object::string(&options, "/propagationPolicy"));
        Ok(Deletion {
            grace,
            uid: object::string(&options, "/preconditions/uid").map(str::to_owned),
            orphan: policy == Some("Orphan"),
        })
    }
}

fn written(done: Written, place: &Place) -> Result<Reply, Refusal> {
    let status = if done.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(Reply::Json(
        status,
        as_version((*done.object).clone(), place),
        done.warnings,
    ))
}

fn select(api: &Api, place: &Place, labels: &Labels, fields: &Fields) -> (Vec<Arc<Value>>, u64) {
    let (mut found, version) = api.store.list(&place.kind.key(), place.namespace.as_deref());
    found.retain(|o| labels.matches_object(o) && fields.matches(o));
    (found, version)
}

fn list(api: &Arc<Api>, place: &Place, query: &Query) -> Result<Reply, Refusal> {
    let (labels, fields) = query.selectors()?;
    if query.flag("watch") {
        return stream::start(api, place, query, labels, fields);
    }
    if query.get("continue").is_some_and(|c| !c.is_empty()) {
        return Err(Refusal::expired());
    }
    let (found, version) = select(api, place, &labels, &fields);
    let items: Vec<Value> = found.iter().map(|o| as_version((**o).clone(), place)).collect();
    ok(json!({
        "kind": format!("{}List", place.kind.kind), "apiVersion": place.kind.api_version_as(&place.version),
        "metadata": {"resourceVersion": version.to_string()}, "items": items,
    }))
}

fn log(api: &Arc<Api>, place: &Place, name: &str, query: &Query) -> Result<Reply, Refusal> {
    let pod = api.get(&place.kind, place.namespace(), name)?;
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
    let tail = query.number("tailLines")?.and_then(|n| usize::try_from(n).ok());
    let path = api.log_path(place.namespace(), name, container);
    Ok(Reply::Stream(
        logs::follow(path, tail, query.flag("follow")),
        "text/plain",
    ))
}

fn token(api: &Api, place: &Place, name: &str, request: &Value) -> Result<Reply, Refusal> {
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

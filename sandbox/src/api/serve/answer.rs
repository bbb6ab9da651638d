//! From a request whose caller is known to its answer.
//!
//! In: method, target, query, body. Out: a [`Reply`]. Never: a method that is not served answered as if it were.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::admission::{self, Operation};
use super::super::change::Patching;
use super::super::patch::Style;
use super::super::refusal::Refusal;
use super::super::route::{Place, Query, Target};
use super::super::scale::{self, Scaling};
use super::super::selector::{Fields, Labels};
use super::super::table::{self, Shape};
use super::super::tokens::Caller;
use super::super::verbs::{Deletion, Part, Write, Written};
use super::super::{Api, discovery, object, openapi, review};
use super::{Reply, as_version, parts, protobuf, stream};

/// A request, read in full.
pub(super) struct Asked {
    pub method: Method,
    pub path: String,
    pub query: Query,
    /// Content type of the body.
    pub content: String,
    /// What the caller takes.
    pub accept: String,
    /// What the caller calls itself.
    pub agent: String,
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
        Target::Review(_, plural, namespace) if asked.method == Method::POST => {
            let answer = review::answer(api, &plural, &namespace, &asked.json()?, &asked.who)?;
            return Ok(Reply::Json(StatusCode::CREATED, answer, Vec::new()));
        }
        Target::Objects(place) => place,
        _ if asked.method != Method::GET => return Err(no_method()),
        Target::Core | Target::Groups if asked.takes_aggregated() => {
            let all = discovery::aggregated(&api.kinds, target == Target::Core);
            return Ok(Reply::Typed(discovery::AGGREGATED, all));
        }
        Target::Core => return ok(discovery::core()),
        Target::Groups => return ok(discovery::groups(&api.kinds)),
        Target::Group(group) => return ok(discovery::one_group(&api.kinds, &group).ok_or_else(no_path)?),
        Target::Resources(group, version) => {
            return ok(discovery::resources(&api.kinds, &group, &version).ok_or_else(no_path)?);
        }
        Target::OpenApi(root) if root.is_empty() => return ok(openapi::index(&api.kinds)),
        Target::OpenApi(root) => return ok(openapi::document(&api.kinds, &root).ok_or_else(no_path)?),
        Target::Health | Target::Version | Target::Review(..) => return Err(no_method()),
    };
    match asked.method {
        Method::GET => read(api, &place, &asked),
        Method::POST => post(api, &place, &asked).await,
        Method::PUT | Method::PATCH => change(api, &place, &asked).await,
        Method::DELETE => delete(api, &place, &asked).await,
        _ => Err(no_method()),
    }
}

fn read(api: &Arc<Api>, place: &Place, asked: &Asked) -> Result<Reply, Refusal> {
    if place.sub.as_deref() == Some("log") {
        return parts::log(api, place, place.name(), &asked.query);
    }
    let shape = asked.shape()?;
    let Some(name) = place.name.as_deref() else {
        return list(api, place, &asked.query, shape);
    };
    if asked.query.flag("watch") {
        return Err(Refusal::bad_request(
            "watch one object with a list and fieldSelector=metadata.name=…",
        ));
    }
    if !matches!(place.sub.as_deref(), None | Some("status" | "scale")) {
        return Err(Refusal::no_method(asked.method.as_str(), &asked.path));
    }
    let found = api.get(&place.kind, place.namespace(), name)?;
    if place.sub.as_deref() == Some("scale") {
        return ok(scale::of(&found));
    }
    let found = as_version((*found).clone(), place);
    ok(table::shaped(api, &place.kind, &place.version, shape, found))
}

async fn post(api: &Arc<Api>, place: &Place, asked: &Asked) -> Result<Reply, Refusal> {
    match (place.name.as_deref(), place.sub.as_deref()) {
        (Some(name), Some("token")) => parts::token(api, place, name, &asked.json()?),
        (Some(name), Some("eviction")) => {
            let eviction = asked.json()?;
            let options = eviction.get("deleteOptions").cloned().unwrap_or(Value::Null);
            api.evict(
                &place.kind,
                place.namespace(),
                name,
                &asked.deletion_by(&options)?,
            )?;
            let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
            Ok(Reply::Json(StatusCode::CREATED, done, Vec::new()))
        }
        (None, None) => {
            let namespace = match (&place.namespace, place.kind.namespaced) {
                (Some(namespace), true) => namespace.as_str(),
                (None, true) => return Err(Refusal::no_method(asked.method.as_str(), &asked.path)),
                _ => "",
            };
            let how = asked.write(place)?;
            written(
                api.create_as(&place.kind, namespace, asked.json()?, &how).await?,
                place,
                asked,
            )
        }
        _ => Err(Refusal::no_method(asked.method.as_str(), &asked.path)),
    }
}

async fn change(api: &Arc<Api>, place: &Place, asked: &Asked) -> Result<Reply, Refusal> {
    let (Some(name), None | Some("status" | "scale")) = (place.name.as_deref(), place.sub.as_deref()) else {
        return Err(Refusal::no_method(asked.method.as_str(), &asked.path));
    };
    let how = asked.write(place)?;
    let style = match asked.method {
        Method::PATCH => Some(Style::of(&asked.content).ok_or_else(|| {
            Refusal::unsupported_media(format!(
                "{:?} is not a patch type that the sandbox's API knows",
                asked.content
            ))
        })?),
        _ => None,
    };
    let body = if style == Some(Style::Apply) {
        asked.yaml()?
    } else {
        asked.json()?
    };
    if place.sub.as_deref() == Some("scale") {
        let scaling = match style {
            Some(style) => Scaling::Patch(style, body),
            None => Scaling::Replace(body),
        };
        let done = api
            .scale(&place.kind, place.namespace(), name, &scaling, &how)
            .await?;
        return Ok(Reply::Json(
            StatusCode::OK,
            scale::of(&done.object),
            done.warnings,
        ));
    }
    let Some(style) = style else {
        return written(
            api.replace(&place.kind, place.namespace(), name, body, &how)
                .await?,
            place,
            asked,
        );
    };
    if style == Style::Apply && asked.query.get("fieldManager").is_none_or(str::is_empty) {
        return Err(Refusal::bad_request(
            "PatchOptions is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let force = asked.query.flag("force");
    let done = api
        .patch(
            &place.kind,
            (place.namespace(), name),
            body,
            &Patching { style, force, how },
        )
        .await?;
    written(done, place, asked)
}

async fn delete(api: &Arc<Api>, place: &Place, asked: &Asked) -> Result<Reply, Refusal> {
    let no_method = || Refusal::no_method(asked.method.as_str(), &asked.path);
    if place.sub.is_some() || (place.name.is_none() && place.namespace.is_some() != place.kind.namespaced) {
        return Err(no_method());
    }
    let how = asked.deletion()?;
    if let Some(name) = place.name.as_deref() {
        let warnings = ask_to_delete(api, place, place.namespace(), name, asked, how.dry).await?;
        let last = api.delete(&place.kind, place.namespace(), name, &how)?;
        let answer = if object::is_terminating(&last) && !how.dry {
            as_version((*last).clone(), place)
        } else {
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {"name": name, "group": place.kind.group, "kind": place.kind.plural, "uid": object::uid(&last)}})
        };
        return Ok(Reply::Json(StatusCode::OK, answer, warnings));
    }
    let (labels, fields) = asked.query.selectors()?;
    let (found, version) = select(api, place, &labels, &fields);
    let mut warnings = Vec::new();
    for one in &found {
        let (namespace, name) = (object::namespace(one), object::name(one));
        let gone = match ask_to_delete(api, place, namespace, name, asked, how.dry).await {
            Ok(more) => {
                warnings.extend(more);
                api.delete(&place.kind, namespace, name, &how).map(drop)
            }
            Err(e) => Err(e),
        };
        match gone {
            Err(e) if !e.is_not_found() => return Err(e),
            _ => {}
        }
    }
    let items: Vec<Value> = found.iter().map(|o| as_version((**o).clone(), place)).collect();
    let answer = list_of(place, items, &json!({"resourceVersion": version.to_string()}));
    Ok(Reply::Json(StatusCode::OK, answer, warnings))
}

/// Webhooks have their say before an object goes.
async fn ask_to_delete(
    api: &Api,
    place: &Place,
    namespace: &str,
    name: &str,
    asked: &Asked,
    dry: bool,
) -> Result<Vec<String>, Refusal> {
    let last = api.get(&place.kind, namespace, name)?;
    let review = admission::Review {
        kind: &place.kind,
        sub: "",
        namespace,
        operation: Operation::Delete,
        who: &asked.who,
        dry,
    };
    let mut nothing = Value::Null;
    let mut warnings = admission::mutate(api, &review, &mut nothing, Some(&last)).await?;
    warnings.extend(admission::validate(api, &review, &Value::Null, Some(&last)).await?);
    Ok(warnings)
}

impl Place {
    pub(super) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}

impl Asked {
    fn json(&self) -> Result<Value, Refusal> {
        if self.content.contains("yaml") {
            return self.yaml();
        }
        if self.content.contains("protobuf") {
            return protobuf::read(&self.body).map_err(Refusal::unsupported_media);
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

    fn shape(&self) -> Result<Shape, Refusal> {
        table::shape(&self.accept, self.query.get("includeObject"))
            .ok_or_else(|| Refusal::not_acceptable(&self.accept))
    }

    /// Whether the newest form of aggregated discovery comes before the plain one.
    fn takes_aggregated(&self) -> bool {
        let wanted = |entry: &str| {
            entry.contains("as=APIGroupDiscoveryList")
                && entry.contains("v=v2")
                && !entry.contains("v=v2beta")
        };
        self.accept.split(',').any(wanted)
    }

    fn dry(&self) -> Result<bool, Refusal> {
        match self.query.get("dryRun").unwrap_or_default() {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(Refusal::bad_request(format!("dryRun: {other:?} is not All"))),
        }
    }

    /// How a write is meant: with `fieldValidation=Strict` (what `kubectl` asks for), unknown fields are refused.
    fn write<'a>(&'a self, place: &Place) -> Result<Write<'a>, Refusal> {
        let agent = self.agent.split('/').next().unwrap_or_default();
        let manager = match self.query.get("fieldManager") {
            Some(named) if !named.is_empty() => named,
            _ if agent.is_empty() => "unknown",
            _ => agent,
        };
        if manager.len() > 128 {
            return Err(Refusal::bad_request(
                "fieldManager: may not be longer than 128 bytes",
            ));
        }
        let part = if place.sub.as_deref() == Some("status") {
            Part::Status
        } else {
            Part::Main
        };
        Ok(Write {
            who: &self.who,
            part,
            dry: self.dry()?,
            strict: self.query.get("fieldValidation") == Some("Strict"),
            manager,
            owned: false,
        })
    }

    fn deletion(&self) -> Result<Deletion, Refusal> {
        let options = if self.body.is_empty() {
            Value::Null
        } else {
            self.json()?
        };
        self.deletion_by(&options)
    }

    fn deletion_by(&self, options: &Value) -> Result<Deletion, Refusal> {
        let grace = match self.query.number("gracePeriodSeconds")? {
            Some(seconds) => i64::try_from(seconds).ok(),
            None => object::number(options, "/gracePeriodSeconds"),
        };
        let policy = self
            .query
            .get("propagationPolicy")
            .or_else(|| object::string(options, "/propagationPolicy"));
        let orphan = self.query.flag("orphanDependents") || options["orphanDependents"] == true;
        if let Some(other) = policy.filter(|p| !["Orphan", "Background", "Foreground"].contains(p)) {
            let why = format!("DeleteOptions is invalid: propagationPolicy: Unsupported value: {other:?}");
            return Err(Refusal::bad_request(why));
        }
        let dry = self.dry()? || object::list(options, "/dryRun").iter().any(|d| d == "All");
        Ok(Deletion {
            grace,
            uid: object::string(options, "/preconditions/uid").map(str::to_owned),
            version: object::string(options, "/preconditions/resourceVersion").map(str::to_owned),
            orphan: policy == Some("Orphan") || orphan,
            foreground: policy == Some("Foreground"),
            dry,
        })
    }
}

fn written(done: Written, place: &Place, asked: &Asked) -> Result<Reply, Refusal> {
    let status = if done.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let mut warnings = done.warnings;
    if asked.query.get("fieldValidation") == Some("Ignore") {
        warnings.retain(|w| !w.starts_with("unknown field"));
    }
    Ok(Reply::Json(
        status,
        as_version((*done.object).clone(), place),
        warnings,
    ))
}

fn select(api: &Api, place: &Place, labels: &Labels, fields: &Fields) -> (Vec<Arc<Value>>, u64) {
    let (mut found, version) = api.store.list(&place.kind.key(), place.namespace.as_deref());
    found.retain(|o| labels.matches_object(o) && fields.matches(o));
    (found, version)
}

fn list_of(place: &Place, items: Vec<Value>, metadata: &Value) -> Value {
    json!({"kind": format!("{}List", place.kind.kind), "apiVersion": place.kind.api_version_as(&place.version),
        "metadata": metadata, "items": items})
}

fn list(api: &Arc<Api>, place: &Place, query: &Query, shape: Shape) -> Result<Reply, Refusal> {
    let (labels, fields) = query.selectors()?;
    if query.flag("watch") {
        return stream::start(api, place, query, (labels, fields), shape);
    }
    let limit = query
        .number("limit")?
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(0);
    let word = |key| query.get(key).unwrap_or_default();
    // A token is only good for the list that it was made for.
    let what = format!(
        "{} {} {} {}",
        place.kind.key(),
        place.namespace(),
        word("labelSelector"),
        word("fieldSelector")
    );
    let page = match word("continue") {
        "" => {
            let (found, version) = select(api, place, &labels, &fields);
            as_of(query, version)?;
            api.pages.first(&what, found, version, limit)
        }
        token => api.pages.next(&what, token, limit)?,
    };
    let items: Vec<Value> = page
        .objects
        .iter()
        .map(|o| as_version((**o).clone(), place))
        .collect();
    let mut metadata = json!({"resourceVersion": page.version.to_string()});
    if !page.next.is_empty() {
        metadata["continue"] = page.next.into();
        // With a selector nobody knows how many are left, says the API.
        if labels.is_empty() && word("fieldSelector").is_empty() {
            metadata["remainingItemCount"] = page.left.into();
        }
    }
    let list = list_of(place, items, &metadata);
    ok(table::shaped(api, &place.kind, &place.version, shape, list))
}

/// Whether a list of the present is what was asked for: `resourceVersion` and `resourceVersionMatch`.
fn as_of(query: &Query, now: u64) -> Result<(), Refusal> {
    let asked = match query.number("resourceVersion") {
        Ok(asked) => asked.unwrap_or(0),
        Err(_) => return Err(Refusal::bad_request("resourceVersion is not ours")),
    };
    if asked > now {
        let mut refusal = Refusal::new(
            StatusCode::GATEWAY_TIMEOUT,
            "Timeout",
            format!("Too large resource version: {asked}, current: {now}"),
        );
        refusal.details = json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1});
        return Err(refusal);
    }
    match query.get("resourceVersionMatch").unwrap_or_default() {
        "" | "NotOlderThan" => Ok(()),
        "Exact" if asked == now => Ok(()),
        "Exact" => Err(Refusal::expired()),
        other => Err(Refusal::bad_request(format!(
            "resourceVersionMatch: {other:?} is not supported"
        ))),
    }
}

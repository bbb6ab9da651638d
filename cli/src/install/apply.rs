//! Brings objects into force, and takes them away.
//!
//! Enters: objects, an API server. Leaves: what became of each. Never: an object that another tool made is changed or deleted.

use super::kinds::{KINDS, Kind, Where, path, title};
use super::plan::{made_by, selector};
use crate::api_server::{ApiServer, Refused, escaped};
use crate::render::{MANAGED_BY, Release};
use anyhow::{Context as _, bail};
use serde_json::Value;

/// Applies every object, in order; `say` is told what became of each.
pub async fn apply(
    api: &ApiServer,
    objects: &[Value],
    force: bool,
    say: &mut dyn FnMut(String),
) -> anyhow::Result<()> {
    for object in objects {
        let title = title(object);
        let path = path(object).with_context(|| format!("{title} has no place in the API"))?;
        let before = match api.get(&path).await {
            Ok(before) => Some(before),
            Err(Refused::Missing(_)) => None,
            Err(error) => bail!("{title} can't be read: {error}"),
        };
        if let Some(before) = &before {
            let ours = made_by(before) == MANAGED_BY;
            // A namespace may be there already, with other labels and other things in it: it stays its maker's.
            if object["kind"] == "Namespace" && !(ours && made_by(object) == MANAGED_BY) {
                say(format!("{title} is there"));
                continue;
            }
            if !ours {
                bail!("{}", somebody_elses(&title, before));
            }
        }
        let after = match api.apply(&path, object, force).await {
            Ok(after) => after,
            Err(Refused::Other(409, said)) if !force => bail!(
                "{title} can't be applied: {said}; take the fields back with --force-conflicts, or give them up there"
            ),
            Err(error) => bail!("{title} can't be applied: {error}"),
        };
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        say(match before {
            None => format!("{title} created"),
            Some(before) if version(&before) == version(&after) => format!("{title} unchanged"),
            Some(_) => format!("{title} changed"),
        });
    }
    Ok(())
}

fn somebody_elses(title: &str, object: &Value) -> String {
    let maker = made_by(object);
    match maker {
        "Helm" => format!("{title} was installed by Helm: use helm upgrade, or helm uninstall it first"),
        "" => {
            format!("{title} is there and was not installed by weft: delete it or rename it, and try again")
        }
        maker => format!("{title} is there and belongs to {maker}: remove that installation first"),
    }
}

/// Every object that `weft install` or `weft upgrade` made for `release`, in the order in which they are taken away.
pub async fn installed(api: &ApiServer, release: &Release) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for kind in &KINDS {
        all.extend(of_kind(api, release, kind).await?);
    }
    Ok(all)
}

/// Those of one kind.
async fn of_kind(api: &ApiServer, release: &Release, kind: &Kind) -> anyhow::Result<Vec<Value>> {
    let gateway = matches!(release, Release::Gateway(_));
    let mut places = vec![kind.list(release.namespace())];
    match kind.of_gateways() {
        None if gateway => return Ok(Vec::new()),
        Some(Where::Anywhere) if gateway && kind.namespaced => places.insert(0, kind.everywhere()),
        _ => {}
    }
    let selector = escaped(&selector(release));
    let last = places.len() - 1;
    for (index, place) in places.iter().enumerate() {
        match api.list(&format!("{place}?labelSelector={selector}")).await {
            Ok(list) => return Ok(list.into_iter().map(|object| typed(kind, object)).collect()),
            // A cluster without the Prometheus operator has no PodMonitor.
            Err(Refused::Missing(_)) => break,
            // Who may not look beyond the gateway's namespace has made nothing there.
            Err(Refused::Forbidden(_)) if gateway && (index < last || !kind.namespaced) => {}
            Err(error) => bail!("{} can't be listed: {error}", kind.plural),
        }
    }
    Ok(Vec::new())
}

/// Items of a list don't say what they are.
fn typed(kind: &Kind, mut object: Value) -> Value {
    object["apiVersion"] = kind.api_version.into();
    object["kind"] = kind.kind.into();
    object
}

/// Deletes objects, in order.
pub async fn delete(api: &ApiServer, objects: &[Value], say: &mut dyn FnMut(String)) -> anyhow::Result<()> {
    for object in objects {
        let title = title(object);
        let path = path(object).with_context(|| format!("{title} has no place in the API"))?;
        match api.delete(&path).await {
            Ok(()) => say(format!("{title} deleted")),
            Err(Refused::Missing(_)) => {}
            Err(error) => bail!("{title} can't be deleted: {error}"),
        }
    }
    Ok(())
}

/// Those of `there` that `wanted` doesn't have.
pub fn superfluous(there: Vec<Value>, wanted: &[Value]) -> Vec<Value> {
    let wanted: Vec<Option<String>> = wanted.iter().map(path).collect();
    there
        .into_iter()
        .filter(|object| object["kind"] != "Namespace" && !wanted.contains(&path(object)))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api_server::fake::api_server;
    use serde_json::json;
    use std::sync::{Arc, Mutex};

    use super::super::plan::MANAGED_BY_LABEL;

    fn service(labels: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "weft-system", "name": "a", "labels": labels, "resourceVersion": "1"}})
    }

    async fn applied(before: Option<Value>) -> Result<Vec<String>, String> {
        let api = api_server(move |asked| match (asked.what.split(' ').next(), &before) {
            (Some("GET"), Some(before)) => (200, before.clone()),
            (Some("GET"), None) => (404, json!({})),
            _ => (200, json!({"metadata": {"resourceVersion": "2"}})),
        });
        let mut said = Vec::new();
        let done = apply(
            &api,
            &[service(json!({MANAGED_BY_LABEL: "weft"}))],
            false,
            &mut |line| said.push(line),
        )
        .await;
        done.map(|()| said).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn what_is_somebody_elses_is_left_alone() {
        assert_eq!(applied(None).await.unwrap(), ["service/a created"]);
        let ours = service(json!({MANAGED_BY_LABEL: "weft"}));
        assert_eq!(applied(Some(ours)).await.unwrap(), ["service/a changed"]);
        let helm = service(json!({MANAGED_BY_LABEL: "Helm"}));
        assert!(
            applied(Some(helm))
                .await
                .unwrap_err()
                .contains("installed by Helm: use helm upgrade")
        );
        assert!(
            applied(Some(service(json!({}))))
                .await
                .unwrap_err()
                .contains("was not installed by weft")
        );
    }

    #[tokio::test]
    async fn webhooks_go_first_and_names_are_those_of_the_label() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        let api = api_server(move |asked| {
            seen.lock().unwrap().push(asked.clone());
            match asked.what.as_str() {
                "GET /apis/monitoring.coreos.com/v1/namespaces/weft-system/podmonitors" => (404, json!({})),
                what if what.ends_with("mutatingwebhookconfigurations") => {
                    (200, json!({"items": [{"metadata": {"name": "weft-injector"}}]}))
                }
                what if what.ends_with("/services") => (
                    200,
                    json!({"items": [{"metadata": {"namespace": "weft-system", "name": "s"}}]}),
                ),
                _ => (200, json!({"items": []})),
            }
        });
        let found = installed(&api, &Release::Mesh).await.unwrap();
        let titles: Vec<String> = found.iter().map(title).collect();
        assert_eq!(
            titles,
            ["mutatingwebhookconfiguration/weft-injector", "service/s"]
        );
        assert!(asked.lock().unwrap().iter().all(|asked| {
            asked
                .query
                .contains("app.kubernetes.io%2Fpart-of%3Dweft%2Capp.kubernetes.io%2Fmanaged-by%3Dweft")
        }));
        delete(&api, &found, &mut |_| {}).await.unwrap();
        let deleted: Vec<String> = asked
            .lock()
            .unwrap()
            .iter()
            .map(|asked| asked.what.clone())
            .filter(|what| what.starts_with("DELETE"))
            .collect();
        assert_eq!(
            deleted,
            [
                "DELETE /apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weft-injector",
                "DELETE /api/v1/namespaces/weft-system/services/s",
            ]
        );
        let kept = superfluous(found, &[service(json!({}))]);
        assert_eq!(kept.len(), 2);
    }
}

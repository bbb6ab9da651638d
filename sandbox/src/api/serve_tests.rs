use http::Method;
use serde_json::json;

use super::answer::Asked;
use super::*;

async fn ask(api: &Arc<Api>, method: Method, path: &str, body: Value) -> Result<Reply, Refusal> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let target = route::target(&api.kinds, path)?;
    let content = if method == Method::PATCH {
        "application/merge-patch+json"
    } else {
        "application/json"
    }
    .to_owned();
    let asked = Asked {
        method,
        path: path.to_owned(),
        query: route::Query::parse(query)?,
        content,
        accept: String::new(),
        agent: String::new(),
        body: if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        },
        who: Caller::Admin,
    };
    answer::to(api, target, asked).await
}

async fn json_of(api: &Arc<Api>, method: Method, path: &str, body: Value) -> (u16, Value) {
    match ask(api, method, path, body).await {
        Ok(Reply::Json(status, value, _)) => (status.as_u16(), value),
        Ok(_) => panic!("not JSON"),
        Err(refusal) => (refusal.code.as_u16(), refusal.to_status()),
    }
}

async fn api() -> Arc<Api> {
    let api = Api::new("/nonexistent".into()).unwrap();
    let (status, _) = json_of(
        &api,
        Method::POST,
        "/api/v1/namespaces",
        json!({"metadata": {"name": "a"}}),
    )
    .await;
    assert_eq!(status, 201);
    api
}

#[tokio::test]
async fn the_verbs_over_http() {
    let api = api().await;
    let map = json!({"metadata": {"name": "c", "labels": {"x": "1"}}, "data": {"k": "v"}});
    let at = "/api/v1/namespaces/a/configmaps";
    assert_eq!(json_of(&api, Method::POST, at, map.clone()).await.0, 201);
    assert_eq!(json_of(&api, Method::POST, at, map.clone()).await.0, 409);
    let (_, list) = json_of(
        &api,
        Method::GET,
        "/api/v1/configmaps?labelSelector=x%3D1",
        Value::Null,
    )
    .await;
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    let one = format!("{at}/c");
    let (status, patched) = json_of(&api, Method::PATCH, &one, json!({"data": {"k": null, "n": "w"}})).await;
    assert_eq!((status, &patched["data"]), (200, &json!({"n": "w"})));
    assert_eq!(json_of(&api, Method::PUT, &one, map).await.0, 200);
    assert_eq!(json_of(&api, Method::DELETE, &one, Value::Null).await.0, 200);
    assert_eq!(json_of(&api, Method::GET, &one, Value::Null).await.0, 404);
    assert_eq!(json_of(&api, Method::POST, &one, json!({})).await.0, 405);
    assert_eq!(
        json_of(&api, Method::POST, "/api/v1/configmaps", json!({}))
            .await
            .0,
        405
    );
    assert_eq!(
        json_of(
            &api,
            Method::POST,
            "/api/v1/namespaces/none/configmaps",
            json!({"metadata": {"name": "c"}})
        )
        .await
        .0,
        404
    );
    assert_eq!(json_of(&api, Method::POST, at, json!([1])).await.0, 400);
    let strict = "/api/v1/namespaces/a/services?fieldValidation=Strict";
    let odd = json!({"metadata": {"name": "s"}, "spec": {"prots": [{"port": 1}]}});
    assert_eq!(json_of(&api, Method::POST, strict, odd).await.0, 400);
}

#[tokio::test]
async fn versions_of_a_kind_are_one() {
    let api = api().await;
    let grant = json!({"metadata": {"name": "g"}, "spec": {}});
    let old = "/apis/gateway.networking.k8s.io/v1beta1/namespaces/a/referencegrants";
    assert_eq!(
        json_of(&api, Method::POST, old, grant).await.1["apiVersion"],
        "gateway.networking.k8s.io/v1beta1"
    );
    let (_, list) = json_of(
        &api,
        Method::GET,
        "/apis/gateway.networking.k8s.io/v1/referencegrants",
        Value::Null,
    )
    .await;
    assert_eq!(list["items"][0]["apiVersion"], "gateway.networking.k8s.io/v1");
}

async fn next(lines: &mut tokio::sync::mpsc::Receiver<Bytes>) -> (String, Value) {
    let line: Value = serde_json::from_slice(&lines.recv().await.unwrap()).unwrap();
    (line["type"].as_str().unwrap().to_owned(), line["object"].clone())
}

#[tokio::test]
async fn watches_select_and_expire() {
    let api = api().await;
    let at = "/api/v1/namespaces/a/configmaps";
    let Ok(Reply::Stream(mut lines, _)) = ask(
        &api,
        Method::GET,
        &format!("{at}?watch=1&labelSelector=x&sendInitialEvents=true&allowWatchBookmarks=true"),
        Value::Null,
    )
    .await
    else {
        panic!("no watch")
    };
    let (kind, bookmark) = next(&mut lines).await;
    assert_eq!(kind, "BOOKMARK");
    assert_eq!(
        bookmark.pointer("/metadata/annotations/k8s.io~1initial-events-end"),
        Some(&json!("true"))
    );
    json_of(&api, Method::POST, at, json!({"metadata": {"name": "other"}})).await;
    json_of(
        &api,
        Method::POST,
        at,
        json!({"metadata": {"name": "c", "labels": {"x": ""}}}),
    )
    .await;
    assert_eq!(next(&mut lines).await.0, "ADDED");
    json_of(
        &api,
        Method::PATCH,
        &format!("{at}/c"),
        json!({"metadata": {"labels": {"x": null}}}),
    )
    .await;
    assert_eq!(next(&mut lines).await.0, "DELETED", "it left the selection");
    json_of(
        &api,
        Method::PATCH,
        &format!("{at}/c"),
        json!({"metadata": {"labels": {"x": "2"}}}),
    )
    .await;
    assert_eq!(next(&mut lines).await.0, "ADDED");
    json_of(&api, Method::DELETE, &format!("{at}/c"), Value::Null).await;
    assert_eq!(next(&mut lines).await.0, "DELETED");
    let Ok(Reply::Stream(mut lines, _)) = ask(
        &api,
        Method::GET,
        "/api/v1/pods?watch=1&resourceVersion=999999",
        Value::Null,
    )
    .await
    else {
        panic!("no watch")
    };
    let (kind, status) = next(&mut lines).await;
    assert_eq!((kind.as_str(), &status["code"]), ("ERROR", &json!(410)));
}

#[tokio::test]
async fn tokens_are_issued_and_reviewed() {
    let api = api().await;
    json_of(
        &api,
        Method::POST,
        "/api/v1/namespaces/a/serviceaccounts",
        json!({"metadata": {"name": "web"}}),
    )
    .await;
    let request = json!({"spec": {"audiences": ["weft-ca"], "expirationSeconds": 600}});
    let at = "/api/v1/namespaces/a/serviceaccounts/web/token";
    let (status, answer) = json_of(&api, Method::POST, at, request).await;
    assert_eq!(status, 201);
    let token = answer["status"]["token"].as_str().unwrap();
    let review = json!({"spec": {"token": token, "audiences": ["weft-ca"]}});
    let (_, review) = json_of(
        &api,
        Method::POST,
        "/apis/authentication.k8s.io/v1/tokenreviews",
        review,
    )
    .await;
    assert_eq!(
        review["status"]["user"]["username"],
        "system:serviceaccount:a:web"
    );
    let short = json!({"spec": {"expirationSeconds": 5}});
    assert_eq!(json_of(&api, Method::POST, at, short).await.0, 422);
}

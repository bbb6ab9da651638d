//! Mutating admission: webhooks see a new object before it is stored.
//!
//! In: a new object. Out: the object as the webhooks want it, and their warnings. Never: a new object let through
//! because a webhook with `failurePolicy: Fail` could not be asked. Only CREATE is reviewed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};

use super::kinds::Kind;
use super::refusal::Refusal;
use super::selector::Labels;
use super::tokens::Caller;
use super::{Api, object};

/// Label of an EndpointSlice: the Service that it belongs to.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Largest answer of a webhook, bytes.
const MAX_ANSWER: usize = 3 << 20;
/// Most warnings kept from one webhook, and the longest of them.
const MAX_WARNINGS: (usize, usize) = (20, 512);

/// Asks every webhook that matches, in order of configuration and entry; asks once more those that want it when a
/// later one changed the object.
///
/// # Errors
/// A webhook's denial, or its failure where its policy is `Fail`.
pub async fn call(
    api: &Api,
    kind: &Kind,
    namespace: &str,
    object: &mut Value,
    who: &Caller,
) -> Result<Vec<String>, Refusal> {
    let configurations = api
        .store
        .list("mutatingwebhookconfigurations.admissionregistration.k8s.io", None)
        .0;
    let mut webhooks = Vec::new();
    for configuration in &configurations {
        for webhook in object::list(configuration, "/webhooks") {
            if matches(api, webhook, kind, namespace, object)? {
                webhooks.push(webhook);
            }
        }
    }
    let mut warnings = Vec::new();
    // What the object was right after each webhook had its say.
    let mut after = Vec::with_capacity(webhooks.len());
    for webhook in &webhooks {
        warnings.extend(one(api, webhook, kind, namespace, object, who).await?);
        after.push(object.clone());
    }
    for (webhook, said) in webhooks.iter().zip(after) {
        if webhook["reinvocationPolicy"] == "IfNeeded" && said != *object {
            warnings.extend(one(api, webhook, kind, namespace, object, who).await?);
        }
    }
    Ok(warnings)
}

fn matches(
    api: &Api,
    webhook: &Value,
    kind: &Kind,
    namespace: &str,
    object: &Value,
) -> Result<bool, Refusal> {
    let has =
        |rule: &Value, list: &str, word: &str| object::list(rule, list).iter().any(|v| v == "*" || v == word);
    let ruled = object::list(webhook, "/rules").iter().any(|rule| {
        let scope = rule["scope"].as_str().unwrap_or("*");
        has(rule, "/operations", "CREATE")
            && has(rule, "/apiGroups", &kind.group)
            && kind.versions.iter().any(|v| has(rule, "/apiVersions", v))
            && has(rule, "/resources", &kind.plural)
            && (scope == "*" || (scope == "Namespaced") == kind.namespaced)
    });
    if !ruled {
        return Ok(false);
    }
    let read = |selector: &str| {
        Labels::from_object(&webhook[selector])
            .map_err(|why| Refusal::internal(format!("webhook {}: {selector}: {why}", webhook["name"])))
    };
    if !read("objectSelector")?.matches_object(object) {
        return Ok(false);
    }
    let by_namespace = read("namespaceSelector")?;
    if kind.namespaced {
        let labels = api.store.get("namespaces", "", namespace);
        return Ok(by_namespace.matches(labels.as_deref().and_then(object::labels)));
    }
    Ok(kind.key() != "namespaces" || by_namespace.matches_object(object))
}

/// Asks one webhook; its failure is a refusal or a warning, as its policy says.
async fn one(
    api: &Api,
    webhook: &Value,
    kind: &Kind,
    namespace: &str,
    object: &mut Value,
    who: &Caller,
) -> Result<Vec<String>, Refusal> {
    let name = webhook["name"].as_str().unwrap_or("?").to_owned();
    let review = request(kind, namespace, object, who);
    let uid = review["request"]["uid"].as_str().unwrap_or_default().to_owned();
    let seconds = object::number(webhook, "/timeoutSeconds")
        .unwrap_or(10)
        .clamp(1, 30);
    let limit = Duration::from_secs(seconds.unsigned_abs());
    let asked = match tokio::time::timeout(limit, ask(api, webhook, &review, seconds)).await {
        Ok(answer) => answer.and_then(|answer| read(&answer, &uid)),
        Err(_) => Err(format!("no answer within {seconds} s")),
    };
    let outcome = match asked {
        Ok(Verdict::Denied(code, message)) => {
            return Err(Refusal::new(
                http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::FORBIDDEN),
                "Forbidden",
                format!("admission webhook {name:?} denied the request: {message}"),
            ));
        }
        Ok(Verdict::Allowed(patch, warnings)) => {
            let mut changed = object.clone();
            match json_patch::patch(&mut changed, &patch) {
                Ok(()) => {
                    *object = changed;
                    return Ok(warnings);
                }
                Err(e) => Err(format!("its patch does not fit the object: {e}")),
            }
        }
        Err(why) => Err(why),
    };
    match outcome {
        Err(why) if webhook["failurePolicy"] == "Ignore" => {
            Ok(vec![format!("webhook {name} was skipped: {why}")])
        }
        Err(why) => Err(Refusal::internal(format!(
            "failed calling webhook {name:?}: {why}"
        ))),
        Ok(warnings) => Ok(warnings),
    }
}

fn request(kind: &Kind, namespace: &str, object: &Value, who: &Caller) -> Value {
    let version = kind.versions.first().map_or("v1", String::as_str);
    let gvk = json!({"group": kind.group, "version": version, "kind": kind.kind});
    let gvr = json!({"group": kind.group, "version": version, "resource": kind.plural});
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": object::new_uid(), "kind": gvk, "resource": gvr, "requestKind": gvk, "requestResource": gvr,
            "name": object::name(object), "namespace": namespace, "operation": "CREATE", "userInfo": who.to_user(),
            "object": object, "oldObject": null, "dryRun": false,
            "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
        },
    })
}

enum Verdict {
    Allowed(json_patch::Patch, Vec<String>),
    Denied(u16, String),
}

/// Reads an AdmissionReview's answer as strictly as an API server does.
fn read(answer: &[u8], uid: &str) -> Result<Verdict, String> {
    let answer: Value = serde_json::from_slice(answer).map_err(|e| format!("its answer is not JSON: {e}"))?;
    if answer["apiVersion"] != "admission.k8s.io/v1" || answer["kind"] != "AdmissionReview" {
        return Err("its answer is not an admission.k8s.io/v1 AdmissionReview".to_owned());
    }
    let response = &answer["response"];
    if response["uid"] != uid {
        return Err("its answer is for another request (response.uid)".to_owned());
    }
    let Some(allowed) = response["allowed"].as_bool() else {
        return Err("its answer has no response.allowed".to_owned());
    };
    if !allowed {
        let code = response
            .pointer("/status/code")
            .and_then(Value::as_u64)
            .and_then(|c| u16::try_from(c).ok());
        let message = object::string(response, "/status/message").unwrap_or("without explanation");
        return Ok(Verdict::Denied(code.unwrap_or(403), message.to_owned()));
    }
    let patch = match response["patch"].as_str() {
        None => json_patch::Patch(Vec::new()),
        Some(_) if response["patchType"] != "JSONPatch" => {
            return Err("response.patchType is not JSONPatch".to_owned());
        }
        Some(text) => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(text);
            let decoded = decoded.map_err(|e| format!("response.patch is not base64: {e}"))?;
            serde_json::from_slice(&decoded)
                .map_err(|e| format!("response.patch is not a JSON patch: {e}"))?
        }
    };
    let warnings = object::list(response, "/warnings")
        .iter()
        .filter_map(Value::as_str)
        .take(MAX_WARNINGS.0)
        .map(|w| w.chars().take(MAX_WARNINGS.1).collect())
        .collect();
    Ok(Verdict::Allowed(patch, warnings))
}

/// Where a webhook is.
struct Target {
    address: SocketAddr,
    host: String,
    path: String,
}

/// Sends the review over HTTPS and returns the answer's body.
async fn ask(api: &Api, webhook: &Value, review: &Value, seconds: i64) -> Result<Bytes, String> {
    let target = locate(api, &webhook["clientConfig"])?;
    let bundle = object::string(webhook, "/clientConfig/caBundle").unwrap_or_default();
    let bundle = base64::engine::general_purpose::STANDARD
        .decode(bundle)
        .map_err(|e| format!("caBundle: {e}"))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bundle) {
        let certificate = certificate.map_err(|e| format!("caBundle: {e}"))?;
        roots.add(certificate).map_err(|e| format!("caBundle: {e}"))?;
    }
    if roots.is_empty() {
        return Err("caBundle has no certificate".to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let server =
        ServerName::try_from(target.host.clone()).map_err(|_| format!("{:?} is not a name", target.host))?;
    let stream = tokio::net::TcpStream::connect(target.address)
        .await
        .map_err(|e| format!("dial {} ({}): {e}", target.host, target.address))?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(server, stream)
        .await
        .map_err(|e| format!("TLS with {}: {e}", target.host))?;
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| format!("HTTP with {}: {e}", target.host))?;
    let driver = tokio::spawn(connection);
    let request = http::Request::post(format!("{}?timeout={seconds}s", target.path))
        .header("host", &target.host)
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .body(Full::new(Bytes::from(review.to_string())))
        .map_err(|e| e.to_string())?;
    let answer = async {
        let response = send.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|e| e.to_string())?;
        if status.is_success() {
            Ok(body.to_bytes())
        } else {
            Err(format!("{} answered {status}", target.host))
        }
    }
    .await;
    driver.abort();
    answer
}

fn locate(api: &Api, client: &Value) -> Result<Target, String> {
    if let Some(url) = client["url"].as_str() {
        let url: http::Uri = url.parse().map_err(|e| format!("url: {e}"))?;
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let address: IpAddr = host
            .parse()
            .map_err(|_| format!("url: {host:?} is not an IP address"))?;
        if url.scheme_str() != Some("https") {
            return Err("url: is not https".to_owned());
        }
        let address = SocketAddr::new(address, url.port_u16().unwrap_or(443));
        return Ok(Target {
            address,
            host,
            path: url.path().to_owned(),
        });
    }
    let service = &client["service"];
    let (namespace, name) = (
        service["namespace"].as_str().unwrap_or("default"),
        service["name"].as_str().unwrap_or(""),
    );
    let port = service["port"].as_u64().unwrap_or(443);
    let address = endpoint(api, namespace, name, port)?;
    let path = service["path"]
        .as_str()
        .filter(|p| p.starts_with('/'))
        .unwrap_or("/")
        .to_owned();
    Ok(Target {
        address,
        host: format!("{name}.{namespace}.svc"),
        path,
    })
}

/// The address of a ready pod behind a port of a Service.
///
/// # Errors
/// A sentence: no such service, port, or ready endpoint.
pub fn endpoint(api: &Api, namespace: &str, name: &str, port: u64) -> Result<SocketAddr, String> {
    let service = api
        .store
        .get("services", namespace, name)
        .ok_or_else(|| format!("service {namespace}/{name} does not exist"))?;
    let entry = object::list(&service, "/spec/ports")
        .iter()
        .find(|p| p["port"].as_u64() == Some(port))
        .ok_or_else(|| format!("service {namespace}/{name} has no port {port}"))?;
    let wanted = entry["name"].as_str().unwrap_or_default();
    let mut ready = Vec::new();
    for slice in api
        .store
        .list("endpointslices.discovery.k8s.io", Some(namespace))
        .0
    {
        if object::label(&slice, SERVICE_LABEL) != Some(name) {
            continue;
        }
        let port = object::list(&slice, "/ports")
            .iter()
            .find(|p| p["name"].as_str().unwrap_or_default() == wanted)
            .and_then(|p| u16::try_from(p["port"].as_u64()?).ok());
        let Some(port) = port else { continue };
        for endpoint in object::list(&slice, "/endpoints") {
            if endpoint["conditions"]["ready"] == true
                && let Some(address) = endpoint["addresses"][0].as_str().and_then(|a| a.parse().ok())
            {
                ready.push(SocketAddr::new(address, port));
            }
        }
    }
    ready.sort_by_key(SocketAddr::is_ipv6);
    let v4 = ready
        .iter()
        .filter(|a| a.is_ipv4())
        .count()
        .max(usize::from(!ready.is_empty()));
    if v4 == 0 {
        return Err(format!("no endpoints available for service {namespace}/{name}"));
    }
    Ok(ready[rand::random_range(0..v4)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_strictly() {
        let answer = |response: Value| {
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
                .to_string()
        };
        let patch =
            base64::engine::general_purpose::STANDARD.encode(r#"[{"op":"add","path":"/a","value":1}]"#);
        let good = answer(
            json!({"uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": patch, "warnings": ["w"]}),
        );
        assert!(
            matches!(read(good.as_bytes(), "u"), Ok(Verdict::Allowed(p, w)) if p.0.len() == 1 && w == ["w"])
        );
        assert!(read(good.as_bytes(), "other").is_err());
        let denied = answer(json!({"uid": "u", "allowed": false, "status": {"code": 400, "message": "no"}}));
        assert!(matches!(read(denied.as_bytes(), "u"), Ok(Verdict::Denied(400, m)) if m == "no"));
        for bad in [
            json!({"uid": "u"}),
            json!({"uid": "u", "allowed": true, "patch": patch}),
            json!({"uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": "%"}),
        ] {
            assert!(read(answer(bad).as_bytes(), "u").is_err());
        }
        assert!(read(b"{}", "u").is_err());
    }

    #[tokio::test]
    async fn a_dead_webhook_lets_nothing_through() {
        let api = Api::new("/nonexistent".into()).unwrap();
        let hook = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "w"}, "webhooks": [{"name": "w.dev", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "clientConfig": {"service": {"namespace": "a", "name": "b"}},
            "namespaceSelector": {"matchLabels": {"inject": "yes"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]});
        api.apply(hook, "").await.unwrap();
        for (name, inject) in [("in", "yes"), ("out", "no")] {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"inject": inject}}});
            api.apply(namespace, "").await.unwrap();
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}});
            api.apply(account, "").await.unwrap();
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": name},
                "spec": {"containers": [{"name": "a", "image": "x"}]}});
            let made = api.apply(pod, "").await;
            match inject {
                "yes" => assert!(
                    made.unwrap_err()
                        .message
                        .contains("failed calling webhook \"w.dev\"")
                ),
                _ => assert!(made.is_ok()),
            }
        }
    }
}

//! Secrets that are referred to, and no others: they come, change, are spoilt, may not be read, and go.

use super::*;
use crate::mesh::TlsSecret;
use crate::mesh::gateway::SecretProblem;

fn gateway(secret: &str) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"namespace": "edge", "name": "public", "generation": 1},
        "spec": {"gatewayClassName": "weft", "listeners": [{"name": "https", "port": 443, "protocol": "HTTPS",
            "tls": {"certificateRefs": [{"name": secret}]}}]}})
}

fn secret(name: &str) -> Value {
    let made = rcgen::generate_simple_self_signed(vec!["shop.test".to_owned()]).unwrap();
    let encode = |text: String| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text);
    json!({"metadata": {"namespace": "edge", "name": name}, "type": "kubernetes.io/tls",
        "data": {"tls.crt": encode(made.cert.pem()), "tls.key": encode(made.signing_key.serialize_pem())}})
}

fn start(cluster: &Cluster) -> Started {
    let (store, meshes) = Store::new(Settings::new(TrustDomain::new("cluster.local").unwrap()));
    let (changes, taken) = mpsc::channel(16);
    let told = Told::default();
    let (missing, routes) = (told.missing.subscribe(), told.routes.clone());
    tokio::spawn(store.run(taken));
    tokio::spawn(crate::ingest::kube::secrets::run(
        cluster.client(),
        meshes.clone(),
        changes.clone(),
    ));
    tokio::spawn(run(cluster.client(), changes, told));
    Started {
        meshes,
        missing,
        routes,
    }
}

fn found<'a>(mesh: &'a Mesh, name: &str) -> Option<&'a TlsSecret> {
    mesh.tls_secrets
        .get(&ServiceName::new("edge", name))
        .map(|secret| &**secret)
}

#[tokio::test(start_paused = true)]
async fn secrets_are_read_while_something_refers_to_them() {
    let cluster = Cluster::new(Streaming::Served);
    cluster.serve("gateway.networking.k8s.io/v1", &["gateways"]);
    cluster.put("gateways", gateway("one"));
    // Nobody refers to it; asking for all of them would be refused.
    cluster.put("secrets edge/other", secret("other"));
    let mut started = start(&cluster);
    let problem = |mesh: &Mesh, name: &str| found(mesh, name).and_then(|secret| secret.problem.clone());
    started
        .until(|mesh| problem(mesh, "one") == Some(SecretProblem::Missing))
        .await;
    cluster.put("secrets edge/one", secret("one"));
    let good = |mesh: &Mesh, name: &str| {
        found(mesh, name).is_some_and(|secret| secret.certificate.is_some() && secret.problem.is_none())
    };
    let mesh = started.until(|mesh| good(mesh, "one")).await;
    let first = found(&mesh, "one").unwrap().certificate.clone();
    cluster.put("secrets edge/one", secret("one"));
    let mesh = started
        .until(|mesh| good(mesh, "one") && found(mesh, "one").unwrap().certificate != first)
        .await;
    let second = found(&mesh, "one").unwrap().certificate.clone();

    // What is spoilt, or may not be read any more, is served as it was.
    let mut spoilt = secret("one");
    spoilt["data"]["tls.key"] = json!("AAAA");
    cluster.put("secrets edge/one", spoilt);
    let mesh = started
        .until(|mesh| matches!(problem(mesh, "one"), Some(SecretProblem::Broken(_))))
        .await;
    assert_eq!(found(&mesh, "one").unwrap().certificate, second);
    cluster.forbid("secrets edge/one", true);
    cluster.forget();
    let mesh = started
        .until(|mesh| problem(mesh, "one") == Some(SecretProblem::Forbidden))
        .await;
    assert_eq!(found(&mesh, "one").unwrap().certificate, second);
    cluster.forbid("secrets edge/one", false);
    cluster.put("secrets edge/one", secret("one"));
    started.until(|mesh| good(mesh, "one")).await;

    // Another one, and none.
    cluster.put("secrets edge/two", secret("two"));
    cluster.put("gateways", gateway("two"));
    let mesh = started
        .until(|mesh| good(mesh, "two") && found(mesh, "one").is_none())
        .await;
    assert_eq!(mesh.tls_secrets.len(), 1);
    cluster.remove("secrets edge/two", "edge/two");
    started
        .until(|mesh| problem(mesh, "two") == Some(SecretProblem::Missing))
        .await;
    cluster.remove("gateways", "edge/public");
    started.until(|mesh| mesh.tls_secrets.is_empty()).await;
}

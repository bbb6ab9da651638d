//! What an API server says to an installation: the sandbox's always, a real one where `KUBEBUILDER_ASSETS` names a folder with
//! `etcd` and `kube-apiserver`.
//!
//! Enters: the real `weft`. Leaves: an API server as it was. Never: a cluster that somebody else uses.

use crate::process::{Process, free, until};
use crate::{binary, text};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tokio::net::TcpListener;
use weft_sandbox::api::{Api, serve};

/// The sandbox's API, and a kubeconfig for it.
async fn sandbox(folder: &Path) -> PathBuf {
    use base64::Engine as _;
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let api = Api::new(folder.join("logs")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(serve::run(Arc::clone(&api), listener, serve::tls(&api).unwrap()));
    let ca = base64::engine::general_purpose::STANDARD.encode(api.authority.certificate());
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "s",
        "clusters": [{"name": "s", "cluster": {"server": format!("https://localhost:{port}"), "certificate-authority-data": ca}}],
        "users": [{"name": "s", "user": {"token": api.tokens.admin()}}],
        "contexts": [{"name": "s", "context": {"cluster": "s", "user": "s"}}]});
    let file = folder.join("kubeconfig");
    std::fs::write(&file, config.to_string()).unwrap();
    file
}

async fn weft_on(kubeconfig: &Path, arguments: &[&str]) -> (bool, String) {
    let output = tokio::process::Command::new(binary::weft())
        .arg(arguments[0])
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(&arguments[1..])
        .output()
        .await
        .unwrap();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    (output.status.success(), said)
}

/// A real API server with its store, from a folder as envtest has it, and a kubeconfig for it.
async fn real(assets: &Path, folder: &Path) -> (Vec<Process>, PathBuf) {
    let [api, store, peers] = free().await;
    let keys = rcgen::KeyPair::generate().unwrap();
    let file = |name: &str, content: String| {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let private = file("accounts.key", keys.serialize_pem());
    let public = file("accounts.pub", keys.public_key_pem());
    let tokens = file(
        "tokens.csv",
        "admin-of-this-test,admin,admin,system:masters\n".to_owned(),
    );
    let etcd = Process::start(
        "etcd",
        folder,
        Command::new(assets.join("etcd")).args([
            format!("--data-dir={}", folder.join("etcd").display()),
            format!("--listen-client-urls=http://{store}"),
            format!("--advertise-client-urls=http://{store}"),
            format!("--listen-peer-urls=http://{peers}"),
            "--unsafe-no-fsync".to_owned(),
        ]),
    );
    let server = Process::start(
        "kube-apiserver",
        folder,
        Command::new(assets.join("kube-apiserver")).args([
            format!("--etcd-servers=http://{store}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--secure-port={}", api.port()),
            format!("--cert-dir={}", folder.join("certificates").display()),
            format!("--token-auth-file={tokens}"),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-key-file={public}"),
            format!("--service-account-signing-key-file={private}"),
            "--authorization-mode=RBAC".to_owned(),
        ]),
    );
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "r",
        "clusters": [{"name": "r", "cluster": {"server": format!("https://{api}"), "insecure-skip-tls-verify": true}}],
        "users": [{"name": "r", "user": {"token": "admin-of-this-test"}}],
        "contexts": [{"name": "r", "context": {"cluster": "r", "user": "r"}}]});
    let kubeconfig = PathBuf::from(file("kubeconfig", config.to_string()));
    until("the API server lets Weft be installed", || async {
        weft_on(&kubeconfig, &["check", "--pre"]).await.0
    })
    .await;
    (vec![server, etcd], kubeconfig)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_takes_it_changes_it_and_is_rid_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = sandbox(folder.path()).await;
    installed_and_removed(&kubeconfig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_api_server_takes_it_changes_it_and_is_rid_of_it() {
    let Some(assets) = std::env::var_os("KUBEBUILDER_ASSETS") else {
        println!(
            "not run on a real API server: KUBEBUILDER_ASSETS names no folder with etcd and kube-apiserver"
        );
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (programs, kubeconfig) = real(Path::new(&assets), folder.path()).await;
    installed_and_removed(&kubeconfig).await;
    drop(programs);
}

async fn installed_and_removed(kubeconfig: &Path) {
    let (ok, said) = weft_on(kubeconfig, &["upgrade"]).await;
    assert!(!ok && said.contains("use weft install"), "{said}");
    let install = [
        "install",
        "--no-wait",
        "--skip-checks",
        "--set",
        "controlPlane.replicas=3",
    ];
    let (ok, said) = weft_on(kubeconfig, &install).await;
    assert!(ok, "{said}");
    for line in [
        "namespace/weft-system created",
        "deployment/weft-control-plane created",
        "mutatingwebhookconfiguration/weft-injector created",
    ] {
        assert!(said.contains(line), "{line} is missing:\n{said}");
    }
    let (ok, said) = weft_on(kubeconfig, &install).await;
    assert!(!ok && said.contains("installed already"), "{said}");

    // The values of the installation stay; what is no longer part of it goes.
    let upgrade = [
        "upgrade",
        "--no-wait",
        "--skip-checks",
        "--set",
        "networkPolicy.enabled=false",
    ];
    let (ok, said) = weft_on(kubeconfig, &upgrade).await;
    assert!(ok, "{said}");
    assert!(said.contains("networkpolicy/weft-injector deleted"), "{said}");
    assert!(said.contains("deployment/weft-control-plane unchanged"), "{said}");

    a_gateway_comes_and_changes(kubeconfig).await;

    // Nothing runs here, and that is what a check says.
    let (ok, said) = weft_on(kubeconfig, &["check", "--output", "json"]).await;
    assert!(!ok);
    let report: Value = serde_json::from_str(said.trim()).unwrap_or_else(|error| panic!("{error}: {said}"));
    let errors = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["level"] == "error");
    let errors: Vec<&str> = errors.filter_map(|finding| finding["check"].as_str()).collect();
    for part in ["control-plane", "webhook", "gateways"] {
        assert!(errors.contains(&part), "{part}: {said}");
    }

    let (ok, said) = weft_on(kubeconfig, &["uninstall"]).await;
    assert!(ok && said.contains("Nothing was removed"), "{said}");
    let (ok, said) = weft_on(kubeconfig, &["uninstall", "--yes", "--purge"]).await;
    assert!(ok, "{said}");
    let place = |line: &str| {
        said.find(line)
            .unwrap_or_else(|| panic!("{line} is missing:\n{said}"))
    };
    assert!(
        place("mutatingwebhookconfiguration/weft-injector deleted")
            < place("deployment/weft-injector deleted")
    );
    assert!(place("deployment/weft-injector deleted") < place("clusterrole/weft-injector deleted"));
    place("namespace/weft-system deleted");
    place("gateways are left, and serve what they know until their certificates expire: edge/public");
    let (ok, said) = weft_on(kubeconfig, &["uninstall", "--yes"]).await;
    assert!(!ok && said.contains("there is no installation"), "{said}");
    a_gateway_goes(kubeconfig).await;
}

const GATEWAY: [&str; 4] = ["--gateway", "edge/public", "--no-wait", "--skip-checks"];

async fn a_gateway_comes_and_changes(kubeconfig: &Path) {
    let set = ["--set", r#"tls.namespaces=["weft-system"]"#];
    let install = [&["install"], &GATEWAY[..], &set].concat();
    let (ok, said) = weft_on(kubeconfig, &[&["upgrade"], &GATEWAY[..]].concat()).await;
    assert!(!ok && said.contains("use weft install"), "{said}");
    let (ok, said) = weft_on(kubeconfig, &install).await;
    assert!(ok, "{said}");
    for line in [
        "namespace/edge created",
        "deployment/public created",
        "service/public created",
        "serviceaccount/public created",
    ] {
        assert!(said.contains(line), "{line} is missing:\n{said}");
    }
    // One where the gateway is, one where it is told.
    let role = "role/weft-gateway:edge:public";
    assert_eq!(said.matches(&format!("\n{role} created")).count(), 2, "{said}");
    let (ok, said) = weft_on(kubeconfig, &install).await;
    assert!(
        !ok && said.contains("gateway edge/public is installed already"),
        "{said}"
    );

    let set = ["--set", "tls.allNamespaces=true"];
    let (ok, said) = weft_on(kubeconfig, &[&["upgrade"], &GATEWAY[..], &set].concat()).await;
    assert!(ok, "{said}");
    assert!(said.contains("namespace/edge is there"), "{said}");
    assert!(said.contains("deployment/public unchanged"), "{said}");
    assert!(
        said.contains("clusterrole/weft-gateway:edge:public created"),
        "{said}"
    );
    assert_eq!(said.matches(&format!("\n{role} deleted")).count(), 2, "{said}");

    // What belongs to the gateway is no business of the mesh's installation.
    let (ok, said) = weft_on(kubeconfig, &["upgrade", "--no-wait", "--skip-checks"]).await;
    assert!(ok && !said.contains("deleted"), "{said}");
}

async fn a_gateway_goes(kubeconfig: &Path) {
    let uninstall = ["uninstall", "--gateway", "edge/public"];
    let (ok, said) = weft_on(kubeconfig, &uninstall).await;
    assert!(ok && said.contains("Nothing was removed"), "{said}");
    let (ok, said) = weft_on(kubeconfig, &[&uninstall[..], &["--yes"]].concat()).await;
    assert!(ok, "{said}");
    for line in [
        "deployment/public deleted",
        "service/public deleted",
        "networkpolicy/public deleted",
        "poddisruptionbudget/public deleted",
        "clusterrolebinding/weft-gateway:edge:public deleted",
        "clusterrole/weft-gateway:edge:public deleted",
        "serviceaccount/public deleted",
        "configmap/weft-install-values-public deleted",
    ] {
        assert!(said.contains(line), "{line} is missing:\n{said}");
    }
    assert!(!said.contains("namespace/"), "{said}");
    let (ok, said) = weft_on(kubeconfig, &uninstall).await;
    assert!(!ok && said.contains("there is no gateway edge/public"), "{said}");
}

use super::*;
use crate::clock::Clock;
use crate::drain::Stage;
use crate::identity::fake::Ca;
use crate::settings::DrainTimes;
use crate::view::{Change, Writer};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use weft_proto::model::Inbound;
use weft_proto::resource::Resource;

fn settings(probes: &str) -> Arc<Settings> {
    let settings = Settings::read(|name| match name {
        "POD_NAME" => Some("web-1".to_owned()),
        "POD_NAMESPACE" => Some("shop".to_owned()),
        "INSTANCE_IPS" => Some("127.0.0.1".to_owned()),
        "WEFT_APP_PROBES" => Some(probes.to_owned()),
        _ => None,
    });
    Arc::new(settings.unwrap())
}

fn health(probes: &str) -> (Health, Writer, Drain) {
    let writer = Writer::new("shop", weft_engine::Settings::default(), Clock::start());
    let drain = Drain::new(DrainTimes::default());
    let settings = settings(probes);
    let identity = Identity::new(settings.trust_domain.clone());
    (
        Health::new(
            identity,
            writer.views(),
            drain.clone(),
            settings,
            Default::default(),
        ),
        writer,
        drain,
    )
}

async fn get(health: &Health, path: &str) -> (u16, String) {
    let page = health.clone().answer(Request::get(path).body(()).unwrap()).await;
    let status = page.status().as_u16();
    let body = page.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn ready_with_certificate_and_configuration_until_the_drain() {
    let (health, mut writer, drain) = health("[]");
    let (status, text) = get(&health, "/healthz/ready").await;
    assert_eq!(status, 503);
    assert!(text.contains("certificate"), "{text}");
    let material = Ca::new().sign("spiffe://cluster.local/ns/shop/sa/default", |_| {});
    health.identity.install(material).unwrap();
    let (status, text) = get(&health, "/healthz/ready").await;
    assert_eq!(status, 503);
    assert!(text.contains("configuration"), "{text}");
    writer.apply([Change::Put(Box::new(Resource::Inbound(Inbound::default())))]);
    writer.complete();
    assert_eq!(get(&health, "/healthz/ready").await.0, 200);
    drain.start();
    assert_eq!(drain.stage(), Stage::Draining);
    assert_eq!(get(&health, "/healthz/ready").await.0, 503);
    assert_eq!(get(&health, "/healthz/live").await.0, 200);
    assert_eq!(get(&health, "/etc/passwd").await.0, 404);
    assert_eq!(get(&health, "/app-health/none/readyz").await.0, 404);
}

/// An application that answers one connection after the other with `answer`, and what it was asked.
async fn application(answer: &'static str) -> (u16, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 2048];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let _ = sender
                .send(String::from_utf8_lossy(&head[..read]).into_owned())
                .await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (port, receiver)
}

fn http(port: u16, extra: &str) -> String {
    format!(
        r#"[{{"path":"/app-health/web/readyz","kind":{{"http":{{"port":{port},"path":"/ready?full=1"{extra}}}}},"timeoutSeconds":1}}]"#
    )
}

#[tokio::test]
async fn an_http_probe_is_the_applications_own() {
    let (port, mut asked) = application("HTTP/1.1 204 No Content\r\n\r\n").await;
    let (health, ..) = health(&http(port, r#","headers":[{"name":"X-Probe","value":"1"}]"#));
    assert_eq!(get(&health, "/app-health/web/readyz").await.0, 204);
    let asked = asked.recv().await.unwrap().to_ascii_lowercase();
    assert!(asked.starts_with("get /ready?full=1 http/1.1\r\n"), "{asked}");
    assert!(
        asked.contains("x-probe: 1\r\n") && asked.contains("host: localhost:"),
        "{asked}"
    );
}

#[tokio::test]
async fn failures_of_the_application_are_failures_of_the_probe() {
    for (answer, wanted) in [
        ("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", 500),
        (
            "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",
            200,
        ),
        ("nonsense\r\n\r\n", 503),
        ("", 503),
    ] {
        let (port, _asked) = application(answer).await;
        let (health, ..) = health(&http(port, ""));
        assert_eq!(
            get(&health, "/app-health/web/readyz").await.0,
            wanted,
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn a_silent_application_and_none_at_all() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tcp = |port| format!(r#"[{{"path":"/app-health/db/livez","kind":{{"tcp":{{"port":{port}}}}}}}]"#);
    let (quiet, ..) = health(&http(port, ""));
    let (status, text) = tokio::time::timeout(Duration::from_secs(20), get(&quiet, "/app-health/web/readyz"))
        .await
        .unwrap();
    assert_eq!(status, 503);
    assert!(text.contains("no answer within"), "{text}");
    let (open, ..) = health(&tcp(port));
    assert_eq!(get(&open, "/app-health/db/livez").await.0, 200);
    drop(listener);
    let (status, text) = get(&open, "/app-health/db/livez").await;
    assert_eq!(status, 503);
    assert!(text.contains("does not accept"), "{text}");
}

#[tokio::test]
async fn the_metrics_page_comes_in_pieces() {
    let telemetry = Telemetry::new(false);
    let metrics = Metrics::new(telemetry);
    let page = metrics
        .clone()
        .answer(Request::get("/metrics").body(()).unwrap())
        .await;
    assert_eq!(page.status(), 200);
    assert!(
        page.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    let body = page.into_body().collect().await.unwrap().to_bytes();
    assert!(body.ends_with(b"# EOF\n"));
    let page = metrics.answer(Request::get("/").body(()).unwrap()).await;
    assert_eq!(page.status(), 404);
}

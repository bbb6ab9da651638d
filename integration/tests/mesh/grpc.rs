//! gRPC through both sidecars: unary calls, streams, and the status in the trailers.

use crate::mesh::Mesh;
use crate::protocols::CLIENT_ID;
use crate::suite::Test;
use crate::town::CLIENT;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    ("grpc::unary", unary),
    ("grpc::stream_with_trailers", stream_with_trailers),
    ("grpc::errors_pass", errors_pass),
];

fn unary(mesh: &Mesh) {
    let out = mesh.print(
        CLIENT,
        &[
            "weft",
            "load",
            "--grpc",
            "server:9090",
            "--rate",
            "20",
            "--seconds",
            "1",
        ],
    );
    let records: Vec<serde_json::Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(records.len() > 10, "{out}");
    assert!(records.iter().all(|record| record["error"].is_null()), "{out}");
}

/// What came back on a gRPC call: messages, and the status of the trailers.
struct Call {
    messages: Vec<Bytes>,
    status: BTreeMap<String, String>,
}

/// Calls a method with one HTTP/2 connection of a test in a pod: each message is answered before the next is sent.
fn call(mesh: &Mesh, path: &str, texts: &[&str]) -> Call {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let work = async {
        let mut command =
            tokio::process::Command::from(mesh.command(CLIENT, &crate::tool::netcat("server", "9090")));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let io = tokio::io::join(child.stdout.take().unwrap(), child.stdin.take().unwrap());
        let (client, connection) = h2::client::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let request = http::Request::post(format!("http://server:9090{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (answer, mut out) = client.send_request(request, false).unwrap();
        let mut answer = Some(answer);
        let (mut body, mut buffer, mut messages) = (None, Vec::new(), Vec::new());
        let mut status = BTreeMap::new();
        let mut note = |headers: &http::HeaderMap| {
            for (name, value) in headers {
                if name.as_str().starts_with("grpc-") {
                    status.insert(
                        name.to_string(),
                        String::from_utf8_lossy(value.as_bytes()).into_owned(),
                    );
                }
            }
        };
        for (index, text) in texts.iter().enumerate() {
            // SayRequest { text }
            let message = [&[0x0a, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
            let prefix = [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..]].concat();
            out.send_data([prefix, message].concat().into(), index + 1 == texts.len())
                .unwrap();
            if let Some(answer) = answer.take() {
                let answer = answer.await.unwrap();
                assert_eq!(answer.status(), 200);
                note(answer.headers());
                body = Some(answer.into_body());
            }
            let body = body.as_mut().unwrap();
            while messages.len() <= index {
                let Some(data) = body.data().await else { break };
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                buffer.extend_from_slice(&data);
                while buffer.len() >= 5
                    && buffer.len() >= 5 + u32::from_be_bytes(buffer[1..5].try_into().unwrap()) as usize
                {
                    let length = u32::from_be_bytes(buffer[1..5].try_into().unwrap()) as usize;
                    messages.push(Bytes::copy_from_slice(&buffer[5..5 + length]));
                    buffer.drain(..5 + length);
                }
            }
        }
        let mut body = body.unwrap();
        while let Some(data) = body.data().await {
            assert!(data.unwrap().is_empty());
        }
        if let Some(trailers) = body.trailers().await.unwrap() {
            note(&trailers);
        }
        Call { messages, status }
    };
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(20), work).await })
        .expect("no answer in time")
}

fn stream_with_trailers(mesh: &Mesh) {
    let texts = ["one", "two", "three", "four"];
    let call = call(mesh, "/weft.echo.v1.Echo/Chat", &texts);
    assert_eq!(call.messages.len(), texts.len());
    for (message, text) in call.messages.iter().zip(texts) {
        let whole = String::from_utf8_lossy(message);
        assert!(whole.contains(text) && whole.contains(CLIENT_ID), "{whole:?}");
    }
    assert_eq!(
        call.status.get("grpc-status").map(String::as_str),
        Some("0"),
        "{:?}",
        call.status
    );
}

fn errors_pass(mesh: &Mesh) {
    let call = call(mesh, "/weft.echo.v1.Echo/Nothing", &["x"]);
    assert_eq!(
        call.status.get("grpc-status").map(String::as_str),
        Some("12"),
        "{:?}",
        call.status
    );
    assert!(
        call.status["grpc-message"].contains("weft.echo.v1.Echo/Say"),
        "{:?}",
        call.status
    );
}

//! The admin port of a sidecar, reached as `weft port-forward` reaches it.

use anyhow::{Context as _, ensure};
use std::io::{Read as _, Write as _};
use std::time::Duration;
use weft_proto::model::annotations::PORT_ADMIN;
use weft_sandbox::control::Client;

/// Longest answer that is read.
const LONGEST: u64 = 1 << 20;

/// Asks a sidecar for a new key and certificate; returns the serial number of the one it has.
pub fn renew(client: &Client, namespace: &str, pod: &str) -> anyhow::Result<String> {
    let before = serial(client, namespace, pod)?;
    ask(client, namespace, pod, "POST", "/certificates/renew")?;
    Ok(before)
}

/// The serial number of a sidecar's certificate.
pub fn serial(client: &Client, namespace: &str, pod: &str) -> anyhow::Result<String> {
    let text = ask(client, namespace, pod, "GET", "/certificates")?;
    let json: serde_json::Value = serde_json::from_str(&text).context("/certificates is no JSON")?;
    let serial = json.pointer("/serial").or_else(|| json.pointer("/leaf/serial"));
    Ok(serial
        .and_then(|value| value.as_str())
        .context("/certificates names no serial")?
        .to_owned())
}

fn ask(client: &Client, namespace: &str, pod: &str, method: &str, path: &str) -> anyhow::Result<String> {
    let (mut stream, early) = client.dial(namespace, pod, PORT_ADMIN)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    )?;
    let mut answer = early;
    stream.take(LONGEST).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the sidecar's admin port answered no HTTP")?;
    ensure!(
        head.starts_with("HTTP/1.1 2"),
        "{method} {path}: {}",
        head.lines().next().unwrap_or_default()
    );
    Ok(body.to_owned())
}

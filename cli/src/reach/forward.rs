//! A port of a pod by way of the API server, as `kubectl port-forward` reaches it.
//!
//! Enters: a WebSocket of the subprotocol `v4.channel.k8s.io`: each message begins with a channel, 0 for bytes and 1 for complaints, and
//! the first message of each is the port. Leaves: a stream of bytes. Never: more than a buffer between the two.

use super::websocket::{self, Message, Reader};
use base64::Engine as _;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

/// Bytes between the two sides.
const BUFFER: usize = 64 << 10;
const PROTOCOL: &str = "v4.channel.k8s.io";
const DATA: u8 = 0;
const ERROR: u8 = 1;

/// What the other side complained about, if it did.
#[derive(Clone, Debug, Default)]
pub struct Complaint(Arc<Mutex<String>>);

impl Complaint {
    /// Adds it to an error.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match said.as_str() {
            "" => error,
            said => error.context(said.trim().to_owned()),
        }
    }
}

/// A fresh key of a handshake.
pub fn key() -> String {
    base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 16]>())
}

/// The request that opens the port.
pub fn request(namespace: &str, pod: &str, port: u16, key: &str) -> anyhow::Result<http::Request<Body>> {
    let plain = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
    };
    anyhow::ensure!(
        plain(namespace) && plain(pod),
        "{namespace}/{pod} is no name of a pod"
    );
    let uri = format!("/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}");
    let request = http::Request::get(uri)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", PROTOCOL)
        .header("sec-websocket-key", key);
    Ok(request.body(Body::empty())?)
}

/// Whether the answer belongs to the request.
pub fn accepted(headers: &http::HeaderMap, key: &str) -> anyhow::Result<()> {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
    anyhow::ensure!(
        is("sec-websocket-accept", &proof(key)),
        "the answer is to another WebSocket request"
    );
    anyhow::ensure!(
        is("sec-websocket-protocol", PROTOCOL),
        "the API server doesn't speak {PROTOCOL}"
    );
    Ok(())
}

fn proof(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// Carries bytes until either side ends.
pub fn run(upgraded: Upgraded) -> (DuplexStream, Complaint) {
    let (near, far) = tokio::io::duplex(BUFFER);
    let complaint = Complaint::default();
    let said = complaint.clone();
    tokio::spawn(async move {
        if let Err(error) = carry(TokioIo::new(upgraded), far, &said).await {
            said.add(&error.to_string());
        }
    });
    (near, complaint)
}

impl Complaint {
    fn add(&self, text: &str) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_empty() {
            text.chars().take(1024).for_each(|letter| said.push(letter));
        }
    }
}

async fn carry(
    mut socket: TokioIo<Upgraded>,
    mut local: DuplexStream,
    complaint: &Complaint,
) -> anyhow::Result<()> {
    let mut reader = Reader::default();
    let mut begun = [false; 2];
    let (mut from_pod, mut to_pod) = (vec![0; BUFFER], vec![DATA; BUFFER]);
    loop {
        while let Some(message) = reader.message()? {
            match message {
                Message::Ping(payload) => socket.write_all(&websocket::pong(&payload, mask())).await?,
                Message::Close => return Ok(()),
                Message::Data(bytes) => match bytes.split_first() {
                    Some((channel @ (&DATA | &ERROR), rest)) => {
                        if !std::mem::replace(&mut begun[usize::from(*channel)], true) {
                            continue; // the port
                        }
                        if *channel == ERROR {
                            complaint.add(&String::from_utf8_lossy(rest));
                            return Ok(());
                        }
                        local.write_all(rest).await?;
                    }
                    _ => anyhow::bail!("the API server used a channel that nobody opened"),
                },
            }
        }
        tokio::select! {
            read = socket.read(&mut from_pod) => match read? {
                0 => return Ok(()),
                count => reader.push(&from_pod[..count]),
            },
            read = local.read(&mut to_pod[1..]) => match read? {
                0 => {
                    socket.write_all(&websocket::close(mask())).await?;
                    return Ok(());
                }
                count => socket.write_all(&websocket::data(&to_pod[..=count], mask())).await?,
            },
        }
    }
}

fn mask() -> [u8; 4] {
    rand::random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_is_that_of_the_rfc() {
        assert_eq!(proof("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn names_that_are_none_are_refused() {
        assert!(request("shop", "web-1.a", 15000, "k").is_ok());
        for name in ["a/b", "a?b", "a%2f", "ä"] {
            assert!(request("shop", name, 15000, "k").is_err(), "{name}");
        }
    }
}

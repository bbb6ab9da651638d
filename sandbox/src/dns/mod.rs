//! Cluster DNS: names of Services and pods, from the store.
//!
//! Enters: queries over UDP and TCP. Leaves: answers as the Kubernetes DNS specification (1.1.0) has them. Never: a query to
//! anybody else, a record that the store does not hold, an answer larger than asked for.

mod records;

use crate::api::Store;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// Domain of the cluster.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// Connections over TCP at a time.
const MOST_CONNECTIONS: usize = 256;
/// Silence after which a TCP connection is closed.
const IDLE: Duration = Duration::from_secs(10);
/// Answers over UDP are at most this long without EDNS (RFC 1035, section 4.2.1).
const PLAIN_UDP: usize = 512;
/// And this long with it (DNS flag day 2020).
const MOST_UDP: usize = 1232;

/// Answers on an address, over UDP and TCP.
///
/// # Errors
/// The address can't be bound.
pub async fn serve(address: SocketAddr, store: Arc<Store>) -> io::Result<()> {
    let udp = UdpSocket::bind(address).await?;
    let tcp = TcpListener::bind(address).await?;
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    tokio::spawn(answer_tcp(tcp, store.clone(), places));
    tokio::spawn(answer_udp(udp, store));
    Ok(())
}

async fn answer_udp(socket: UdpSocket, store: Arc<Store>) {
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        if let Some(reply) = buffer.get(..length).and_then(|query| answer(query, &store, true)) {
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

async fn answer_tcp(listener: TcpListener, store: Arc<Store>, places: Arc<Semaphore>) {
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let store = store.clone();
                tokio::spawn(async move {
                    let _ = converse(stream, &store).await;
                    drop(place);
                });
            }
            // Out of descriptors, most likely: others will be closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn converse(mut stream: TcpStream, store: &Store) -> io::Result<()> {
    loop {
        let length = tokio::time::timeout(IDLE, stream.read_u16()).await??;
        let mut query = vec![0; usize::from(length)];
        tokio::time::timeout(IDLE, stream.read_exact(&mut query)).await??;
        let Some(reply) = answer(&query, store, false) else {
            return Ok(());
        };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        stream.write_u16(length).await?;
        stream.write_all(&reply).await?;
    }
}

/// The reply to a query; `None` for what is none (a response, garbage), which is dropped.
fn answer(query: &[u8], store: &Store, udp: bool) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.authoritative = true;
    match query.queries.as_slice() {
        _ if query.metadata.op_code != OpCode::Query => reply.metadata.response_code = ResponseCode::NotImp,
        [question] => {
            let found = records::find(store, question);
            reply.metadata.response_code = found.code;
            reply.answers = found.answers;
            reply.authorities = found.authorities;
            reply.queries.push(question.clone());
        }
        _ => reply.metadata.response_code = ResponseCode::FormErr,
    }
    let bytes = reply.to_vec().ok()?;
    let most = match (&query.edns, udp) {
        (_, false) => usize::from(u16::MAX),
        (Some(edns), true) => usize::from(edns.max_payload()).clamp(PLAIN_UDP, MOST_UDP),
        (None, true) => PLAIN_UDP,
    };
    if bytes.len() <= most {
        return Some(bytes);
    }
    // Too long: ask over TCP.
    reply.answers.clear();
    reply.authorities.clear();
    reply.metadata.truncation = true;
    reply.to_vec().ok()
}

//! The gateway: from clients outside the mesh to its Services, stage by stage.
//!
//! ```text
//! listen: a port ─> TLS: whose listener, by server name ─> HTTP: whose rules, by host ─┐
//!                                          └─> bytes: which backend, by server name ───┴─> as the outbound way: an endpoint
//! ```
//!
//! Enters: connections of anybody. Leaves: requests and bytes to Services, over mutual TLS where they are of the mesh. Never: a field by
//! which a client says who it is or how it came; a certificate shown for a name that no listener covers; a connection that says nothing
//! for ever.

/// Whom a client wants.
pub mod arrival;
/// What the gateway proves itself with.
pub mod certificates;
/// Which ports are open.
pub mod doors;
/// Things by host pattern.
pub mod hosts;
/// The same for people.
pub mod page;
/// The ports of one thread.
pub mod listen;
/// What is served, compiled.
pub mod table;
/// Connections that have not said yet what they want.
pub mod waiting;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::arrival::Door;
use self::table::{Port, Site, Spoken};
use crate::context::Worker;
use crate::detect::{self, First, Question};
use crate::failure::Failure;
use crate::outbound::entrance::Entrance;
use crate::outbound::{http1, http2, opaque};
use crate::policy;
use crate::stream::Stream;
use crate::upstream::call::Target;

/// How long a client may take for its first byte, and for a handshake.
const OPENING: Duration = Duration::from_secs(10);
/// The answer to HTTP on a port of HTTPS.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 53\r\nconnection: close\r\n\r\n\
    this port of the gateway speaks HTTPS, not plain HTTP";
/// TLS's alert `unrecognized_name`, fatal (RFC 6066, section 3).
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

/// What follows the first bytes of a connection.
enum Opened {
    /// Requests, in HTTP/2 or HTTP/1.
    Http { stream: Stream, door: Door, h2: bool },
    /// Bytes.
    Bytes {
        stream: Stream,
        site: Arc<Site>,
        name: Option<String>,
    },
}

/// Serves one connection to its end.
pub async fn serve(worker: Rc<Worker>, socket: TcpStream, peer: SocketAddr, bind: u16) {
    let busy = worker.shared.drain.busy();
    let open = &worker.shared.telemetry.own().gateway_connections;
    open.fetch_add(1, Relaxed);
    let opening = worker.waiting.during(opened(&worker, socket, peer, bind));
    match Box::pin(opening).await {
        Some(Some(opened)) => go_on(&worker, opened, peer).await,
        Some(None) => {}
        None => {
            let detail = "too many connections say nothing; the oldest of them gives way";
            worker.shared.telemetry.refused("client-silent", peer, &detail);
        }
    }
    open.fetch_sub(1, Relaxed);
    drop(busy);
}

async fn go_on(worker: &Rc<Worker>, opened: Opened, peer: SocketAddr) {
    match opened {
        Opened::Http { stream, door, h2 } => {
            let target = Target::Listener(Arc::new(door.arrive(&worker.view())));
            let entrance = Entrance::gateway(peer, door);
            // Apart, so that each connection takes the room of what it speaks only.
            match h2 {
                true => Box::pin(http2::serve(worker, stream, entrance, target)).await,
                false => http1::serve(worker, stream, entrance, target).await,
            }
        }
        Opened::Bytes { stream, site, name } => {
            let begun = Instant::now();
            let address = stream.socket().and_then(|socket| socket.local_addr().ok());
            let address = address.unwrap_or(peer).ip();
            let chosen = match policy::client(worker, peer.ip(), site.listener.bind, None) {
                Ok(()) => worker.scene(|scene| site.connection(scene, name.as_deref(), address)),
                Err(_) => Err(Failure::Denied),
            };
            Box::pin(opaque::carry(worker, stream, peer, "gateway", begun, &chosen)).await;
        }
    }
}

/// Looks at the first bytes, and ends TLS; `None`: the connection is over.
async fn opened(worker: &Worker, socket: TcpStream, peer: SocketAddr, bind: u16) -> Option<Opened> {
    let port = worker.view().gateway.as_ref()?.port(bind)?.clone();
    let deadline = Instant::now() + OPENING;
    match port.spoken {
        Spoken::Http => plain(worker, socket, peer, bind, deadline).await,
        Spoken::Tls => tls(worker, socket, peer, &port, deadline).await,
        Spoken::Tcp => Some(Opened::Bytes {
            stream: Stream::Plain(socket),
            site: port.site("")?.clone(),
            name: None,
        }),
    }
}

async fn plain(
    worker: &Worker,
    socket: TcpStream,
    peer: SocketAddr,
    bind: u16,
    deadline: Instant,
) -> Option<Opened> {
    let refused = |reason, detail: &'static str| worker.shared.telemetry.refused(reason, peer, &detail);
    let h2 = match detect::first(&socket, Question::Http, deadline).await.ok()? {
        First::Http1 | First::Opaque => false,
        First::Http2 => true,
        First::Tls(_) => {
            refused("tls-on-http", "TLS on a port of plain HTTP");
            return None;
        }
        First::Silent => {
            refused("client-silent", "no byte of a request within 10 s");
            return None;
        }
        First::Ended => return None,
    };
    Some(Opened::Http {
        stream: Stream::Plain(socket),
        door: Door { bind, tls: None },
        h2,
    })
}

async fn tls(
    worker: &Worker,
    mut socket: TcpStream,
    peer: SocketAddr,
    port: &Port,
    deadline: Instant,
) -> Option<Opened> {
    let refused =
        |reason, detail: &dyn std::fmt::Display| worker.shared.telemetry.refused(reason, peer, detail);
    match detect::first(&socket, Question::Any, deadline).await.ok()? {
        First::Tls(_) => {}
        First::Ended => return None,
        First::Silent => {
            refused("client-silent", &"no TLS hello within 10 s");
            return None;
        }
        First::Http1 => {
            refused("http-on-tls", &"plain HTTP on a port of HTTPS");
            // A courtesy: most clients show it to a person.
            let _ = socket.write_all(PLAIN).await;
            return None;
        }
        First::Http2 | First::Opaque => {
            refused("not-tls", &"what came is no TLS hello");
            return None;
        }
    }
    let name = detect::server_name(&socket, deadline).await;
    let name = name.map(|name| name.strip_suffix('.').unwrap_or(&name).to_owned());
    let Some(site) = port.site(name.as_deref().unwrap_or_default()).cloned() else {
        let shown = name.as_deref().unwrap_or("none");
        refused(
            "server-name",
            &format_args!("no listener covers the server name {shown}"),
        );
        let _ = socket.write_all(UNRECOGNIZED_NAME).await;
        return None;
    };
    let Some(config) = site.tls.clone() else {
        // Passed on as it is.
        let stream = Stream::Plain(socket);
        return Some(Opened::Bytes { stream, site, name });
    };
    let tls = match timeout_at(deadline, handshake(config, socket, name.as_deref())).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            refused("client-handshake", &error);
            return None;
        }
        Err(_) => {
            refused("handshake-timeout", &"no handshake within 10 s");
            return None;
        }
    };
    let h2 = tls.get_ref().1.alpn_protocol() == Some(certificates::H2);
    let stream = Stream::Server(Box::new(tls));
    let name_of_door = name.as_deref().map(Arc::from);
    Some(match site.listener.protocol {
        weft_proto::model::ListenerProtocol::Https => Opened::Http {
            stream,
            door: Door {
                bind: port.bind,
                tls: Some(name_of_door),
            },
            h2,
        },
        _ => Opened::Bytes { stream, site, name },
    })
}

/// Ends TLS; the server name in it must be the one that chose the listener.
async fn handshake(
    config: Arc<ServerConfig>,
    socket: TcpStream,
    name: Option<&str>,
) -> io::Result<TlsStream<TcpStream>> {
    let tls = TlsAcceptor::from(config).accept(socket).await?;
    let said = tls.get_ref().1.server_name();
    let said = said.map(|said| said.strip_suffix('.').unwrap_or(said));
    match (said, name) {
        (Some(said), Some(name)) if said.eq_ignore_ascii_case(name) => Ok(tls),
        // What isn't a name, such as an address, counts as none in the handshake.
        (None, _) => Ok(tls),
        _ => Err(io::Error::other("the hello can be read in two ways")),
    }
}

#[cfg(test)]
mod tests;

//! `weft echo`: the image `weft.dev/echo`. Says which pod, zone and peer identity answered.
//!
//! Enters: HTTP/1.1, HTTP/2 with prior knowledge and gRPC on one port, TCP on two more. Leaves: answers that
//! name this pod. Never: anything but answering.

use bytes::Bytes;
use clap::Args;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

pub mod grpc;
mod http1;
mod tcp;

/// Body of every answer.
type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Longest request body that is read, in bytes.
const LONGEST_BODY: usize = 4 << 20;

/// Serve the echo that demos and tests talk to
#[derive(Args, Debug)]
pub struct Echo {
    /// Port for HTTP/1.1, HTTP/2 and gRPC
    #[arg(long, default_value_t = 8080, env = "ECHO_HTTP_PORT")]
    http_port: u16,
    /// Port for TCP where the client speaks first: each line comes back behind this pod's name
    #[arg(long, default_value_t = 9000, env = "ECHO_TCP_PORT")]
    tcp_port: u16,
    /// Port for TCP where the server greets first, as MySQL and SMTP do
    #[arg(long, default_value_t = 9001, env = "ECHO_GREETING_PORT")]
    greeting_port: u16,
}

/// Who answers.
#[derive(Debug, Default, serde::Serialize)]
struct Me {
    pod: String,
    namespace: String,
    node: String,
    region: String,
    zone: String,
}

impl Me {
    fn from_env() -> Self {
        let var = |name: &str| std::env::var(name).unwrap_or_default();
        let pod = [var("POD_NAME"), var("HOSTNAME")]
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or_default();
        Self {
            pod,
            namespace: var("POD_NAMESPACE"),
            node: var("NODE_NAME"),
            region: var("REGION"),
            zone: var("ZONE"),
        }
    }
}

/// Serves until SIGTERM, then finishes what is under way.
pub fn run(args: &Echo) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, serve(args))
}

async fn serve(args: &Echo) -> anyhow::Result<()> {
    let me = Arc::new(Me::from_env());
    let http = listen(args.http_port)?;
    let tcp = listen(args.tcp_port)?;
    let greeting = listen(args.greeting_port)?;
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    loop {
        tokio::select! {
            Ok((stream, _)) = http.accept() => {
                let (me, stopping) = (me.clone(), stopping.clone());
                tokio::task::spawn_local(async move {
                    if let Err(error) = connection(stream, me, stopping).await {
                        tracing::debug!(%error, "connection ended");
                    }
                });
            }
            Ok((stream, _)) = tcp.accept() => {
                tokio::task::spawn_local(tcp::lines(stream, me.clone(), false, stopping.clone()));
            }
            Ok((stream, _)) = greeting.accept() => {
                tokio::task::spawn_local(tcp::lines(stream, me.clone(), true, stopping.clone()));
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    drop(stopping);
    // Requests that are under way hold a receiver: wait for them, but not for ever.
    let _ = stop.send(true);
    let _ = tokio::time::timeout(Duration::from_secs(20), stop.closed()).await;
    Ok(())
}

/// Listens on all addresses, IPv4 and IPv6 alike; on IPv4 alone where the kernel has no IPv6.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    let any = std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)))?;
    any.set_nonblocking(true)?;
    TcpListener::from_std(any)
}

async fn connection(
    stream: TcpStream,
    me: Arc<Me>,
    mut stopping: tokio::sync::watch::Receiver<bool>,
) -> anyhow::Result<()> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0";
    stream.set_nodelay(true)?;
    let mut start = [0; PREFACE.len()];
    let seen = stream.peek(&mut start).await?;
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let me = me.clone();
        async move { Ok::<_, Infallible>(answer(request, me).await) }
    });
    let io = TokioIo::new(stream);
    if seen >= 3 && PREFACE.starts_with(&start[..seen]) {
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(io, service);
        tokio::pin!(serving);
        tokio::select! {
            done = serving.as_mut() => return Ok(done?),
            _ = stopping.wait_for(|stop| *stop) => serving.as_mut().graceful_shutdown(),
        }
        return Ok(serving.await?);
    }
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(io, service)
        .with_upgrades();
    tokio::pin!(serving);
    tokio::select! {
        done = serving.as_mut() => return Ok(done?),
        _ = stopping.wait_for(|stop| *stop) => serving.as_mut().graceful_shutdown(),
    }
    Ok(serving.await?)
}

async fn answer(request: Request<Incoming>, me: Arc<Me>) -> Response<Body> {
    let grpc = request
        .headers()
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        grpc::answer(request, me).await
    } else {
        http1::answer(request, me).await
    }
}

/// The SPIFFE id in `x-forwarded-client-cert`, which the sidecar sets and no caller can.
fn peer(headers: &http::HeaderMap) -> String {
    headers
        .get("x-forwarded-client-cert")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| {
            text.split([';', ','])
                .find_map(|part| part.trim().strip_prefix("URI="))
        })
        .unwrap_or_default()
        .trim_matches('"')
        .to_owned()
}

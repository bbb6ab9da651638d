//! `weft load`: a steady, open-loop load on the echo from inside a pod; one JSON line a request on stdout.
//!
//! Enters: targets and a rate. Leaves: a [`Record`] for each request, the moment it ends. Never: a retry of its own, so
//! that whatever the mesh loses is seen.

use clap::Args;
use std::io::Write as _;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, MissedTickBehavior};

mod grpc;
mod http;
mod record;
mod tcp;

pub use record::{Answerer, Class, Protocol, Record};

/// Longest that a request may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Call echo services at a steady rate and print what answered, one JSON line a request
#[derive(Args, Debug)]
pub struct Load {
    /// HTTP/1.1 targets, `METHOD=URL`
    #[arg(long)]
    http1: Vec<String>,
    /// HTTP/2 targets with prior knowledge, `METHOD=URL`
    #[arg(long)]
    http2: Vec<String>,
    /// gRPC targets, `host:port`: unary calls of weft.echo.v1.Echo/Say
    #[arg(long)]
    grpc: Vec<String>,
    /// TCP targets, `host:port`: a new connection for every line
    #[arg(long)]
    tcp: Vec<String>,
    /// TCP targets, `host:port`: one connection for all lines, opened again when it breaks
    #[arg(long)]
    stream: Vec<String>,
    /// Requests per second to each target
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Seconds to go on; 0: until it is ended
    #[arg(long, default_value_t = 0)]
    seconds: u64,
}

/// One target and how to call it.
enum Target {
    Http1(http::Http1),
    Http2(http::Http2),
    Grpc(grpc::Grpc),
    Tcp(tcp::Tcp),
    Stream(tcp::Stream),
}

impl Target {
    async fn call(&self) -> (Class, Protocol, Result<Answerer, String>) {
        match self {
            Self::Http1(target) => (target.class(), Protocol::Http1, target.call().await),
            Self::Http2(target) => (target.class(), Protocol::Http2, target.call().await),
            // A gRPC call is a POST: whether it may run twice only its owner knows.
            Self::Grpc(target) => (Class::Unsafe, Protocol::Grpc, target.call().await),
            Self::Tcp(target) => (Class::Stream, Protocol::Tcp, target.call().await),
            Self::Stream(target) => (Class::Stream, Protocol::Stream, target.call().await),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Http1(target) => target.name(),
            Self::Http2(target) => target.name(),
            Self::Grpc(target) => target.name(),
            Self::Tcp(target) => target.name(),
            Self::Stream(target) => target.name(),
        }
    }
}

/// Runs until the time is over or stdout is closed.
pub fn run(args: &Load) -> anyhow::Result<()> {
    let mut targets = Vec::new();
    for text in &args.http1 {
        targets.push(Target::Http1(http::Http1::new(text)?));
    }
    for text in &args.http2 {
        targets.push(Target::Http2(http::Http2::new(text)?));
    }
    for text in &args.grpc {
        targets.push(Target::Grpc(grpc::Grpc::new(text)?));
    }
    for text in &args.tcp {
        targets.push(Target::Tcp(tcp::Tcp::new(text)));
    }
    for text in &args.stream {
        targets.push(Target::Stream(tcp::Stream::new(text)));
    }
    anyhow::ensure!(
        !targets.is_empty(),
        "nothing to call: name at least one --http1, --http2, --grpc, --tcp or --stream"
    );
    anyhow::ensure!(
        args.rate > 0.0 && args.rate <= 100_000.0,
        "--rate takes a number over 0 and up to 100000"
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, drive(targets, args))
}

async fn drive(targets: Vec<Target>, args: &Load) -> anyhow::Result<()> {
    let end = (args.seconds > 0).then(|| Instant::now() + Duration::from_secs(args.seconds));
    let (lines, mut out) = tokio::sync::mpsc::channel::<Record>(4096);
    let period = Duration::from_secs_f64(1.0 / args.rate);
    let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
    for (index, target) in (0u32..).zip(targets) {
        let target = Rc::new(target);
        let lines = lines.clone();
        // Targets take turns within a period, so that the load is steady.
        let first = Instant::now() + period * index / count;
        tokio::task::spawn_local(async move {
            let mut ticks = tokio::time::interval_at(first, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            loop {
                ticks.tick().await;
                if end.is_some_and(|end| Instant::now() >= end) {
                    return;
                }
                let (target, lines) = (target.clone(), lines.clone());
                tokio::task::spawn_local(async move {
                    let started = Instant::now();
                    let start_ms = unix_millis();
                    let (class, protocol, result) = target.call().await;
                    let record = Record {
                        start_ms,
                        end_ms: unix_millis(),
                        micros: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
                        class,
                        protocol,
                        to: target.name().to_owned(),
                        error: result.as_ref().err().cloned(),
                        answerer: result.unwrap_or_default(),
                    };
                    let _ = lines.send(record).await;
                });
            }
        });
    }
    drop(lines);
    let stdout = std::io::stdout();
    while let Some(record) = out.recv().await {
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        let mut stdout = stdout.lock();
        if stdout.write_all(&line).and_then(|()| stdout.flush()).is_err() {
            break;
        }
    }
    Ok(())
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

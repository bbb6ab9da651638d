//! Readiness and the application's probes (15021), metrics (15020).
//!
//! Enters: requests of the kubelet and of Prometheus. Leaves: whether this sidecar and the application are ready; the metrics
//! page, written in pieces. Never: a probe of anything but the pod itself, a metrics page held in memory whole.

mod probe;

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use weft_proto::model::annotations::{APP_HEALTH_PREFIX, APP_LIFECYCLE_PREFIX, METRICS_PATH, READY_PATH};

use crate::drain::{Drain, Stage};
use crate::gateway::doors::Doors;
use crate::identity::Identity;
use crate::pages::{self, Page};
use crate::settings::{Role, Settings};
use crate::telemetry::{CONTENT_TYPE, Telemetry};
use crate::view::Views;

/// Probes of the application at once; more wait for their turn.
const MAX_PROBES: usize = 64;
/// Size of the pieces of the metrics page, in bytes.
const PIECE: usize = 32 * 1024;
/// How long the reader of a metrics page may take, and how long one may wait for those before.
const WRITING: Duration = Duration::from_secs(10);

/// What readiness depends on, and the application's probes.
#[derive(Clone, Debug)]
pub struct Health {
    identity: Identity,
    views: Views,
    drain: Drain,
    settings: Arc<Settings>,
    doors: Doors,
    turns: Arc<Semaphore>,
}

impl Health {
    /// Health of this sidecar.
    pub fn new(
        identity: Identity,
        views: Views,
        drain: Drain,
        settings: Arc<Settings>,
        doors: Doors,
    ) -> Self {
        Self {
            identity,
            views,
            drain,
            settings,
            doors,
            turns: Arc::new(Semaphore::new(MAX_PROBES)),
        }
    }

    /// Why the sidecar isn't ready; `None`: it is.
    pub fn unready(&self) -> Option<Cow<'static, str>> {
        let gateway = self.settings.role == Role::Gateway;
        if let Some(reason) = self.unready_itself() {
            return Some(reason.into());
        }
        if !gateway {
            return None;
        }
        match &self.views.load().gateway {
            Some(table) => self.doors.missing(table, self.settings.workers).map(Cow::Owned),
            None => Some(
                "no listeners yet: the control plane has not said which, or where their Services are".into(),
            ),
        }
    }

    fn unready_itself(&self) -> Option<&'static str> {
        if self.drain.stage() != Stage::Running {
            Some("draining")
        } else if let Err(error) = self.identity.valid() {
            Some(match error {
                crate::identity::PeerUnverified::Expired => "the certificate is not valid now",
                _ => "no certificate yet: see the log for what the CA says",
            })
        } else if !self.views.load().configured() {
            Some("no configuration yet: see the log for what the control plane says")
        } else {
            None
        }
    }

    /// Answers a request.
    pub async fn answer<B>(self, request: Request<B>) -> Page {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return pages::text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        let path = request.uri().path();
        match path {
            READY_PATH => match self.unready() {
                None => pages::text(StatusCode::OK, "ready\n"),
                Some(reason) => pages::text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            "/healthz/live" => pages::text(StatusCode::OK, "ok\n"),
            _ if path.starts_with(APP_HEALTH_PREFIX) || path.starts_with(APP_LIFECYCLE_PREFIX) => {
                let path = path.to_owned();
                self.probe(&path, request.headers()).await
            }
            _ => pages::text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    async fn probe(&self, path: &str, headers: &HeaderMap) -> Page {
        let Some(probe) = self.settings.probes.iter().find(|probe| probe.path == path) else {
            return pages::text(StatusCode::NOT_FOUND, "no such probe in WEFT_APP_PROBES\n");
        };
        let user_agent = headers.get(header::USER_AGENT).cloned();
        let user_agent = user_agent.unwrap_or(HeaderValue::from_static("kube-probe/weft"));
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        match probe::run(&self.settings, probe, user_agent).await {
            Ok(status) => pages::text(status, "the application answers\n"),
            Err(error) => {
                tracing::debug!(path, %error, "probe failed");
                let status = match error {
                    probe::Failed::Status(status) => status,
                    _ => StatusCode::SERVICE_UNAVAILABLE,
                };
                pages::text(status, format!("{error}\n"))
            }
        }
    }
}

/// The metrics page. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Metrics {
    telemetry: Telemetry,
    /// One page is written at a time.
    turn: Arc<Semaphore>,
}

impl Metrics {
    /// The page of what `telemetry` counts.
    pub fn new(telemetry: Telemetry) -> Self {
        Self {
            telemetry,
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Answers a request.
    pub async fn answer<B>(self, request: Request<B>) -> Page {
        if request.method() != Method::GET {
            return pages::text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        if ![METRICS_PATH, "/stats/prometheus"].contains(&request.uri().path()) {
            return pages::text(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
        }
        let turn = tokio::time::timeout(WRITING, self.turn.acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return pages::text(
                StatusCode::SERVICE_UNAVAILABLE,
                "others are reading this page, slowly\n",
            );
        };
        let (sender, receiver) = mpsc::channel(2);
        let (runtime, until) = (Handle::current(), Instant::now() + WRITING);
        tokio::task::spawn_blocking(move || {
            let mut pieces = Pieces {
                sender,
                piece: BytesMut::new(),
                runtime,
                until,
            };
            // A reader that hung up or is too slow ends the writing; nothing else can fail.
            let _ = self.telemetry.write(&mut pieces).and_then(|()| pieces.flush());
            drop(turn);
        });
        let frames = ReceiverStream::new(receiver).map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
        let mut page = Response::new(BodyExt::boxed(StreamBody::new(frames)));
        page.headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        page
    }
}

/// Hands a page on in pieces, so that a slow reader slows the writer, but not for ever.
struct Pieces {
    sender: mpsc::Sender<Bytes>,
    piece: BytesMut,
    runtime: Handle,
    until: Instant,
}

impl Pieces {
    fn flush(&mut self) -> fmt::Result {
        let sent = tokio::time::timeout_at(self.until, self.sender.send(self.piece.split().freeze()));
        match self.runtime.block_on(sent) {
            Ok(Ok(())) => Ok(()),
            _ => Err(fmt::Error),
        }
    }
}

impl fmt::Write for Pieces {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.piece.extend_from_slice(text.as_bytes());
        if self.piece.len() >= PIECE {
            self.flush()
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;

//! A request to the webhook: its body read within bounds, judged and answered.
//!
//! In: a POST. Out: an AdmissionReview with an answer, or a status and a sentence. Never: more bytes of bodies in memory than
//! [`BODIES`], or a wait without end for one.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use crate::admit::{self, MAX_BODY};
use crate::cache::{Asked, Cache, Found};
use crate::containers::Parts;
use crate::decide::{Decision, cut};
use crate::json::Arena;
use crate::metrics::Metrics;
use crate::server::{Answer, text, typed};
use crate::validate;
use crate::verdict::Verdict;

/// Which webhook is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Webhook {
    /// The mutating one, about pods.
    Inject,
    /// The validating one, about workloads.
    Validate,
}

impl Webhook {
    fn judge<'a>(self, request: &'a admit::Request<'a>, parts: &'a Parts) -> Verdict<'a> {
        match self {
            Self::Inject => admit::judge_request(request, parts),
            Self::Validate => validate::judge(request, parts),
        }
    }
}

/// Bytes of all bodies that are read and judged at once.
pub const BODIES: usize = 8 * MAX_BODY;
/// A body longer than this, in bytes, is judged alone: as objects it takes many times its length.
pub const LARGE: usize = 256 * 1024;
/// Time for the body of a request, and for its turn.
pub const BODY_TIME: Duration = Duration::from_secs(5);

/// What judging needs, and how much of it goes on at once.
#[derive(Debug)]
pub struct Reviews {
    /// What is put into pods.
    pub parts: Parts,
    /// What is counted.
    pub metrics: Metrics,
    known: Cache,
    /// A permit is a KiB.
    bodies: Semaphore,
    large: Semaphore,
}

impl Reviews {
    /// Nothing yet.
    #[must_use]
    pub fn new(template: crate::Template) -> Self {
        Self {
            parts: Parts::new(template),
            metrics: Metrics::default(),
            known: Cache::default(),
            bodies: Semaphore::new(BODIES / 1024),
            large: Semaphore::new(1),
        }
    }
}

/// Why a request is no review.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error("the content type must be application/json")]
    ContentType,
    #[error(
        "the AdmissionReview is longer than {MAX_BODY} bytes, which no pod or workload needs; make the object smaller"
    )]
    TooLong,
    #[error("the body did not arrive within {} s", BODY_TIME.as_secs())]
    Slow,
    #[error("the body broke off")]
    Broken,
    #[error("too many reviews at once; try again")]
    Busy,
    #[error(transparent)]
    Malformed(#[from] admit::Malformed),
}

impl Unread {
    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::ContentType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "ContentType"),
            Self::TooLong => (StatusCode::PAYLOAD_TOO_LARGE, "TooLong"),
            Self::Slow => (StatusCode::REQUEST_TIMEOUT, "Slow"),
            Self::Broken => (StatusCode::BAD_REQUEST, "Broken"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "Busy"),
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "Malformed"),
        }
    }
}

/// Reads a review, judges it and answers.
pub(crate) async fn answer(request: Request<Incoming>, reviews: &Arc<Reviews>, webhook: Webhook) -> Answer {
    match answered(request, reviews, webhook).await {
        Ok(body) => typed(StatusCode::OK, body, "application/json"),
        Err(error) => {
            let (status, reason) = error.status();
            reviews.metrics.count("failed", reason);
            tracing::warn!(%status, %error, "a request to the webhook was no review");
            text(status, format!("{error}\n"))
        }
    }
}

async fn answered(
    request: Request<Incoming>,
    reviews: &Arc<Reviews>,
    webhook: Webhook,
) -> Result<Vec<u8>, Unread> {
    let kind = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Unread::ContentType);
    }
    let announced = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok())
        .unwrap_or(MAX_BODY);
    if announced > MAX_BODY {
        return Err(Unread::TooLong);
    }
    let size = u32::try_from(announced / 1024 + 1).unwrap_or(u32::MAX);
    let Ok(Ok(_turn)) = timeout(BODY_TIME, reviews.bodies.acquire_many(size)).await else {
        return Err(Unread::Busy);
    };
    let body = match timeout(BODY_TIME, Limited::new(request.into_body(), MAX_BODY).collect()).await {
        Err(_) => return Err(Unread::Slow),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(Unread::TooLong),
        Ok(Err(_)) => return Err(Unread::Broken),
        Ok(Ok(body)) => body.to_bytes(),
    };
    if body.len() <= LARGE {
        return judged(&body, reviews, webhook);
    }
    let Ok(Ok(_alone)) = timeout(BODY_TIME, reviews.large.acquire()).await else {
        return Err(Unread::Busy);
    };
    // The requests beside it don't wait for it.
    let reviews = Arc::clone(reviews);
    let judging = spawn_blocking(move || judged(&body, &reviews, webhook));
    judging.await.unwrap_or(Err(Unread::Broken))
}

fn judged(body: &[u8], reviews: &Reviews, webhook: Webhook) -> Result<Vec<u8>, Unread> {
    let start = Instant::now();
    // Where every review is logged, every review is judged.
    let again = webhook == Webhook::Inject && !tracing::enabled!(tracing::Level::DEBUG);
    let asked = again.then(|| Asked::read(body)).flatten();
    let found = asked.as_ref().map(|asked| (asked, reviews.known.find(asked)));
    if let Some((asked, Found::Known(known))) = &found {
        let answer = known.to(asked.uid);
        reviews.metrics.known.inc();
        reviews.metrics.judged(start, known.outcome, known.reason);
        return Ok(answer);
    }
    let arena = Arena::of(body.len());
    let request = admit::read(body, &arena)?;
    let verdict = webhook.judge(&request, &reviews.parts);
    let reply = admit::reply(&request, &verdict);
    let is_pod = request.kind.is_pod();
    let (outcome, reason) = match verdict.decision.labels() {
        ("injected", _) if !is_pod => ("checked", "Workload"),
        ("injected", _) if !reply.changes() => ("injected", "AlreadyInjected"),
        labels => labels,
    };
    reviews.metrics.judged(start, outcome, reason);
    log(&request, &verdict, outcome, reason);
    let answer = reply.to(&request.uid);
    // What is logged each time is judged each time.
    if let (Decision::Inject(_), Some((_, Found::Again(hash)))) = (&verdict.decision, found)
        && let Some(asked) = asked
    {
        reviews.known.put(asked, hash, reply, outcome, reason);
    }
    Ok(answer)
}

/// One line for whatever isn't the usual course, and for all if everything is logged: pods come by the thousand.
fn log(request: &admit::Request<'_>, verdict: &Verdict<'_>, outcome: &'static str, reason: &'static str) {
    let usual = match &verdict.decision {
        Decision::Inject(_) => true,
        Decision::Skip(cause) => !cause.is_noted(),
        Decision::Refuse(_) => false,
    };
    if usual && !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let metadata = &request.object["metadata"];
    let name = metadata["name"]
        .as_str()
        .or_else(|| metadata["generateName"].as_str());
    let kind = cut(request.kind.kind.to_string(), 64);
    let namespace = cut(request.namespace.as_deref().unwrap_or_default().to_owned(), 64);
    let name = cut(name.unwrap_or_default().to_owned(), 128);
    if usual {
        tracing::debug!(?kind, ?namespace, ?name, outcome, reason, "reviewed");
    } else {
        let refusal = match &verdict.decision {
            Decision::Refuse(refusal) => refusal.to_string(),
            _ => String::new(),
        };
        tracing::info!(?kind, ?namespace, ?name, outcome, reason, ?refusal, "reviewed");
    }
}

//! One stream, from the first request to its end.
//!
//! Enters: a certificate, and what is held already. Leaves: an answer to each response. Never: a response unanswered.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use weft_proto::resource::Kind;
use weft_proto::wire::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};

use super::interest::Interest;
use super::{Client, SETTLED};
use crate::identity::PeerUnverified;
use crate::identity::channel::Unreachable;

/// Longest response, in bytes.
const MAX_RESPONSE: usize = 32 * 1024 * 1024;
/// From this size on, more of a first response may follow.
const FULL: usize = 1024 * 1024;
/// The same for names.
const FULL_NAMES: usize = 128 * 1024;
/// How long the control plane may take to accept the stream.
const OPEN: Duration = Duration::from_secs(10);
/// How long the first responses may take after the one that says who this sidecar is.
const GRACE: Duration = Duration::from_secs(5);

/// How often it is looked for what isn't used any more, at the most and at the least.
const LOOK_OFTEN: Duration = Duration::from_millis(250);
const LOOK_SELDOM: Duration = Duration::from_secs(60);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("{0}")]
    Identity(#[from] PeerUnverified),
    #[error("{0}")]
    Unreachable(#[from] Unreachable),
    #[error("the control plane did not open the stream within 10 s")]
    Late,
    #[error("the control plane says: {}", said(.0))]
    Status(Box<tonic::Status>),
    #[error("the control plane ended the stream")]
    Closed,
}

impl Ended {
    /// Whether there was no connection to the control plane's address.
    pub(super) fn unreached(&self) -> bool {
        matches!(self, Self::Unreachable(Unreachable::Connect { .. }))
    }
}

/// A status with what caused it, such as a connection that fell silent.
fn said(status: &tonic::Status) -> String {
    let mut text = format!("{} ({:?})", status.message(), status.code());
    let mut cause = std::error::Error::source(status);
    for _ in 0..4 {
        let Some(error) = cause else { break };
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// Runs a stream until it ends, which it always does.
pub(super) async fn run(client: &mut Client) -> Ended {
    match follow(client).await {
        Err(ended) => ended,
        Ok(()) => Ended::Closed,
    }
}

async fn follow(client: &mut Client) -> Result<(), Ended> {
    let credentials = client.identity.valid()?;
    let channel = client.control_plane.channel(Some(credentials)).await?;
    let mut service = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE);
    let (requests, receiver) = mpsc::channel(4 * Kind::ALL.len());
    let asked = client.demand.take();
    client.want(asked);
    let mut subscribed = Subscribed::default();
    for kind in client.kinds() {
        subscribed.0[kind as usize] = client.interest.names(kind);
        // The channel has room for all of them.
        let _ = requests.try_send(first(client, kind));
    }
    let opened = tokio::time::timeout(
        OPEN,
        service.delta_aggregated_resources(ReceiverStream::new(receiver)),
    );
    let status = |status| Ended::Status(Box::new(status));
    let mut responses = opened
        .await
        .map_err(|_| Ended::Late)?
        .map_err(status)?
        .into_inner();
    client.telemetry.own().xds_streams.fetch_add(1, Ordering::Relaxed);
    client.telemetry.own().xds_connected.store(1, Ordering::Relaxed);
    client.report.lock().connected = true;
    client.demand.connected(true);
    let opened = Instant::now();
    let idle = client.settings.forget_after;
    let mut look = tokio::time::interval(idle.div_f64(8.0).clamp(LOOK_OFTEN, LOOK_SELDOM));
    tracing::info!("configuration stream open");

    let mut sync = Sync::new(client.kinds());
    loop {
        let timer = client.save_at.into_iter().chain(sync.deadline).min();
        tokio::select! {
            response = responses.message() => {
                let Some(response) = response.map_err(status)? else { return Ok(()) };
                let Some(kind) = Kind::from_type_url(&response.type_url) else {
                    let url: String = response.type_url.chars().take(200).collect();
                    tracing::warn!(url, "a response of a kind that nobody asked for is ignored");
                    continue;
                };
                let answer = answer(client, kind, response, &mut sync);
                if requests.send(answer).await.is_err() {
                    return Ok(());
                }
            }
            asked = client.demand.next() => client.want(asked),
            _ = look.tick() => {
                if opened.elapsed() >= idle.min(SETTLED) {
                    client.give_up(idle);
                }
            }
            () = sleep_until(timer) => {
                if client.save_at.is_some_and(|at| at <= Instant::now()) {
                    client.save().await;
                }
                if sync.deadline.is_some_and(|at| at <= Instant::now()) {
                    sync.deadline = None;
                    client.complete();
                }
            }
        }
        if sync.done() && !client.writer.is_complete() {
            client.complete();
        }
        for request in subscribed.changes(&client.interest) {
            if requests.send(request).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Names that the control plane was asked for on this stream, by kind.
#[derive(Debug, Default)]
struct Subscribed([BTreeSet<String>; Kind::ALL.len()]);

impl Subscribed {
    /// Requests by which the control plane learns what is wanted now.
    fn changes(&mut self, interest: &Interest) -> Vec<DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| kind.on_demand()) {
            let (wanted, before) = (interest.names(kind), &mut self.0[kind as usize]);
            if wanted != *before {
                requests.push(DeltaDiscoveryRequest {
                    type_url: kind.type_url().to_owned(),
                    resource_names_subscribe: wanted.difference(before).cloned().collect(),
                    resource_names_unsubscribe: before.difference(&wanted).cloned().collect(),
                    ..DeltaDiscoveryRequest::default()
                });
                *before = wanted;
            }
        }
        requests
    }
}

/// The first request of a kind: everything, or what is wanted of what is given by name; but what is held only if it is different.
fn first(client: &Client, kind: Kind) -> DeltaDiscoveryRequest {
    let state = client.report.lock();
    let versions = state
        .held
        .versions(kind)
        .map(|(name, version)| (name.to_owned(), version.to_owned()));
    DeltaDiscoveryRequest {
        node: Some(Node {
            id: client.node(),
            cluster: client.settings.pod.workload.to_string(),
        }),
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: match kind.on_demand() {
            true => client.interest.names(kind).into_iter().collect(),
            false => vec!["*".to_owned()],
        },
        initial_resource_versions: versions.collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn answer(
    client: &mut Client,
    kind: Kind,
    response: DeltaDiscoveryResponse,
    sync: &mut Sync,
) -> DeltaDiscoveryRequest {
    let nonce = response.nonce.clone();
    let size: usize = response
        .resources
        .iter()
        .filter_map(|r| r.resource.as_ref())
        .map(|any| any.value.len())
        .sum();
    let error_detail = client.apply(kind, response);
    sync.seen(kind, size, error_detail.is_none());
    DeltaDiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        response_nonce: nonce,
        error_detail,
        ..DeltaDiscoveryRequest::default()
    }
}

/// Which kinds had their first response. The control plane answers every first request, even with nothing.
#[derive(Debug)]
struct Sync {
    seen: [bool; Kind::ALL.len()],
    deadline: Option<Instant>,
}

impl Sync {
    /// Waits for these kinds.
    fn new(kinds: impl Iterator<Item = Kind>) -> Self {
        let mut seen = [true; Kind::ALL.len()];
        kinds.for_each(|kind| seen[kind as usize] = false);
        Self { seen, deadline: None }
    }

    fn seen(&mut self, kind: Kind, size: usize, accepted: bool) {
        let full = match kind {
            Kind::Names => FULL_NAMES,
            _ => FULL,
        };
        if size < full {
            self.seen[kind as usize] = true;
        }
        // Services may be many; who this workload is and its policies must have been there.
        let known = self.seen[Kind::Inbound as usize] && self.seen[Kind::Policy as usize];
        if known && accepted && self.deadline.is_none() && !self.done() {
            self.deadline = Some(Instant::now() + GRACE);
        }
        if self.done() {
            self.deadline = None;
        }
    }

    fn done(&self) -> bool {
        self.seen.iter().all(|seen| *seen)
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

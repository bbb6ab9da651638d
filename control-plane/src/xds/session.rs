//! One stream. Enters: a proven sidecar's requests and catalogs. Leaves: responses, in the order of [`Kind::ALL`]. Never: a
//! response that can't be written is piled up on: a slow reader slows its own task only.

use super::catalog::Catalog;
use super::progress::Progress;
use super::registry::Registration;
use super::subscription::{BadRequest, Outcome, Subscription};
use super::view::View;
use crate::metrics::{Metrics, kind_label};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use weft_proto::resource::Kind;
use weft_proto::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

/// How long a stream goes on after its pod has left the mesh.
const GONE_GRACE: Duration = Duration::from_secs(60);

/// Least time between two pushes of names: they concern everybody, and nobody in particular.
const NAMES_EVERY: Duration = Duration::from_secs(1);

/// What a stream sends.
pub type Outbound = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

/// A stream of one sidecar.
pub struct Session {
    /// What its pod sees.
    pub view: View,
    /// Newer catalogs.
    pub catalogs: watch::Receiver<Option<Arc<Catalog>>>,
    /// `namespace/pod`, as its certificate says.
    pub node: String,
    /// When its certificate expires: a new stream needs a new one.
    pub expires: Instant,
    /// Resolves when this stream shall end.
    pub stop: super::service::Stop,
    /// Its entry in the registry.
    pub registration: Registration,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

struct State {
    subscriptions: [Option<Subscription>; Kind::ALL.len()],
    progress: [Progress; Kind::ALL.len()],
    nonce: u64,
    gone_at: Option<Instant>,
    /// Names wait until then.
    names_at: Option<Instant>,
}

impl Session {
    /// Runs the stream to its end, starting with its first request. Returns why the control plane ended it.
    ///
    /// # Errors
    /// The status that the sidecar gets.
    pub async fn run(
        mut self,
        first: DeltaDiscoveryRequest,
        mut requests: tonic::Streaming<DeltaDiscoveryRequest>,
        out: &Outbound,
    ) -> Result<(), Status> {
        let mut state = State {
            subscriptions: Default::default(),
            progress: Default::default(),
            nonce: 0,
            gone_at: None,
            names_at: None,
        };
        self.take(&mut state, &first)?;
        let stop = self.stop.clone().wait();
        let mut until = self.expires;
        let end = sleep_until(until);
        tokio::pin!(stop, end);
        loop {
            for kind in Kind::ALL {
                if let Some(response) = self.next_response(&mut state, kind)
                    && out.send(Ok(response)).await.is_err()
                {
                    return Ok(()); // the sidecar hung up
                }
            }
            let kinds = Kind::ALL.into_iter().filter_map(|kind| {
                let subscription = state.subscriptions[kind as usize].as_ref()?;
                Some((kind, subscription, state.progress[kind as usize]))
            });
            self.registration.passed(kinds, self.view.catalog().sequence);
            let gone = state.gone_at.map_or(self.expires, |since| since + GONE_GRACE);
            // A timer is set again only where it has to be: this is done for each change and each stream.
            if until != self.expires.min(gone) {
                until = self.expires.min(gone);
                end.as_mut().reset(until);
            }
            tokio::select! {
                request = requests.message() => match request? {
                    Some(request) => self.take(&mut state, &request)?,
                    None => return Ok(()),
                },
                changed = self.catalogs.changed() => {
                    if changed.is_err() {
                        return Err(Status::unavailable("the control plane is stopping; reconnect"));
                    }
                    self.advance(&mut state);
                }
                reason = &mut stop => return Err(Status::unavailable(reason)),
                () = names_due(state.names_at) => state.names_at = None,
                () = &mut end => {
                    return Err(if state.gone_at.is_some() {
                        Status::permission_denied("the certificate's pod is not in the mesh any more")
                    } else {
                        Status::unavailable("the certificate has expired; reconnect with the renewed one")
                    });
                }
            }
        }
    }

    fn take(&mut self, state: &mut State, request: &DeltaDiscoveryRequest) -> Result<(), Status> {
        if let Some(node) = &request.node
            && !node.id.is_empty()
            && node.id != self.node
        {
            return Err(super::service::foreign_node(&node.id, &self.node));
        }
        let Some(kind) = Kind::from_type_url(&request.type_url) else {
            if request.type_url.starts_with("type.weft.dev/") {
                // A newer sidecar may know more kinds; it lives without them.
                tracing::debug!(
                    node = self.node,
                    type_url = request.type_url,
                    "a kind that isn't served"
                );
                return Ok(());
            }
            return Err(Status::permission_denied(format!(
                "resources of type {:?} are not served",
                request.type_url.chars().take(200).collect::<String>()
            )));
        };
        let refused = |error: BadRequest| match error {
            BadRequest::Wildcard => Status::permission_denied(error.to_string()),
            _ => Status::invalid_argument(error.to_string()),
        };
        let slot = &mut state.subscriptions[kind as usize];
        let progress = &mut state.progress[kind as usize];
        match slot {
            None => *slot = Some(Subscription::start(kind, request).map_err(refused)?),
            Some(subscription) => match subscription.request(request).map_err(refused)? {
                Outcome::Subscribed => {}
                Outcome::Acked(since) => {
                    self.metrics.convergence.observe(since.elapsed().as_secs_f64());
                    self.registration.answered(kind, true);
                    progress.answered();
                }
                Outcome::Nacked => {
                    self.metrics.rejects.get_or_create(&kind_label(kind)).inc();
                    self.registration.answered(kind, false);
                    progress.answered();
                    for rejected in subscription.rejected() {
                        tracing::warn!(
                            node = self.node,
                            ?kind,
                            name = rejected.name,
                            field = rejected.field,
                            reason = rejected.reason,
                            "a sidecar refused a resource; its last good one stays in force"
                        );
                    }
                }
            },
        }
        if let Some(subscription) = slot {
            self.registration.report(kind, subscription);
        }
        Ok(())
    }

    fn advance(&mut self, state: &mut State) {
        let Some(catalog) = self.catalogs.borrow_and_update().clone() else {
            return;
        };
        let at = catalog.changed_at;
        match self.view.advance(catalog) {
            Some(changes) => {
                for (kind, name) in changes {
                    if let Some(subscription) = &mut state.subscriptions[kind as usize] {
                        subscription.changed(&name, at);
                    }
                }
            }
            None => {
                for subscription in state.subscriptions.iter_mut().flatten() {
                    subscription.changed_all(at);
                }
            }
        }
        state.gone_at = match (self.view.known(), state.gone_at) {
            (true, _) => None,
            (false, since) => Some(since.unwrap_or_else(Instant::now)),
        };
    }

    fn next_response(&self, state: &mut State, kind: Kind) -> Option<DeltaDiscoveryResponse> {
        let subscription = state.subscriptions[kind as usize].as_mut()?;
        if kind == Kind::Names && state.names_at.is_some() {
            return None;
        }
        let items = self.view.items(kind)?;
        let changed = subscription.since();
        let response = subscription.respond(items, Instant::now(), || {
            state.nonce += 1;
            state.nonce.to_string()
        });
        if response.is_some() {
            self.metrics.pushes.get_or_create(&kind_label(kind)).inc();
            if let Some(changed) = changed {
                self.metrics.push_time.observe(changed.elapsed().as_secs_f64());
            }
        }
        if kind == Kind::Names && response.is_some() && !subscription.unsaid() {
            state.names_at = Some(Instant::now() + NAMES_EVERY);
        }
        let (catalog, progress) = (self.view.catalog().sequence, &mut state.progress[kind as usize]);
        match response {
            Some(_) => {
                progress.sent(catalog, !subscription.unsaid());
                self.registration.report(kind, subscription);
            }
            None if !subscription.behind() => progress.nothing_to_say(catalog),
            None => {}
        }
        response
    }
}

async fn names_due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

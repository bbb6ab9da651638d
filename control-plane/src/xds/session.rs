//! One stream. Enters: a proven sidecar's requests and catalogs. Leaves: responses, in the order of [`Kind::ALL`], each made when the
//! connection asks for it. Never: a response that can't be written is piled up on: a slow reader slows its own stream only.

use super::catalog::Catalog;
use super::due::due;
use super::progress::Progress;
use super::registry::Registration;
use super::subscription::{BadRequest, Outcome, Subscription};
use super::view::View;
use crate::metrics::{Metrics, kind_label};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use weft_proto::resource::Kind;
use weft_proto::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

/// How long a stream goes on after its pod has left the mesh.
const GONE_GRACE: Duration = Duration::from_secs(60);

/// Least time between two pushes of names: they concern everybody, and nobody in particular.
const NAMES_EVERY: Duration = Duration::from_secs(1);

/// A stream of one sidecar.
pub struct Session {
    view: View,
    catalogs: Catalogs,
    requests: tonic::Streaming<DeltaDiscoveryRequest>,
    node: String,
    expires: Instant,
    stop: Pin<Box<dyn Future<Output = &'static str> + Send>>,
    registration: Registration,
    metrics: Arc<Metrics>,
    state: State,
    /// When it ends if nothing else happens.
    end: Pin<Box<Sleep>>,
    /// The kind that speaks next, of [`Kind::ALL`].
    turn: usize,
}

/// Newer and newer catalogs.
pub type Catalogs = watch::Receiver<Option<Arc<Catalog>>>;

/// What a stream begins with.
pub struct Begun {
    /// What its pod sees.
    pub view: View,
    /// Newer catalogs.
    pub catalogs: Catalogs,
    /// What the sidecar says.
    pub requests: tonic::Streaming<DeltaDiscoveryRequest>,
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

#[derive(Default)]
struct State {
    subscriptions: [Option<Subscription>; Kind::ALL.len()],
    progress: [Progress; Kind::ALL.len()],
    nonce: u64,
    gone_at: Option<Instant>,
    /// Names wait until then.
    names_at: Option<Instant>,
}

impl Session {
    /// Begins a stream with its first request.
    ///
    /// # Errors
    /// The status that the sidecar gets.
    pub fn begin(begun: Begun, first: &DeltaDiscoveryRequest) -> Result<Self, Status> {
        let mut session = Self {
            view: begun.view,
            catalogs: begun.catalogs,
            requests: begun.requests,
            node: begun.node,
            expires: begun.expires,
            stop: Box::pin(begun.stop.wait()),
            registration: begun.registration,
            metrics: begun.metrics,
            state: State::default(),
            end: Box::pin(sleep_until(begun.expires)),
            turn: 0,
        };
        session.take(first)?;
        Ok(session)
    }

    /// The next response, when there is one; `None`: the sidecar hung up.
    ///
    /// # Errors
    /// Why the control plane ends the stream.
    pub async fn next(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        loop {
            if self.turn == 0 {
                match self.catalogs.has_changed() {
                    Ok(true) => self.advance(),
                    Ok(false) => {}
                    Err(_) => {
                        return Err(Status::unavailable("the control plane is stopping; reconnect"));
                    }
                }
            }
            while let Some(kind) = Kind::ALL.get(self.turn) {
                self.turn += 1;
                if let Some(response) = self.next_response(*kind) {
                    return Ok(Some(response));
                }
            }
            self.turn = 0;
            let kinds = Kind::ALL.into_iter().filter_map(|kind| {
                let subscription = self.state.subscriptions[kind as usize].as_ref()?;
                Some((kind, subscription, self.state.progress[kind as usize]))
            });
            self.registration.passed(kinds, self.view.catalog().sequence);
            let gone = self
                .state
                .gone_at
                .map_or(self.expires, |since| since + GONE_GRACE);
            // A timer is set again only where it has to be: this is done for each change and each stream.
            let until = self.expires.min(gone);
            if until != self.end.deadline() {
                self.end.as_mut().reset(until);
            }
            tokio::select! {
                // What is new goes out before answers to what is old are read.
                biased;
                () = self.registration.woken() => {}
                request = self.requests.message() => match request? {
                    Some(request) => self.take(&request)?,
                    None => return Ok(None),
                },
                reason = &mut self.stop => return Err(Status::unavailable(reason)),
                () = due(self.state.names_at) => self.state.names_at = None,
                () = &mut self.end => {
                    return Err(if self.state.gone_at.is_some() {
                        Status::permission_denied("the certificate's pod is not in the mesh any more")
                    } else {
                        Status::unavailable("the certificate has expired; reconnect with the renewed one")
                    });
                }
            }
        }
    }

    fn take(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), Status> {
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
        let (asked, given_up) = (
            &request.resource_names_subscribe,
            &request.resource_names_unsubscribe,
        );
        let slot = &mut self.state.subscriptions[kind as usize];
        let progress = &mut self.state.progress[kind as usize];
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
        // Whatever was refused above isn't asked for.
        self.registration.uses(kind, asked, given_up);
        if let Some(subscription) = slot {
            self.registration.report(kind, subscription);
        }
        Ok(())
    }

    fn advance(&mut self) {
        let Some(catalog) = self.catalogs.borrow_and_update().clone() else {
            return;
        };
        let at = catalog.changed_at;
        let subscriptions = &mut self.state.subscriptions;
        let told = self.view.advance(catalog, |kind, name| {
            if let Some(subscription) = &mut subscriptions[kind as usize] {
                subscription.changed(name, at);
            }
        });
        if !told {
            for subscription in subscriptions.iter_mut().flatten() {
                subscription.changed_all(at);
            }
        }
        self.state.gone_at = match (self.view.known(), self.state.gone_at) {
            (true, _) => None,
            (false, since) => Some(since.unwrap_or_else(Instant::now)),
        };
    }

    fn next_response(&mut self, kind: Kind) -> Option<DeltaDiscoveryResponse> {
        let state = &mut self.state;
        let subscription = state.subscriptions[kind as usize].as_mut()?;
        if kind == Kind::Names && state.names_at.is_some() {
            return None;
        }
        let items = self.view.items(kind)?;
        let changed = subscription.since();
        let response = subscription.respond(items, Instant::now, || {
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

//! What one stream asked for of one kind, what it has, and what to say next. Pure: no I/O, no clock of its own.
//!
//! Enters: the requests of a stream and the resources of its kind. Leaves: responses. Never: a response while another waits to
//! be acknowledged, a resource that the other side has already, an unbounded set of names.

use super::view::Layered;
use crate::translate::Item;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::time::Instant;
use weft_proto::resource::Kind;
use weft_proto::wire::discovery::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource, Status};
use weft_proto::wire::v1;

/// Most names that a stream may subscribe to by name, of one kind.
pub const MAX_NAMES: usize = 10_000;
/// Most versions that a stream may bring along, of one kind.
pub const MAX_VERSIONS: usize = 100_000;
/// Longest name, bytes.
pub const MAX_NAME: usize = 512;
/// Size of the resources at which a response is closed and the rest waits for its acknowledgement, bytes. A sidecar takes a
/// smaller first response for a whole one.
pub const RESPONSE_SIZE: usize = 1024 * 1024;
/// The same for names, which everybody has much of and nobody waits for: what comes in small pieces needs little memory at once.
pub const NAMES_SIZE: usize = 128 * 1024;
/// Most resources and removals of one response.
const RESPONSE_COUNT: usize = 20_000;
/// Most rejected resources that are remembered of one response.
const MAX_REJECTED: usize = 100;
/// The type of the details of a NACK.
pub const REJECTED_TYPE_URL: &str = "type.weft.dev/weft.v1.Rejected";

/// A resource that the sidecar refused.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Rejected {
    /// Its name; empty when the sidecar didn't say which.
    pub name: String,
    /// The version that was refused; empty when unknown.
    pub version: String,
    /// The field that is wrong.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What a request did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It changed the subscription only.
    Subscribed,
    /// It accepted a response that was due to a change first seen then.
    Acked(Instant),
    /// It refused resources of a response.
    Nacked,
}

/// A request that no sidecar would send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Too many names.
    #[error("at most {MAX_NAMES} names can be subscribed to, of one kind")]
    Names,
    /// Too many versions.
    #[error("at most {MAX_VERSIONS} versions can be brought along, of one kind")]
    Versions,
    /// Everything of a kind that is given by name only.
    #[error("resources of this kind are given by name only: what a sidecar doesn't use, it doesn't get")]
    Wildcard,
    /// A name is too long.
    #[error("a resource name has 1 to {MAX_NAME} bytes")]
    Name,
}

/// The state of one kind on one stream.
#[derive(Debug)]
pub struct Subscription {
    kind: Kind,
    wildcard: bool,
    names: BTreeSet<Arc<str>>,
    /// Versions that the other side has, or was sent and refused.
    held: HashMap<Arc<str>, Arc<str>>,
    /// Names to look at; all when `examine_all`.
    examine: BTreeSet<Arc<str>>,
    examine_all: bool,
    /// Names that were asked for and are answered even when nothing changed or nothing is there.
    owed: BTreeSet<Arc<str>>,
    /// The first request is answered even when there is nothing to say, so that the other side knows that it has everything.
    greet: bool,
    waiting: Option<Waiting>,
    since: Option<Instant>,
    rejected: Vec<Rejected>,
}

#[derive(Debug)]
struct Waiting {
    nonce: String,
    since: Instant,
    /// Resources and removals.
    count: usize,
}

impl Subscription {
    /// Starts with the first request of a kind on a stream.
    ///
    /// # Errors
    /// See [`BadRequest`].
    pub fn start(kind: Kind, request: &DeltaDiscoveryRequest) -> Result<Self, BadRequest> {
        let versions = &request.initial_resource_versions;
        if versions.len() > MAX_VERSIONS {
            return Err(BadRequest::Versions);
        }
        let mut subscription = Self {
            kind,
            // No name at all in the first request asks for everything, or for nothing yet where everything can't be had.
            wildcard: request.resource_names_subscribe.is_empty() && !kind.on_demand(),
            names: BTreeSet::new(),
            held: HashMap::with_capacity(versions.len()),
            examine: BTreeSet::new(),
            examine_all: true,
            owed: BTreeSet::new(),
            greet: true,
            waiting: None,
            since: None,
            rejected: Vec::new(),
        };
        for (name, version) in versions {
            if !(1..=MAX_NAME).contains(&name.len()) || version.len() > MAX_NAME {
                return Err(BadRequest::Name);
            }
            subscription
                .held
                .insert(name.as_str().into(), version.as_str().into());
        }
        subscription.subscribe(request)?;
        // What it brought along needs no answer when it is still right.
        let held = &subscription.held;
        subscription.owed.retain(|name| !held.contains_key(name));
        Ok(subscription)
    }

    /// Takes a later request.
    ///
    /// # Errors
    /// See [`BadRequest`].
    pub fn request(&mut self, request: &DeltaDiscoveryRequest) -> Result<Outcome, BadRequest> {
        let mut outcome = Outcome::Subscribed;
        if let Some(waiting) = self
            .waiting
            .take_if(|waiting| waiting.nonce == request.response_nonce)
        {
            if let Some(error) = &request.error_detail {
                self.reject(error);
                outcome = Outcome::Nacked;
            } else {
                outcome = Outcome::Acked(waiting.since);
            }
        }
        self.subscribe(request)?;
        Ok(outcome)
    }

    fn subscribe(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), BadRequest> {
        for name in &request.resource_names_subscribe {
            if !(1..=MAX_NAME).contains(&name.len()) {
                return Err(BadRequest::Name);
            }
            if name == "*" {
                if self.kind.on_demand() {
                    return Err(BadRequest::Wildcard);
                }
                self.wildcard = true;
                self.examine_all = true;
                continue;
            }
            let name: Arc<str> = name.as_str().into();
            self.names.insert(name.clone());
            self.owed.insert(name);
        }
        if self.names.len() > MAX_NAMES {
            return Err(BadRequest::Names);
        }
        for name in &request.resource_names_unsubscribe {
            if name == "*" {
                self.wildcard = false;
                let names = &self.names;
                self.held.retain(|name, _| names.contains(name));
                continue;
            }
            self.names.remove(name.as_str());
            self.owed.remove(name.as_str());
            if !self.wildcard {
                self.held.remove(name.as_str());
                self.rejected.retain(|rejected| rejected.name != *name);
            }
        }
        Ok(())
    }

    fn reject(&mut self, error: &Status) {
        let named = error
            .details
            .iter()
            .filter(|detail| detail.type_url == REJECTED_TYPE_URL);
        let mut rejected: Vec<Rejected> = named
            .take(MAX_REJECTED)
            .filter_map(|detail| <v1::Rejected as prost::Message>::decode(detail.value.clone()).ok())
            .map(|detail| Rejected {
                version: self
                    .held
                    .get(detail.name.as_str())
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                name: bounded(&detail.name),
                field: bounded(&detail.field),
                reason: bounded(&detail.reason),
            })
            .collect();
        if rejected.is_empty() {
            rejected.push(Rejected {
                name: String::new(),
                version: String::new(),
                field: String::new(),
                reason: bounded(&error.message),
            });
        }
        self.rejected
            .retain(|old| !old.name.is_empty() && rejected.iter().all(|new| new.name != old.name));
        self.rejected.append(&mut rejected);
        self.rejected.truncate(MAX_REJECTED);
    }

    /// A resource may be different now.
    pub fn changed(&mut self, name: &Arc<str>, at: Instant) {
        if self.wildcard || self.names.contains(name) {
            if !self.examine_all {
                self.examine.insert(name.clone());
            }
            self.since.get_or_insert(at);
        }
    }

    /// Any resource may be different now.
    pub fn changed_all(&mut self, at: Instant) {
        self.examine_all = true;
        self.since.get_or_insert(at);
    }

    /// The next response, if one is due and none waits to be acknowledged.
    pub fn respond(
        &mut self,
        items: Layered<'_>,
        now: impl FnOnce() -> Instant,
        nonce: impl FnOnce() -> String,
    ) -> Option<DeltaDiscoveryResponse> {
        if self.waiting.is_some() {
            return None;
        }
        if !self.greet && !self.unsaid() {
            // Every stream asks at every change.
            self.since = None;
            return None;
        }
        if self.examine_all {
            self.examine = self.everything(items);
            self.examine_all = false;
        }
        self.examine.extend(self.owed.iter().cloned());
        let mut response = DeltaDiscoveryResponse::default();
        let mut size = 0;
        let most = if self.kind == Kind::Names {
            NAMES_SIZE
        } else {
            RESPONSE_SIZE
        };
        while size < most
            && response.resources.len() + response.removed_resources.len() < RESPONSE_COUNT
            && let Some(name) = self.examine.pop_first()
        {
            let owed = self.owed.remove(&name);
            let wanted = self.wildcard || self.names.contains(&name);
            match items.get(&name) {
                Some(item) if wanted => {
                    let wire = item.wire();
                    if owed || self.held.get(&name) != Some(&wire.version) {
                        size += wire.bytes.len();
                        response.resources.push(message(self.kind, item));
                        self.rejected
                            .retain(|rejected| !rejected.name.is_empty() && *rejected.name != *name);
                        self.held.insert(item.name().clone(), wire.version.clone());
                    } else {
                        // What it brought along is kept in the memory that all streams share.
                        self.held.remove(&name);
                        self.held.insert(item.name().clone(), wire.version.clone());
                    }
                }
                _ => {
                    if self.held.remove(&name).is_some() || owed {
                        self.rejected.retain(|rejected| *rejected.name != *name);
                        response.removed_resources.push(name.to_string());
                    }
                }
            }
        }
        let since = if self.examine.is_empty() {
            self.since.take()
        } else {
            self.since
        };
        if response.resources.is_empty() && response.removed_resources.is_empty() && !self.greet {
            return None;
        }
        self.greet = false;
        response.type_url = self.kind.type_url().to_owned();
        response.nonce = nonce();
        self.waiting = Some(Waiting {
            nonce: response.nonce.clone(),
            since: since.unwrap_or_else(now),
            count: response.resources.len() + response.removed_resources.len(),
        });
        Some(response)
    }

    fn everything(&self, items: Layered<'_>) -> BTreeSet<Arc<str>> {
        let mut all: BTreeSet<Arc<str>> = self.held.keys().cloned().collect();
        all.extend(self.names.iter().cloned());
        if self.wildcard {
            all.extend(items.names().cloned());
        }
        all
    }

    /// Whether it asked for everything.
    pub fn wildcard(&self) -> bool {
        self.wildcard
    }

    /// How many names it asked for.
    pub fn names(&self) -> usize {
        self.names.len()
    }

    /// How many resources it holds.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Names and versions of what it holds.
    pub fn versions(&self) -> BTreeMap<String, String> {
        self.held
            .iter()
            .map(|(name, version)| (name.to_string(), version.to_string()))
            .collect()
    }

    /// When the oldest change was seen that isn't sent yet.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Whether a response waits to be acknowledged, or more is to be said.
    pub fn behind(&self) -> bool {
        self.waiting.is_some() || self.unsaid()
    }

    /// Whether more is to be said than the response that waits to be acknowledged.
    pub fn unsaid(&self) -> bool {
        self.examine_all || !self.examine.is_empty() || !self.owed.is_empty()
    }

    /// How many resources wait to be acknowledged or to be looked at, and since when the oldest does.
    pub fn unacknowledged(&self) -> (usize, Option<Instant>) {
        let everything = if self.examine_all {
            self.held.len().max(1)
        } else {
            0
        };
        let waiting = self.waiting.as_ref();
        let count =
            waiting.map_or(0, |waiting| waiting.count) + self.examine.len() + self.owed.len() + everything;
        (
            count,
            waiting
                .map(|waiting| waiting.since)
                .into_iter()
                .chain(self.since)
                .min(),
        )
    }

    /// What it refused and wasn't replaced since.
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }
}

/// An item as it travels; its bytes are shared with every other subscriber.
fn message(kind: Kind, item: &Item) -> Resource {
    let wire = item.wire();
    Resource {
        version: wire.version.to_string(),
        resource: Some(Any {
            type_url: kind.type_url().to_owned(),
            value: wire.bytes.clone(),
        }),
        name: item.name().to_string(),
    }
}

/// At most 1,024 bytes of a text from outside.
fn bounded(text: &str) -> String {
    let mut end = text.len().min(1024);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

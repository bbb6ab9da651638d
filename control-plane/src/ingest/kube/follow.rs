//! Follows the objects of one kind: everything there is, then what changes, for ever.
//!
//! Enters: answers of the API server. Leaves: [`Event`]s, pulled one at a time. Never: an object held back, a pause: the
//! puller decides how long to wait after a failure.
//!
//! What there is comes as a stream (`sendInitialEvents`) where the API server can do that, else as a list in pages; the
//! first kind for which it can't says so to all. A watch that ends goes on where it was; where the API server has
//! forgotten that place (`410 Gone`), everything is read again.

use futures_util::stream::{BoxStream, StreamExt as _};
use kube::api::{Api, DynamicObject, ListParams, WatchEvent, WatchParams};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// A watch ends after this many seconds and goes on where it was: a connection that is dead without a sign is
/// noticed.
const WATCH_SECONDS: u32 = 60;
/// How long after that its end must have come.
const MARGIN: Duration = Duration::from_secs(5);
/// How long a streamed list may say nothing before it is taken for one that will never end.
const SILENCE: Duration = Duration::from_secs(10);
/// A watch that ends sooner than this is a failure, not a turn.
const SHORTEST: Duration = Duration::from_secs(1);
/// Objects in a page of a list.
const PAGE: u32 = 500;
/// Marks the end of a streamed list.
const END_OF_LIST: &str = "k8s.io/initial-events-end";

type Stream = BoxStream<'static, kube::Result<WatchEvent<DynamicObject>>>;

/// Whether the API server is asked for streamed lists; shared by all kinds.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    paged: Arc<AtomicBool>,
}

impl Lists {
    fn streamed(&self) -> bool {
        !self.paged.load(Ordering::Relaxed)
    }

    fn use_pages(&self, kind: &str, reason: &str) {
        if !self.paged.swap(true, Ordering::Relaxed) {
            tracing::info!(
                kind,
                reason,
                "the API server can't stream lists; reading them page by page"
            );
        }
    }
}

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// Everything comes now; what came since the last [`Event::Complete`] doesn't count.
    Begin,
    /// One of everything.
    Item(Box<DynamicObject>),
    /// That was everything.
    Complete,
    /// New or different.
    Apply(Box<DynamicObject>),
    /// Gone.
    Delete(Box<DynamicObject>),
    /// It didn't work; asking for the next event tries again.
    Failed(kube::Error),
}

enum State {
    Start,
    Streaming(Stream),
    Paging {
        items: VecDeque<DynamicObject>,
        next: Option<String>,
        version: Option<String>,
    },
    Listed(String),
    Watching {
        version: String,
        stream: Stream,
        since: Instant,
    },
}

/// A place in the history of a kind.
pub(super) struct Follower {
    api: Api<DynamicObject>,
    name: &'static str,
    /// Only objects that this says.
    fields: Option<String>,
    lists: Lists,
    state: State,
    forgotten: Option<Instant>,
}

impl Follower {
    /// At the beginning. `name` is for the log.
    pub(super) fn new(api: Api<DynamicObject>, name: &'static str, lists: Lists) -> Self {
        Self {
            api,
            name,
            fields: None,
            lists,
            state: State::Start,
            forgotten: None,
        }
    }

    /// The same, of the one object of a name.
    pub(super) fn named(mut self, name: &str) -> Self {
        self.fields = Some(format!("metadata.name={name}"));
        self
    }

    fn watch_parameters(&self) -> WatchParams {
        let parameters = WatchParams::default().timeout(WATCH_SECONDS);
        match &self.fields {
            Some(fields) => parameters.fields(fields),
            None => parameters,
        }
    }

    /// The next event. Dropping the future loses the place: everything is read again.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            let (state, event) = self.step().await;
            self.state = state;
            if let Some(event) = event {
                return event;
            }
        }
    }

    async fn step(&mut self) -> (State, Option<Event>) {
        match std::mem::replace(&mut self.state, State::Start) {
            State::Start if self.lists.streamed() => self.stream().await,
            State::Start => {
                let begun = State::Paging {
                    items: VecDeque::new(),
                    next: None,
                    version: None,
                };
                (begun, Some(Event::Begin))
            }
            State::Streaming(stream) => self.streamed(stream).await,
            State::Paging {
                mut items,
                next,
                version,
            } => match (items.pop_front(), version) {
                (Some(item), version) => {
                    let rest = State::Paging { items, next, version };
                    (rest, Some(Event::Item(Box::new(item))))
                }
                (None, Some(version)) if next.is_none() => (State::Listed(version), Some(Event::Complete)),
                (None, _) => self.page(next).await,
            },
            State::Listed(version) => self.watch(version).await,
            State::Watching {
                version,
                stream,
                since,
            } => self.watched(version, stream, since).await,
        }
    }

    async fn stream(&mut self) -> (State, Option<Event>) {
        let parameters = self.watch_parameters().initial_events();
        // No version: not older than now.
        match self.api.watch(&parameters, "").await {
            Ok(stream) => (State::Streaming(stream.boxed()), Some(Event::Begin)),
            // An API server that knows the parameter and may not use it says so at once.
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => {
                self.lists.use_pages(self.name, &status.message);
                (State::Start, None)
            }
            Err(error) => (State::Start, Some(Event::Failed(error))),
        }
    }

    async fn streamed(&mut self, mut stream: Stream) -> (State, Option<Event>) {
        let Ok(event) = timeout(SILENCE, stream.next()).await else {
            self.lists
                .use_pages(self.name, "it doesn't say where the list ends");
            return (State::Start, None);
        };
        match event {
            Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                (State::Streaming(stream), Some(Event::Item(Box::new(object))))
            }
            Some(Ok(WatchEvent::Bookmark(mark))) if mark.metadata.annotations.contains_key(END_OF_LIST) => {
                let watching = State::Watching {
                    version: mark.metadata.resource_version,
                    stream,
                    since: Instant::now(),
                };
                (watching, Some(Event::Complete))
            }
            Some(Ok(WatchEvent::Bookmark(_) | WatchEvent::Deleted(_))) => (State::Streaming(stream), None),
            // A refusal of the whole request comes as an item, too.
            Some(Ok(WatchEvent::Error(status)) | Err(kube::Error::Api(status)))
                if matches!(status.code, 400 | 422) =>
            {
                self.lists.use_pages(self.name, &status.message);
                (State::Start, None)
            }
            Some(Ok(WatchEvent::Error(status))) => (State::Start, Some(failed(status))),
            Some(Err(error)) => (State::Start, Some(Event::Failed(error))),
            None => {
                self.lists
                    .use_pages(self.name, "the stream ended before the list did");
                (State::Start, None)
            }
        }
    }

    async fn page(&mut self, next: Option<String>) -> (State, Option<Event>) {
        let parameters = ListParams {
            limit: Some(PAGE),
            continue_token: next,
            field_selector: self.fields.clone(),
            ..ListParams::default()
        };
        match self.api.list(&parameters).await {
            Ok(list) => {
                let next = list.metadata.continue_.filter(|token| !token.is_empty());
                let page = State::Paging {
                    items: list.items.into(),
                    next,
                    version: list.metadata.resource_version.or(Some(String::new())),
                };
                (page, None)
            }
            Err(error) => (State::Start, Some(Event::Failed(error))),
        }
    }

    async fn watch(&mut self, version: String) -> (State, Option<Event>) {
        let parameters = self.watch_parameters();
        match self.api.watch(&parameters, &version).await {
            Ok(stream) => {
                let watching = State::Watching {
                    version,
                    stream: stream.boxed(),
                    since: Instant::now(),
                };
                (watching, None)
            }
            Err(kube::Error::Api(status)) if status.code == 410 => self.forgotten(status),
            Err(error) => (State::Listed(version), Some(Event::Failed(error))),
        }
    }

    async fn watched(
        &mut self,
        version: String,
        mut stream: Stream,
        since: Instant,
    ) -> (State, Option<Event>) {
        let longest = Duration::from_secs(WATCH_SECONDS.into()) + MARGIN;
        let event = timeout(longest, stream.next()).await.unwrap_or(None);
        let on = |object: &DynamicObject, stream| State::Watching {
            version: object
                .metadata
                .resource_version
                .clone()
                .unwrap_or(version.clone()),
            stream,
            since,
        };
        match event {
            Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                (on(&object, stream), Some(Event::Apply(Box::new(object))))
            }
            Some(Ok(WatchEvent::Deleted(object))) => {
                (on(&object, stream), Some(Event::Delete(Box::new(object))))
            }
            Some(Ok(WatchEvent::Bookmark(mark))) => {
                let watching = State::Watching {
                    version: mark.metadata.resource_version,
                    stream,
                    since,
                };
                (watching, None)
            }
            Some(Ok(WatchEvent::Error(status)) | Err(kube::Error::Api(status))) if status.code == 410 => {
                self.forgotten(status)
            }
            Some(Ok(WatchEvent::Error(status))) => (State::Listed(version), Some(failed(status))),
            Some(Err(error)) => (State::Listed(version), Some(Event::Failed(error))),
            None if since.elapsed() < SHORTEST => {
                let ended = std::io::Error::new(
                    std::io::ErrorKind::UnexpectedEof,
                    "the watch ended as soon as it had begun",
                );
                let failed = Event::Failed(kube::Error::ReadEvents(ended));
                (State::Listed(version), Some(failed))
            }
            None => (State::Listed(version), None),
        }
    }

    /// The API server has forgotten the place: everything is read again, at once the first time.
    fn forgotten(&mut self, status: Box<kube::core::Status>) -> (State, Option<Event>) {
        tracing::debug!(
            kind = self.name,
            "the API server has forgotten where the watch was"
        );
        let now = Instant::now();
        let again = self
            .forgotten
            .replace(now)
            .is_some_and(|last| now - last < SHORTEST);
        (State::Start, again.then(|| failed(status)))
    }
}

fn failed(status: Box<kube::core::Status>) -> Event {
    Event::Failed(kube::Error::Api(status))
}

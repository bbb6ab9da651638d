//! Which rule and backend a request takes.
//!
//! Enters: the target of a connection and a request's head. Leaves: the [`Route`]. Never: another Service than the
//! connection's because of a header: the address that the application chose wins.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use weft_engine::Wish;
use weft_engine::retry;
use weft_engine::route::{Choice, RequestHead, RouteTable};
use weft_proto::model::HeaderChanges;

use crate::context::Worker;
use crate::failure::Failure;
use crate::upstream::call::Target;

/// Where a request goes, and under which bounds.
#[derive(Clone, Debug)]
pub struct Route {
    /// The backend; `None`: the connection's own target.
    target: Option<Target>,
    rule: Option<(Arc<RouteTable>, usize)>,
    /// Bound on the whole request.
    pub request_timeout: Option<Duration>,
    /// Bound on one try.
    pub try_timeout: Option<Duration>,
}

impl Route {
    /// Chooses. `head` is only asked for if there are rules.
    ///
    /// # Errors
    /// [`Failure::NoRoute`], [`Failure::NoBackend`] or [`Failure::NotLearned`].
    pub fn choose<'a>(
        worker: &Worker,
        target: &Target,
        head: impl FnOnce() -> RequestHead<'a>,
    ) -> Result<Self, Failure> {
        let destination = match target {
            Target::Service(destination) => destination,
            Target::Unlearned(_) => return Err(Failure::NotLearned),
            _ => return Ok(Self::straight()),
        };
        let Some(table) = &destination.routes else {
            return Ok(Self::straight());
        };
        let choice = worker.random(|rng| table.choose(destination.port.port, &head(), rng));
        let (rule, backend) = match choice {
            Choice::Rule { rule, backend } => (rule, backend),
            Choice::Service => return Ok(Self::straight()),
            Choice::Answer { .. } | Choice::NoMatch => return Err(Failure::NoRoute),
            Choice::Unavailable { .. } => return Err(Failure::NoBackend),
        };
        let own = backend.service == destination.service && backend.port == destination.port.port;
        let target = match own {
            true => None,
            false => match worker
                .view()
                .backend(&backend.service, backend.port, backend.subset.as_deref())
            {
                Some(backend) => Some(Target::Service(backend.clone())),
                None => return Err(Failure::NoBackend),
            },
        };
        Ok(Self {
            target,
            request_timeout: rule.request_timeout,
            try_timeout: rule.backend_timeout,
            rule: Some((table.clone(), rule.index)),
        })
    }

    fn straight() -> Self {
        Self {
            target: None,
            rule: None,
            request_timeout: None,
            try_timeout: None,
        }
    }

    /// The target of the request.
    pub fn target<'a>(&'a self, own: &'a Target) -> &'a Target {
        self.target.as_ref().unwrap_or(own)
    }

    /// What is tried again.
    pub fn retries(&self) -> &retry::Policy {
        static OWN: LazyLock<retry::Policy> = LazyLock::new(retry::Policy::default);
        &OWN
    }

    /// Which endpoint the request would like.
    pub fn wish(&self) -> Wish {
        Wish::default()
    }

    /// Changes to the request's fields.
    pub fn request_changes(&self) -> Option<&HeaderChanges> {
        self.changes(|rule| &rule.request_headers)
    }

    /// Changes to the response's fields.
    pub fn response_changes(&self) -> Option<&HeaderChanges> {
        self.changes(|rule| &rule.response_headers)
    }

    fn changes(
        &self,
        of: impl Fn(&weft_engine::route::CompiledRule) -> &HeaderChanges,
    ) -> Option<&HeaderChanges> {
        let (table, index) = self.rule.as_ref()?;
        let changes = of(table.rules().get(*index)?);
        let empty = changes.set.is_empty() && changes.add.is_empty() && changes.remove.is_empty();
        (!empty).then_some(changes)
    }
}

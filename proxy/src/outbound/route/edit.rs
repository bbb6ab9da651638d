//! What is sent and answered otherwise than it came, and where copies go.
//!
//! Enters: a route. Leaves: changes to a request and to its answer. Never: an allocation where a rule asks for none.

use weft_proto::model::{HeaderChanges, Mirror};

use super::Route;
use crate::changes::Changes;
use crate::context::Worker;
use crate::outbound::sticky;
use crate::upstream::call::{Place, Target};

impl Route {
    /// The host to send instead of the request's.
    pub fn host(&self) -> Option<&str> {
        let backend = self.chosen();
        let own = backend.and_then(|backend| {
            let set = &backend.request_headers.set;
            set.iter().rfind(|(name, _)| &**name == "host")
        });
        match own {
            Some((_, host)) => Some(host),
            None => self.rule()?.host.as_deref(),
        }
    }

    /// The path and query to send instead of the request's.
    pub fn path(&self) -> Option<&str> {
        self.extra.as_ref()?.path.as_deref()
    }

    /// Changes to the request's fields.
    pub fn request_changes(&self) -> Changes<'_> {
        let Some(rule) = self.rule() else {
            return Changes::NONE;
        };
        let backend = self.chosen().map(|backend| &backend.request_headers);
        Changes::new([Some(&rule.request_headers), backend, None])
    }

    /// Changes to the response's fields; [`Route::told`] may add to them.
    pub fn response_changes(&self) -> Changes<'_> {
        let Some(rule) = self.rule() else {
            return Changes::NONE;
        };
        let backend = self.chosen().map(|backend| &backend.response_headers);
        Changes::new([Some(&rule.response_headers), backend, None])
    }

    /// What the client is told besides, now that an endpoint answered.
    pub fn told(&self, worker: &Worker, place: &Place, own: &Target) -> Option<HeaderChanges> {
        let to = match (self.target(own), place) {
            (Target::Service(to), Place::Picked(_)) => Some(to),
            _ => None,
        };
        let of_rule = self.rule().and_then(|rule| rule.session.as_ref());
        let session = to.and_then(|to| Some((to, of_rule.or(to.traffic.session.as_ref())?)));
        if session.is_none() && self.extra.is_none() {
            return None;
        }
        let extra = self.extra.as_deref();
        let mut changes = HeaderChanges::default();
        if let Some((to, session)) = session {
            let before = extra.and_then(|extra| extra.held.as_ref());
            let now = worker.wall();
            changes =
                sticky::tell(session, before, sticky::backend(to), place.address(), now).unwrap_or_default();
        }
        if let Some(extra) = extra {
            for (name, value) in &extra.cors {
                // Others may have named what it varies by.
                let list = if &**name == "vary" {
                    &mut changes.add
                } else {
                    &mut changes.set
                };
                list.push((name.clone(), value.clone()));
            }
            if let Some(cookie) = &extra.cookie {
                changes.add.push(("set-cookie".into(), cookie.clone()));
            }
        }
        Some(changes)
    }

    /// Whether copies go somewhere.
    pub fn is_mirrored(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| !extra.mirrors.is_empty())
    }

    /// Where copies go.
    pub fn mirrors(&self) -> impl Iterator<Item = &Mirror> {
        let wanted = self.extra.iter().flat_map(|extra| &extra.mirrors);
        wanted.filter_map(|index| self.rule()?.mirrors.get(*index))
    }
}

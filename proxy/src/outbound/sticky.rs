//! Clients that come back to where they were: sessions of routes and of destinations, and hashes of destinations.
//!
//! Enters: a request's head. Leaves: what the choice of an endpoint is asked, and the cookie or header for the answer. Never: an endpoint
//! that its backend doesn't have, whatever a client brings.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_engine::route::session::{self, Held};
use weft_engine::route::{RequestHead, hash};
use weft_proto::model::{Hash, HeaderChanges, Session, SessionKind};

use super::scene::Scene;
use crate::view::Destination;

/// Whether a destination asks for clients that come back, by a session or by a hash.
pub fn sticks(destination: &Destination) -> bool {
    destination.traffic.balance.hash.is_some() || destination.traffic.session.is_some()
}

/// What a session of a destination holds of it.
pub fn backend(destination: &Destination) -> u32 {
    session::destination(
        &destination.service,
        destination.port.port,
        destination.subset.as_deref(),
    )
}

/// The session that a client brings.
pub fn held(rule: &Session, head: &RequestHead<'_>, now: u32) -> Option<Held> {
    let value = match rule.kind {
        SessionKind::Cookie => session::cookie(head.headers, &rule.name)?,
        SessionKind::Header => head.headers.get(&*rule.name)?.as_bytes(),
    };
    session::decode(value, rule, now)
}

/// What the client is told so that it comes back; `None`: it knows.
pub fn tell(
    rule: &Session,
    before: Option<&Held>,
    backend: u32,
    address: SocketAddr,
    now: u32,
) -> Option<HeaderChanges> {
    let same = before.filter(|before| before.address == address && before.backend == backend);
    if same.is_some() && rule.idle_timeout.is_none() {
        return None;
    }
    let held = Held {
        address,
        begun: same.map_or(now, |same| same.begun),
        backend,
    };
    let value = session::encode(&held, now);
    let mut changes = HeaderChanges::default();
    match rule.kind {
        SessionKind::Header => changes.set.push((rule.name.clone(), value.into())),
        SessionKind::Cookie => {
            let mut cookie = format!("{}={value}; Path={}; HttpOnly", rule.name, rule.path);
            if let (true, Some(longest)) = (rule.permanent, rule.absolute_timeout) {
                let left = longest
                    .as_secs()
                    .saturating_sub(u64::from(now.saturating_sub(held.begun)));
                cookie.push_str(&format!("; Max-Age={left}"));
            }
            changes.add.push(("set-cookie".into(), cookie.into()));
        }
    }
    Some(changes)
}

/// The hash of a request, and the cookie that is set if it had none.
pub fn hashed(
    scene: &Scene<'_>,
    what: &Hash,
    head: &RequestHead<'_>,
    source: IpAddr,
) -> (Option<u64>, Option<Arc<str>>) {
    match (hash::of(what, head, source), what) {
        (
            None,
            Hash::Cookie {
                name,
                path,
                ttl: Some(ttl),
            },
        ) => {
            let value: u64 = scene.random(rand::RngExt::random);
            let value = format!("{value:016x}");
            let path = if path.is_empty() { "/" } else { path };
            let age = match ttl.as_secs() {
                0 => String::new(),
                age => format!("; Max-Age={age}"),
            };
            let cookie = format!("{name}={value}; Path={path}; HttpOnly{age}");
            (Some(hash::bytes(value.as_bytes())), Some(cookie.into()))
        }
        (hash, _) => (hash, None),
    }
}

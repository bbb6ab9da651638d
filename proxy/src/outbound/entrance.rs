//! By which way a client came, and what that means for its requests.
//!
//! Enters: an intercepted address, or a door of the gateway. Leaves: the target of a connection, and requests that say how they came.
//! Never: what a client outside the mesh says of its own way, passed on as if it were known.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::find;
use crate::context::Worker;
use crate::gateway::arrival::Door;
use crate::http1::head::Head;
use crate::http2::asked::Asked;
use crate::http2::{CLIENT, Limits, OUTSIDE};
use crate::upstream::call::Target;

/// Through whom a request came, the client first.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// What the client spoke.
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// Who connects, and by which way.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// The client's address.
    pub peer: SocketAddr,
    way: Way,
}

#[derive(Clone, Debug)]
enum Way {
    /// The application connected to this.
    Address(SocketAddr),
    /// A client outside the mesh.
    Gateway(Door),
}

impl Entrance {
    /// The application connects to an address.
    pub fn address(peer: SocketAddr, original: SocketAddr) -> Self {
        let way = Way::Address(original);
        Self { peer, way }
    }

    /// A client outside the mesh connects to the gateway.
    pub fn gateway(peer: SocketAddr, door: Door) -> Self {
        let way = Way::Gateway(door);
        Self { peer, way }
    }

    /// The target, by the view of now.
    pub async fn target(&self, worker: &Worker) -> Target {
        match &self.way {
            Way::Address(original) => find::target(worker, *original).await,
            Way::Gateway(door) => Target::Listener(Arc::new(door.arrive(&worker.view()))),
        }
    }

    /// What its connection may do if it speaks HTTP/2.
    pub fn limits(&self) -> Limits {
        match self.way {
            Way::Address(_) => CLIENT,
            Way::Gateway(_) => OUTSIDE,
        }
    }

    /// What the access log calls it.
    pub fn direction(&self) -> &'static str {
        match self.way {
            Way::Address(_) => "outbound",
            Way::Gateway(_) => "gateway",
        }
    }

    /// What the client speaks; `None`: nobody knows better than the client.
    pub fn scheme(&self) -> Option<&'static str> {
        match &self.way {
            Way::Address(_) => None,
            Way::Gateway(door) => Some(door.scheme()),
        }
    }

    /// Makes a request say how it came. `head`: of HTTP/1.
    pub fn mark(&self, head: &mut Head) {
        let Way::Gateway(door) = &self.way else { return };
        let before: Vec<_> = head.values(FORWARDED_FOR).map(String::from_utf8_lossy).collect();
        let through = self.through(before);
        head.take_away(is_forwarding);
        head.append(FORWARDED_FOR, &through);
        head.append(FORWARDED_PROTO, door.scheme());
    }

    /// As [`Entrance::mark`], of HTTP/2.
    pub fn mark_http2(&self, asked: &mut Asked) {
        let Way::Gateway(door) = &self.way else { return };
        let fields = &mut asked.fields;
        let before = fields.get_all(FORWARDED_FOR).iter();
        let through = self.through(
            before
                .map(|value| String::from_utf8_lossy(value.as_bytes()))
                .collect(),
        );
        take_away(fields);
        if let Ok(through) = HeaderValue::from_str(&through) {
            fields.insert(FORWARDED_FOR, through);
        }
        fields.insert(FORWARDED_PROTO, HeaderValue::from_static(door.scheme()));
        let scheme = match door.tls {
            Some(_) => Scheme::HTTPS,
            None => Scheme::HTTP,
        };
        if asked.uri.scheme() != Some(&scheme) && asked.uri.authority().is_some() {
            let mut parts = asked.uri.clone().into_parts();
            parts.scheme = Some(scheme);
            if let Ok(uri) = Uri::from_parts(parts) {
                asked.uri = uri;
            }
        }
    }

    /// Those whom a client says that it came through, and its own address.
    fn through(&self, before: Vec<Cow<'_, str>>) -> String {
        let mut list = before.join(", ");
        // What isn't text that a field may have can't be passed on.
        list.retain(|c| (' '..='~').contains(&c));
        if !list.is_empty() {
            list.push_str(", ");
        }
        // A string takes all that is written.
        let _ = write!(list, "{}", self.peer.ip().to_canonical());
        list
    }
}

fn take_away(fields: &mut HeaderMap) {
    let gone: Vec<HeaderName> = fields
        .keys()
        .filter(|name| is_forwarding(name.as_ref()))
        .cloned()
        .collect();
    for name in gone {
        fields.remove(name);
    }
}

/// Whether a field says how a request came, in any spelling that some application takes for it: many read `_` as `-`.
fn is_forwarding(name: &[u8]) -> bool {
    let is = |start: &str, whole: bool| {
        (name.len() == start.len() || !whole && name.len() > start.len())
            && name
                .iter()
                .zip(start.bytes())
                .all(|(byte, wanted)| byte.eq_ignore_ascii_case(&wanted) || wanted == b'-' && *byte == b'_')
    };
    is("forwarded", true) || is("x-real-ip", true) || is("x-forwarded-", false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(tls: bool) -> Entrance {
        let door = Door {
            bind: 8080,
            tls: tls.then_some(None),
        };
        Entrance::gateway("203.0.113.7:5000".parse().unwrap(), door)
    }

    #[test]
    fn a_request_says_how_it_came_and_nothing_else_does() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\nX_Forwarded_Proto: ftp\r\n\
            Forwarded: for=9.9.9.9\r\nX-Real-IP: 9.9.9.9\r\nx-forwarded-for: 2.2.2.2\r\nX-Kept: 1\r\n\r\n";
        let (mut head, _) = Head::request(bytes).unwrap().unwrap();
        door(false).mark(&mut head);
        let lines: Vec<u8> = head.kept_lines(|_| false).flatten().copied().collect();
        assert_eq!(
            String::from_utf8(lines).unwrap(),
            "Host: a\r\nX-Kept: 1\r\nx-forwarded-for: 1.1.1.1, 2.2.2.2, 203.0.113.7\r\nx-forwarded-proto: http\r\n"
        );
        let uri = Uri::from_static("http://a.test/x");
        let fields = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x_forwarded_host", "b"),
            ("x-kept", "1"),
        ];
        let fields = fields
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let mut asked = Asked::read(http::Method::GET, uri, fields).unwrap();
        door(true).mark_http2(&mut asked);
        assert_eq!(asked.uri.scheme_str(), Some("https"));
        assert_eq!(asked.fields["x-forwarded-for"], "1.1.1.1, 203.0.113.7");
        assert_eq!(asked.fields["x-forwarded-proto"], "https");
        assert_eq!(asked.fields.len(), 3);
    }
}

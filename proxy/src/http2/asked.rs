//! What a request asks for, in the one form that policy is decided on and that is sent on.
//!
//! Enters: a request's head as h2 validated it (RFC 9113 section 8.3). Leaves: [`Asked`], and the head without the fields
//! that end at this hop. Never: two readings of a path or of an authority.

use std::time::Duration;

use http::header::{HOST, HeaderName};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Uri};
use tokio::time::Instant;
use weft_engine::deadline::{self, GRPC_TIMEOUT};
use weft_engine::path;

use super::MAX_FIELDS;
use crate::changes::Changes;
use crate::context::Worker;
use crate::failure::Failure;
use crate::http1::field::Kind;
use crate::http1::head::Malformed;
use crate::inbound::UNDELIVERED;
use crate::request_id::{self, RequestId};

/// Who calls, as Envoy writes it.
pub const IDENTITY: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// A request's head, normal and ready for the next hop.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Method.
    pub method: Method,
    /// Scheme, authority, normal path and query.
    pub uri: Uri,
    /// Fields.
    pub fields: HeaderMap,
    /// It is gRPC.
    pub grpc: bool,
}

impl Asked {
    /// Reads a head.
    ///
    /// # Errors
    /// [`Failure::Head`] or [`Failure::Path`].
    pub fn read(method: Method, uri: Uri, mut fields: HeaderMap) -> Result<Self, Failure> {
        if fields.len() > MAX_FIELDS {
            return Err(Failure::Head(Malformed::TooLarge));
        }
        if method == Method::CONNECT {
            return Err(Failure::Head(Malformed::Target));
        }
        let host = single(&fields, &HOST)?;
        let authority = match (uri.authority(), host) {
            (Some(authority), Some(host)) if authority.as_str().as_bytes() != host.as_bytes() => {
                return Err(Failure::Head(Malformed::Host));
            }
            (Some(authority), _) => Some(authority.clone()),
            (None, Some(host)) => {
                Some(Authority::try_from(host.as_bytes()).map_err(|_| Failure::Head(Malformed::Host))?)
            }
            (None, None) => return Err(Failure::Head(Malformed::Host)),
        };
        if authority
            .as_ref()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err(Failure::Head(Malformed::Host));
        }
        fields.remove(HOST);
        while let Some(name) = fields
            .keys()
            .find(|name| Kind::of(name.as_ref()) == Kind::Identity)
        {
            let name = name.clone();
            fields.remove(name);
        }
        fields.remove(UNDELIVERED);
        let grpc = fields
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        let normal = path::normalize(uri.path()).map_err(|_| Failure::Path)?;
        let same = normal.len() == uri.path().len() && *normal == *uri.path();
        let uri = if same && uri.authority().is_some() && uri.scheme().is_some() {
            uri
        } else {
            let target = match uri.query() {
                Some(query) => format!("{normal}?{query}"),
                None => normal.into_owned(),
            };
            let mut parts = uri.into_parts();
            parts.scheme = parts.scheme.or(Some(Scheme::HTTP));
            parts.authority = authority;
            parts.path_and_query = Some(PathAndQuery::from_maybe_shared(target).map_err(|_| Failure::Path)?);
            Uri::from_parts(parts).map_err(|_| Failure::Path)?
        };
        Ok(Self {
            method,
            uri,
            fields,
            grpc,
        })
    }

    /// Gives the request a name for the logs if it has none.
    pub fn name(&mut self, worker: &Worker) {
        if !self.fields.contains_key(request_id::NAME)
            && let Some(value) = RequestId::new(worker).value()
        {
            self.fields.insert(request_id::NAME, value);
        }
    }

    /// Host and port as the client named them.
    pub fn authority(&self) -> &str {
        self.uri.authority().map_or("", Authority::as_str)
    }

    /// The head of the request to the next hop. `host` and `path`: instead of the request's; one that can't be written leaves it.
    pub fn request(&self, host: Option<&str>, path: Option<&str>, changes: Changes<'_>) -> http::Request<()> {
        let mut request = http::Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = match (host, path) {
            (None, None) => self.uri.clone(),
            _ => self.elsewhere(host, path).unwrap_or_else(|| self.uri.clone()),
        };
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = self.fields.clone();
        changes.apply(request.headers_mut());
        request
    }

    /// When nobody waits for the answer any more: the caller of gRPC says so, and the route may; the sooner counts.
    pub fn deadline(&self, begun: Instant, bound: Option<Duration>) -> Option<Instant> {
        let said = self.fields.get(GRPC_TIMEOUT).filter(|_| self.grpc);
        let said = said.and_then(|value| deadline::parse(value.as_bytes()));
        said.into_iter().chain(bound).min().map(|time| begun + time)
    }

    /// Tells the next hop how long is left, if this is gRPC.
    pub fn pass_on(&self, request: &mut http::Request<()>, deadline: Option<Instant>) {
        let Some(deadline) = deadline.filter(|_| self.grpc) else {
            return;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if let Ok(value) = HeaderValue::from_str(&deadline::format(left)) {
            request.headers_mut().insert(GRPC_TIMEOUT, value);
        }
    }

    fn elsewhere(&self, host: Option<&str>, path: Option<&str>) -> Option<Uri> {
        let mut parts = self.uri.clone().into_parts();
        if let Some(host) = host {
            parts.authority = Some(Authority::try_from(host).ok()?);
        }
        if let Some(path) = path {
            parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
        }
        Uri::from_parts(parts).ok()
    }
}

fn single<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Failure> {
    let mut values = fields.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        Err(Failure::Head(Malformed::Host))
    } else {
        Ok(first)
    }
}

//! What is asked: a request that somebody might send, and one that arrives.
//!
//! In: a URL, a method and header fields as a person writes them, or JSON. Out: the same in the one form that decisions are made on.
//! Never: more fields or longer ones than a sidecar takes from an application.

use crate::path;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// Most header fields.
const MOST_FIELDS: usize = 100;
/// Longest URL, and longest field, in bytes.
const LONGEST: usize = 32 << 10;

/// A request that a workload might send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// `http`, `https` (the application's own TLS) or `tcp` (bytes that are no HTTP).
    pub scheme: String,
    /// Host that is connected to: a name or an address, without brackets.
    pub host: String,
    /// Port that is connected to.
    pub port: u16,
    /// Method.
    pub method: String,
    /// Normal path.
    pub path: String,
    /// What follows `?`.
    #[serde(default)]
    pub query: Option<String>,
    /// Host or `:authority`, as sent.
    pub authority: String,
    /// Header fields, lower-case names.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// Begins the draws; the same seed gives the same choices. `None`: any.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Address of the client, where a gateway is asked; `None`: [`SOMEBODY`].
    #[serde(default)]
    pub client: Option<IpAddr>,
}

/// A client outside the mesh of which nothing is said: an address that nobody has (RFC 5737).
pub const SOMEBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A request or connection that arrives at a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// The caller's identity, as a URI; `None`: plain text.
    pub identity: Option<String>,
    /// The caller's address.
    pub address: IpAddr,
    /// The pod's port.
    pub port: u16,
    /// It is HTTP; else only the connection counts.
    pub http: bool,
    /// Method.
    #[serde(default)]
    pub method: String,
    /// Normal path.
    #[serde(default)]
    pub path: String,
    /// What follows `?`.
    #[serde(default)]
    pub query: Option<String>,
    /// Host or `:authority`.
    #[serde(default)]
    pub authority: String,
    /// Header fields, lower-case names.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
}

/// Why something is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Not a URL.
    #[error("{0:?} is no URL: write http://HOST[:PORT]/PATH, or tcp://HOST:PORT")]
    Url(String),
    /// A scheme that isn't known.
    #[error("scheme {0:?} is none of http, https, grpc and tcp")]
    Scheme(String),
    /// A port is needed.
    #[error("tcp:// needs a port: write tcp://HOST:PORT")]
    Port,
    /// The path would be refused with 400.
    #[error("every sidecar would refuse this path with 400: {0}")]
    Path(#[from] path::BadPath),
    /// Not a method.
    #[error("{0:?} is no HTTP method")]
    Method(String),
    /// Not a header field.
    #[error("{0:?} is no header field: write NAME: VALUE")]
    Header(String),
    /// Too much.
    #[error("there are more than {MOST_FIELDS} header fields or something has more than 32 KiB")]
    TooMuch,
}

impl Request {
    /// Reads what a person wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(url: &str, method: Option<&str>, headers: &[String]) -> Result<Self, BadRequest> {
        let bad = || BadRequest::Url(url.chars().take(200).collect());
        if url.len() > LONGEST
            || headers.len() > MOST_FIELDS
            || headers.iter().any(|line| line.len() > LONGEST)
        {
            return Err(BadRequest::TooMuch);
        }
        let whole = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        let uri: Uri = whole.parse().map_err(|_| bad())?;
        let authority = uri.authority().ok_or_else(bad)?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(bad());
        }
        let written = uri.scheme_str().unwrap_or("http");
        let (scheme, usual) = match written {
            "http" | "grpc" => ("http", Some(80)),
            "https" | "grpcs" => ("https", Some(443)),
            "tcp" => ("tcp", None),
            other => return Err(BadRequest::Scheme(other.to_owned())),
        };
        let port = authority
            .port_u16()
            .or(usual)
            .filter(|port| *port > 0)
            .ok_or(BadRequest::Port)?;
        let mut fields = Vec::new();
        let mut named = None;
        for line in headers {
            let (name, value) = field(line)?;
            match name.as_str() {
                "host" | ":authority" => named = Some(value),
                _ => fields.push((name, value)),
            }
        }
        if written == "grpc" && !fields.iter().any(|(name, _)| name == "content-type") {
            fields.push(("content-type".to_owned(), "application/grpc".to_owned()));
        }
        let method = method.unwrap_or(if written == "grpc" { "POST" } else { "GET" });
        Method::from_bytes(method.as_bytes()).map_err(|_| BadRequest::Method(method.to_owned()))?;
        Ok(Self {
            scheme: scheme.to_owned(),
            host: authority
                .host()
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port,
            method: method.to_owned(),
            path: path::normalize(uri.path())?.into_owned(),
            query: uri.query().map(str::to_owned),
            authority: named.unwrap_or_else(|| authority.as_str().to_owned()),
            headers: fields,
            seed: None,
            client: None,
        })
    }

    /// Checks what came as JSON.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), BadRequest> {
        let texts = [&self.host, &self.path, &self.authority, &self.method];
        bounded(&self.headers, texts.into_iter().chain(&self.query))?;
        Method::from_bytes(self.method.as_bytes()).map_err(|_| BadRequest::Method(self.method.clone()))?;
        if *path::normalize(&self.path)? != *self.path {
            return Err(BadRequest::Path(path::BadPath::NotAbsolute));
        }
        fields(&self.headers).map(|_| ())
    }

    /// Whether it is a request of which anything but its connection can be seen.
    pub fn is_http(&self) -> bool {
        self.scheme == "http"
    }

    /// Header fields as they are matched.
    ///
    /// # Errors
    /// One that is none.
    pub fn fields(&self) -> Result<HeaderMap, BadRequest> {
        fields(&self.headers)
    }
}

impl Arrival {
    /// Checks what came as JSON.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), BadRequest> {
        let texts = [&self.path, &self.authority, &self.method];
        bounded(
            &self.headers,
            texts.into_iter().chain(&self.query).chain(&self.identity),
        )?;
        fields(&self.headers).map(|_| ())
    }

    /// Header fields as they are matched.
    ///
    /// # Errors
    /// One that is none.
    pub fn fields(&self) -> Result<HeaderMap, BadRequest> {
        fields(&self.headers)
    }
}

fn bounded<'a>(
    headers: &[(String, String)],
    texts: impl Iterator<Item = &'a String>,
) -> Result<(), BadRequest> {
    let long = |text: &String| text.len() > LONGEST;
    if headers.len() > MOST_FIELDS
        || headers.iter().any(|(name, value)| long(name) || long(value))
        || texts.into_iter().any(long)
    {
        return Err(BadRequest::TooMuch);
    }
    Ok(())
}

fn fields(headers: &[(String, String)]) -> Result<HeaderMap, BadRequest> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let bad = || BadRequest::Header(format!("{name}: {value}"));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        map.append(name, HeaderValue::from_str(value).map_err(|_| bad())?);
    }
    Ok(map)
}

fn field(line: &str) -> Result<(String, String), BadRequest> {
    let bad = || BadRequest::Header(line.to_owned());
    let (name, value) = line
        .split_once(':')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(bad)?;
    let (name, value) = (name.trim(), value.trim());
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
    HeaderValue::from_str(value).map_err(|_| bad())?;
    Ok((name.as_str().to_owned(), value.to_owned()))
}

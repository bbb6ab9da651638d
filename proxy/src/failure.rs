//! Everything that can go wrong with a request, by stage, and the one place that says what follows from it.
//!
//! Enters: a [`Failure`]. Leaves: status, gRPC status, response flag (Envoy's letters), a short text. Never: the name of a
//! policy, an address or anything else that the caller needn't know.

use http::StatusCode;

use crate::http1::body::BadBody;
use crate::http1::head::Malformed;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The head can't be read one way only.
    Head(Malformed),
    /// The path can't be read one way only.
    Path,
    /// The head did not come in time.
    HeadTimeout,
    /// The body is not what the head says.
    Body(BadBody),
    /// The service has routes and none matches.
    NoRoute,
    /// The host belongs to another listener than the server name of the connection's TLS.
    Misdirected,
    /// A route matches and has nowhere to send to.
    NoBackend,
    /// The control plane did not say in time where the service is.
    NotLearned,
    /// What the control plane says of the service can't be used.
    Unusable,
    /// No endpoint.
    NoEndpoint,
    /// No connection to the endpoint, or its identity wasn't proven.
    Connect,
    /// The endpoint's sidecar has no connection to the application.
    Undelivered,
    /// The connection to the endpoint broke.
    Reset,
    /// The endpoint's response can't be read.
    Response,
    /// A bound on time passed.
    Timeout,
    /// The endpoint fell silent.
    Silent,
    /// The caller is gone.
    ClientGone,
    /// Policy says no.
    Denied,
    /// As many requests or connections as may be are under way.
    Overflow,
    /// As many requests as may be wait for the application.
    Crowded,
    /// More requests than the pod takes.
    RateLimited,
    /// The sidecar ends.
    Ended,
}

impl Failure {
    /// HTTP status of the answer; `None`: there is nobody to answer, or too late for it.
    pub fn status(self) -> Option<StatusCode> {
        Some(match self {
            Self::Head(Malformed::TooLarge) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Head(_) | Self::Path | Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::NoBackend | Self::Unusable => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotLearned
            | Self::NoEndpoint
            | Self::Connect
            | Self::Undelivered
            | Self::Reset
            | Self::Overflow
            | Self::Crowded
            | Self::Ended => StatusCode::SERVICE_UNAVAILABLE,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Response => StatusCode::BAD_GATEWAY,
            Self::Timeout | Self::Silent => StatusCode::GATEWAY_TIMEOUT,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::ClientGone => return None,
        })
    }

    /// gRPC status of the same.
    pub fn grpc_status(self) -> u8 {
        match self {
            Self::Head(_)
            | Self::Path
            | Self::Body(_)
            | Self::NoBackend
            | Self::Unusable
            | Self::Response => 13,
            Self::HeadTimeout | Self::Timeout | Self::Silent => 4,
            Self::NoRoute | Self::Misdirected => 12,
            Self::NotLearned
            | Self::NoEndpoint
            | Self::Connect
            | Self::Undelivered
            | Self::Reset
            | Self::Overflow
            | Self::Crowded
            | Self::Ended => 14,
            Self::RateLimited => 8,
            Self::ClientGone => 1,
            Self::Denied => 7,
        }
    }

    /// Envoy's response flag.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Head(_) | Self::Path | Self::Body(_) => "DPE",
            Self::HeadTimeout => "SI",
            Self::NoRoute | Self::Misdirected | Self::NoBackend => "NR",
            Self::NotLearned | Self::Unusable => "NC",
            Self::NoEndpoint => "UH",
            Self::Connect | Self::Undelivered => "UF",
            Self::Reset => "UC",
            Self::Response => "UPE",
            Self::Timeout | Self::Silent => "UT",
            Self::ClientGone => "DC",
            Self::Denied => "UAEX",
            Self::Overflow | Self::Crowded => "UO",
            Self::RateLimited => "RL",
            Self::Ended => "LR",
        }
    }

    /// The answer's body.
    pub fn text(self) -> &'static str {
        match self {
            Self::Head(Malformed::TooLarge) => "the request's head has more than 100 fields or 64 KiB\n",
            Self::Head(_) => "the request is not valid HTTP\n",
            Self::Path => "the request's path is not valid\n",
            Self::HeadTimeout => "the request's head did not come in time\n",
            Self::Body(_) => "the request's body is not valid\n",
            Self::NoRoute => "no route matches this request\n",
            Self::Misdirected => {
                "the gateway serves this host to other connections only: the TLS server name is of another listener\n"
            }
            Self::NoBackend => "the route has no backend that can be used\n",
            Self::NotLearned => {
                "the control plane did not say in time where this service is, and it was not used before\n"
            }
            Self::Unusable => {
                "what the control plane says of this service can't be used; the sidecar's log and `weft status` say why\n"
            }
            Self::NoEndpoint => "the service has no endpoint\n",
            Self::Connect => "the endpoint can't be connected to\n",
            Self::Undelivered => "the application can't be connected to\n",
            Self::Reset => "the connection broke before the response\n",
            Self::Response => "the response is not valid HTTP\n",
            Self::Timeout | Self::Silent => "no response in time\n",
            Self::ClientGone => "the caller is gone\n",
            Self::Denied => "RBAC: access denied",
            Self::Overflow => "too many requests or connections to the service at once\n",
            Self::Crowded => "as many requests as the application takes wait for its answer\n",
            Self::RateLimited => "too many requests\n",
            Self::Ended => "this proxy ends\n",
        }
    }

    /// A short fixed word for the count of refusals, if it is the caller's input that is refused.
    pub fn refusal(self) -> Option<&'static str> {
        match self {
            Self::Head(Malformed::TooLarge) => Some("http-head-too-large"),
            Self::Head(Malformed::TwoLengths | Malformed::Length | Malformed::Coding) => Some("http-framing"),
            Self::Head(_) => Some("http-head"),
            Self::Path => Some("http-path"),
            Self::HeadTimeout => Some("http-head-timeout"),
            Self::Body(_) => Some("http-body"),
            _ => None,
        }
    }
}

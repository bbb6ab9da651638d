//! The fields of an HTTP/1 head that a proxy must know.
//!
//! Enters: a field's name or value. Leaves: what kind it is, or the members of a list. Never: an allocation.

/// What a field means to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// End to end.
    Other,
    /// `Host`.
    Host,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Connection`.
    Connection,
    /// `Upgrade`.
    Upgrade,
    /// `TE`: only `trailers` goes on.
    Te,
    /// `Expect`.
    Expect,
    /// Ends at this hop whatever it says.
    HopByHop,
    /// `X-Request-Id`: the request's name in logs; end to end.
    RequestId,
    /// Says who the peer is; nobody but the sidecar may say that.
    Identity,
}

impl Kind {
    /// The kind of a field by its name, without regard to case.
    pub fn of(name: &[u8]) -> Self {
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        match name.len() {
            2 if is(b"te") => Self::Te,
            4 if is(b"host") => Self::Host,
            6 if is(b"expect") => Self::Expect,
            7 if is(b"upgrade") => Self::Upgrade,
            12 if is(b"x-request-id") => Self::RequestId,
            10 if is(b"connection") => Self::Connection,
            10 if is(b"keep-alive") => Self::HopByHop,
            14 if is(b"content-length") => Self::ContentLength,
            14 if is(b"http2-settings") => Self::HopByHop,
            16 if is(b"proxy-connection") || is(b"weft-undelivered") => Self::HopByHop,
            17 if is(b"transfer-encoding") => Self::TransferEncoding,
            23 if is_identity(name) => Self::Identity,
            _ => Self::Other,
        }
    }
}

/// `x-forwarded-client-cert` in any spelling that some application takes for it: many read `_` as `-`.
fn is_identity(name: &[u8]) -> bool {
    let wanted = b"x-forwarded-client-cert";
    name.iter()
        .zip(wanted)
        .all(|(byte, wanted)| byte.eq_ignore_ascii_case(wanted) || (*wanted == b'-' && *byte == b'_'))
}

/// Fields that `Connection` can't take away: without them, a later reader would see another caller or another request.
pub fn is_protected(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 8] = [
        b"authorization",
        b"cookie",
        b"traceparent",
        b"tracestate",
        b"x-request-id",
        b"forwarded",
        b"trailer",
        b"via",
    ];
    let forwarded = name
        .get(..12)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"x-forwarded-"));
    forwarded || NAMES.iter().any(|each| each.eq_ignore_ascii_case(name))
}

/// Members of a comma-separated list, without white space and without empty ones.
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

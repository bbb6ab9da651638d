//! One strict reading of an HTTP/1 head (RFC 9112): where it ends, where its message ends, which fields stay on this hop.
//!
//! Enters: the first bytes of a message. Leaves: a [`Head`], its bytes apart from the body's. Never: a guess. Whatever two
//! readers could take for two different messages is refused: bare LF or CR, folded lines, two lengths, a length beside a
//! transfer coding, a transfer coding other than `chunked`, two hosts.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use http::header::{HeaderName, HeaderValue};

use super::field::Kind;
use crate::buffer::LIMIT;

/// Most fields of one head.
pub const MAX_FIELDS: usize = 100;
/// Most bytes of one head, start line included.
pub const MAX_HEAD: usize = LIMIT;

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunks (RFC 9112 section 7.1).
    Chunked,
    /// Up to the end of the connection; responses only.
    Close,
}

/// Which form the request's target has (RFC 9112 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `/path?query`.
    Origin,
    /// `http://host/path?query`.
    Absolute,
    /// `host:port`, with CONNECT.
    Authority,
    /// `*`, with OPTIONS.
    Asterisk,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not the syntax of HTTP/1.
    #[error("not an HTTP/1 message")]
    Syntax,
    /// A line that ends without CR LF.
    #[error("a line does not end in CR LF")]
    LineEnd,
    /// Longer than [`MAX_HEAD`] or more fields than [`MAX_FIELDS`].
    #[error("the head has more than 100 fields or 64 KiB")]
    TooLarge,
    /// Several or malformed Content-Length.
    #[error("Content-Length is not one number")]
    Length,
    /// A transfer coding that isn't just `chunked`, or in HTTP/1.0.
    #[error("Transfer-Encoding is not chunked")]
    Coding,
    /// Both a length and a transfer coding.
    #[error("both Content-Length and Transfer-Encoding")]
    TwoLengths,
    /// No Host, several or one with impossible characters.
    #[error("there must be one valid Host")]
    Host,
    /// A target that isn't a path, nor what its method allows.
    #[error("the request target is not valid")]
    Target,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: u32,
    pub(super) name_len: u32,
    pub(super) value: u32,
    pub(super) value_len: u32,
    pub(super) kind: Kind,
    pub(super) keep: bool,
}

/// A parsed head. Its memory is lent by the thread and goes back when it is dropped.
#[derive(Debug)]
pub struct Head {
    pub(super) memory: Memory,
    /// Method or reason phrase.
    pub(super) word: Range<usize>,
    pub(super) target: Range<usize>,
    pub(super) authority: Range<usize>,
    /// Of a request: its target's form.
    pub form: Form,
    /// Of a response: its status code.
    pub status: u16,
    /// HTTP/1.1, not 1.0.
    pub is_11: bool,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the sender keeps the connection.
    pub keep_alive: bool,
    /// The request asks for, or the response agrees to, another protocol on this connection.
    pub upgrade: bool,
    /// The client waits for 100 before it sends the body.
    pub expects_continue: bool,
    /// The request has a name already.
    pub has_request_id: bool,
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) bytes: Vec<u8>,
    pub(super) fields: Vec<Field>,
}

thread_local! {
    static SPARE: RefCell<Vec<(Vec<u8>, Vec<Field>)>> = const { RefCell::new(Vec::new()) };
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.bytes.capacity() <= 8192 {
            let memory = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.fields));
            // A thread that ends lends no more; then the memory is simply freed.
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < 64 {
                    spare.push(memory);
                }
            });
        }
    }
}

impl Memory {
    fn take() -> Self {
        let (mut bytes, mut fields) = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        bytes.clear();
        fields.clear();
        Self { bytes, fields }
    }
}

/// Frees half of the memory that this thread keeps for heads to come, as [`crate::buffer::trim`].
pub fn trim() {
    SPARE.with_borrow_mut(|spare| spare.truncate(spare.len() / 2));
}

/// Whether `bytes` may hold a whole head, of which the first `seen` bytes did not: cheaper than parsing anew for every
/// byte of a slow sender.
///
/// # Errors
/// [`Malformed::LineEnd`] as soon as a bare LF is there, [`Malformed::TooLarge`] beyond the limit.
pub fn may_be_complete(bytes: &[u8], seen: usize) -> Result<bool, Malformed> {
    // What was seen may have ended within the last line end.
    let from = seen.saturating_sub(3);
    for at in memchr::memchr_iter(b'\n', &bytes[from..]) {
        let at = from + at;
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(Malformed::LineEnd);
        }
        // What is behind the head is a body, in which a LF is a byte like any other.
        if bytes[at + 1..].starts_with(b"\r\n") {
            return Ok(true);
        }
    }
    if bytes.len() >= MAX_HEAD {
        Err(Malformed::TooLarge)
    } else {
        Ok(false)
    }
}

/// A LF after anything but CR; written so that the compiler makes vector code of it.
fn has_bare_lf(bytes: &[u8]) -> bool {
    let pairs = bytes.iter().zip(bytes.iter().skip(1));
    pairs.fold(0u8, |found, (before, this)| {
        found | (u8::from(*this == b'\n') & u8::from(*before != b'\r'))
    }) != 0
}

impl Head {
    /// Reads a request's head from the front of `bytes`. `None`: it isn't complete. Else also its length in bytes.
    ///
    /// # Errors
    /// [`Malformed`]: answer and close; where the next message begins is unknown.
    pub fn request(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let mut space = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Request::new(&mut []);
        let length = match parsed.parse_with_uninit_headers(bytes, &mut space) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(Malformed::TooLarge),
            Err(_) => return Err(Malformed::Syntax),
        };
        let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(Malformed::Syntax);
        };
        let mut head = Self::new(bytes, length, version, parsed.headers)?;
        head.word = offset(bytes, method.as_bytes());
        head.target = offset(bytes, target.as_bytes());
        head.settle_request()?;
        Ok(Some((head, length)))
    }

    /// Reads a response's head, as [`Head::request`]. `to_head`: the request was HEAD; `to_connect`: it was CONNECT.
    ///
    /// # Errors
    /// [`Malformed`]: the connection can't be used any more.
    pub fn response(
        bytes: &[u8],
        to_head: bool,
        to_connect: bool,
    ) -> Result<Option<(Self, usize)>, Malformed> {
        let mut space = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let length = match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut space) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(Malformed::TooLarge),
            Err(_) => return Err(Malformed::Syntax),
        };
        let (Some(status), Some(version)) = (parsed.code, parsed.version) else {
            return Err(Malformed::Syntax);
        };
        let mut head = Self::new(bytes, length, version, parsed.headers)?;
        head.word = parsed
            .reason
            .map_or(0..0, |reason| offset(bytes, reason.as_bytes()));
        head.status = status;
        head.settle_response(to_head, to_connect)?;
        Ok(Some((head, length)))
    }

    fn new(
        bytes: &[u8],
        length: usize,
        version: u8,
        headers: &[httparse::Header<'_>],
    ) -> Result<Self, Malformed> {
        if length > MAX_HEAD {
            return Err(Malformed::TooLarge);
        }
        if bytes[0] == b'\n' || has_bare_lf(&bytes[..length]) {
            return Err(Malformed::LineEnd);
        }
        let mut memory = Memory::take();
        memory.bytes.extend_from_slice(&bytes[..length]);
        for header in headers {
            let name = offset(bytes, header.name.as_bytes());
            let value = offset(bytes, header.value);
            memory.fields.push(Field {
                name: name.start as u32,
                name_len: name.len() as u32,
                value: value.start as u32,
                value_len: value.len() as u32,
                kind: Kind::of(header.name.as_bytes()),
                keep: true,
            });
        }
        Ok(Self {
            memory,
            word: 0..0,
            target: 0..0,
            authority: 0..0,
            form: Form::Origin,
            status: 0,
            is_11: version == 1,
            framing: Framing::Empty,
            keep_alive: version == 1,
            upgrade: false,
            expects_continue: false,
            has_request_id: false,
        })
    }

    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &[u8]> {
        let fields = self.memory.fields.iter().filter(move |field| field.kind == kind);
        fields.map(|field| &self.memory.bytes[range(field.value, field.value_len)])
    }

    /// The request's method.
    pub fn method(&self) -> &str {
        text(&self.memory.bytes[self.word.clone()])
    }

    /// The response's reason phrase.
    pub fn reason(&self) -> &[u8] {
        &self.memory.bytes[self.word.clone()]
    }

    /// Path and query, `*`, or CONNECT's `host:port`. Empty stands for `/` (absolute form without a path).
    pub fn target(&self) -> &str {
        text(&self.memory.bytes[self.target.clone()])
    }

    /// Host and port as the client named them; empty if it did not (HTTP/1.0).
    pub fn authority(&self) -> &str {
        text(&self.memory.bytes[self.authority.clone()])
    }

    /// Values of every field of a name, in order; names are compared without regard to case.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields()
            .filter(move |(each, _)| each.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// Every field, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let bytes = &self.memory.bytes;
        self.memory.fields.iter().map(|field| {
            (
                &bytes[range(field.name, field.name_len)],
                &bytes[range(field.value, field.value_len)],
            )
        })
    }

    /// The fields as a map, for whoever compares many.
    pub fn to_map(&self) -> http::HeaderMap {
        let mut map = http::HeaderMap::with_capacity(self.memory.fields.len());
        for (name, value) in self.fields() {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                map.append(name, value);
            }
        }
        map
    }

    /// The fields of the head that go on to the next hop, verbatim, as few slices. `drop` takes more away by name.
    pub fn kept_lines<'a>(
        &'a self,
        drop: impl Fn(&[u8]) -> bool + 'a,
    ) -> impl Iterator<Item = &'a [u8]> + 'a {
        let Memory { bytes, fields } = &self.memory;
        // Behind the last field comes the empty line.
        let end = bytes.len() - 2;
        let start_of = move |index: usize| fields.get(index).map_or(end, |field| field.name as usize);
        let mut next = 0;
        std::iter::from_fn(move || {
            let kept = |field: &Field| field.keep && !drop(&bytes[range(field.name, field.name_len)]);
            while next < fields.len() && !kept(&fields[next]) {
                next += 1;
            }
            if next == fields.len() {
                return None;
            }
            let first = next;
            while next < fields.len() && kept(&fields[next]) {
                next += 1;
            }
            Some(&bytes[start_of(first)..start_of(next)])
        })
    }

    /// Takes fields away, by name: they don't go on to the next hop.
    pub fn take_away(&mut self, gone: impl Fn(&[u8]) -> bool) {
        let Memory { bytes, fields } = &mut self.memory;
        for field in fields.iter_mut() {
            field.keep &= !gone(&bytes[range(field.name, field.name_len)]);
        }
    }

    /// Adds a field, which goes on to the next hop. The value must be one that a field may have.
    pub fn append(&mut self, name: &str, value: &str) {
        let Memory { bytes, fields } = &mut self.memory;
        // In the place of the empty line, which follows again.
        let at = bytes.len() - 2;
        bytes.truncate(at);
        bytes.extend_from_slice(format!("{name}: {value}\r\n\r\n").as_bytes());
        fields.push(Field {
            name: at as u32,
            name_len: name.len() as u32,
            value: (at + name.len() + 2) as u32,
            value_len: value.len() as u32,
            kind: Kind::of(name.as_bytes()),
            keep: true,
        });
    }

    /// The protocols of the Upgrade field, if the message asks for or agrees to one.
    pub fn upgrade_values(&self) -> impl Iterator<Item = &[u8]> {
        self.of_kind(Kind::Upgrade)
    }
}

/// Where a part lies. The parser may give an empty one from anywhere.
fn offset(of: &[u8], part: &[u8]) -> Range<usize> {
    if part.is_empty() {
        return 0..0;
    }
    let start = part.as_ptr() as usize - of.as_ptr() as usize;
    start..start + part.len()
}

pub(super) fn range(start: u32, length: u32) -> Range<usize> {
    start as usize..start as usize + length as usize
}

/// Method, target and host were checked to be ASCII or UTF-8 by the parser; anything else is shown as empty.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REQUEST: &[u8] = b"POST /a/b?c=d HTTP/1.1\r\nHost: cart:80\r\nContent-Length: 10\r\nConnection: x-a, close\r\n\
        X-A: 1\r\nX-Empty:\r\nTransfer-Encoding: chunked\r\nUpgrade: websocket\r\nExpect: 100-continue\r\n\r\n";
    const RESPONSE: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: keep-alive\r\nX-Empty:\r\n\r\n";

    #[test]
    fn a_reason_may_be_missing() {
        for text in [
            "HTTP/1.1 200\r\n\r\n",
            "HTTP/1.1 200 \r\n\r\n",
            "HTTP/1.0 404 \u{e4}\r\n\r\n",
        ] {
            let (head, length) = Head::response(text.as_bytes(), false, false).unwrap().unwrap();
            assert_eq!((head.reason(), length), (&b""[..], text.len()), "{text:?}");
            assert_eq!(head.framing, Framing::Close);
        }
    }

    #[test]
    fn a_head_is_complete_at_its_empty_line_however_it_comes() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\n\r\nbody\nof the next";
        let end = text.find("\r\n\r\n").unwrap() + 4;
        for (seen, length) in
            (0..text.len()).flat_map(|seen| (seen..=text.len()).map(move |length| (seen, length)))
        {
            // What was seen was not a whole head.
            if seen < end {
                let bytes = &text.as_bytes()[..length];
                assert_eq!(may_be_complete(bytes, seen), Ok(length >= end), "{seen} {length}");
            }
        }
        for bad in [
            "\nGET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\n",
        ] {
            let seen = (0..bad.len())
                .rev()
                .find(|seen| may_be_complete(&bad.as_bytes()[..*seen], 0).is_ok())
                .unwrap();
            assert_eq!(
                may_be_complete(bad.as_bytes(), 0),
                Err(Malformed::LineEnd),
                "{bad:?}"
            );
            assert_eq!(
                may_be_complete(bad.as_bytes(), seen),
                Err(Malformed::LineEnd),
                "{bad:?} after {seen}"
            );
        }
    }

    proptest! {
        #[test]
        fn mutated_heads_are_read_or_refused(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
            to_head in any::<bool>(),
        ) {
            for sample in [REQUEST, RESPONSE] {
                let mut bytes = sample.to_vec();
                for (at, value) in &changes {
                    let at = at.index(bytes.len());
                    bytes[at] = *value;
                }
                for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
                    let _ = may_be_complete(bytes, 0);
                    let heads = [Head::request(bytes), Head::response(bytes, to_head, !to_head)];
                    for (head, length) in heads.into_iter().flatten().flatten() {
                        prop_assert!(length <= bytes.len());
                        let kept: usize = head.kept_lines(|_| false).map(<[u8]>::len).sum();
                        prop_assert!(kept < length);
                        let _ = (head.method(), head.target(), head.authority(), head.reason(), head.to_map());
                        prop_assert!(!(head.framing == Framing::Chunked && head.values("content-length").next().is_some()));
                    }
                }
            }
        }
    }
}

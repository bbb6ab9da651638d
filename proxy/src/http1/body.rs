//! Where the body of an HTTP/1 message ends, checked byte by byte while it is forwarded unchanged.
//!
//! Enters: the bytes behind a head. Leaves: how many of them may go on. Never: a byte of the next message, or a chunk
//! that two readers could cut differently (bare LF, signs, spaces, control characters in extensions).

use super::field::Kind;
use super::head::{Framing, MAX_FIELDS};

/// Most bytes of the trailer section.
const MAX_TRAILERS: usize = 8 * 1024;
/// Most bytes of a body that is kept for a copy.
const MAX_COPY: usize = 64 * 1024;
/// Most bytes of one chunk's extensions; they are of no use to anybody, and a known way to make work.
const MAX_EXTENSION: u32 = 256;

/// The rest of a body.
#[derive(Debug)]
pub struct Body {
    state: State,
    /// Bytes at the front of the source's buffer that were checked and wait to go on.
    pub ready: usize,
    /// What went on, framing and all, for a copy of the message.
    copy: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    Length(u64),
    Close,
    Size { value: u64, digits: u8 },
    Extension { value: u64, length: u32 },
    SizeLf { value: u64 },
    Data(u64),
    DataCr,
    DataLf,
    Trailers,
}

/// The body isn't what its head says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// The chunks are malformed.
    #[error("malformed chunk")]
    Chunk,
    /// The trailers are malformed, too long, or hold fields that belong in a head.
    #[error("malformed trailers")]
    Trailers,
    /// The connection ended within the body.
    #[error("the connection ended within the body")]
    Truncated,
}

impl Body {
    /// The body that a head announces.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { value: 0, digits: 0 },
            Framing::Close => State::Close,
        };
        Self {
            state,
            ready: 0,
            copy: None,
        }
    }

    /// The same, and what goes on is kept for a copy of the message, as long as there is not too much of it.
    pub fn copied(self) -> Self {
        Self {
            copy: Some(Vec::new()),
            ..self
        }
    }

    /// The whole body as it went on; `None`: it hasn't ended, or there is too much of it.
    pub fn copy(&mut self) -> Option<Vec<u8>> {
        self.copy
            .take_if(|_| self.state == State::Done && self.ready == 0)
    }

    /// All that went on so far, framing and all, if it is kept: another try can begin with it.
    pub fn kept(&self) -> Option<&[u8]> {
        self.copy.as_deref()
    }

    /// `bytes` went on.
    pub fn went(&mut self, bytes: &[u8]) {
        if let Some(copy) = &mut self.copy {
            match copy.len() + bytes.len() <= MAX_COPY {
                true => copy.extend_from_slice(bytes),
                false => self.copy = None,
            }
        }
    }

    /// Everything was seen and went on.
    pub fn is_finished(&self) -> bool {
        self.state == State::Done && self.ready == 0
    }

    /// Everything was seen.
    pub fn is_seen(&self) -> bool {
        self.state == State::Done
    }

    /// Checks `bytes`, which follow those that are [`Body::ready`]; what may go on is added to `ready`.
    ///
    /// # Errors
    /// [`BadBody`]; nothing behind `ready` can be used.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<(), BadBody> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let byte = rest[0];
            match self.state {
                State::Done => break,
                State::Close => at = bytes.len(),
                State::Length(left) => {
                    let taken = left.min(rest.len() as u64);
                    at += taken as usize;
                    self.state = if taken == left {
                        State::Done
                    } else {
                        State::Length(left - taken)
                    };
                }
                State::Data(left) => {
                    let taken = left.min(rest.len() as u64);
                    at += taken as usize;
                    self.state = if taken == left {
                        State::DataCr
                    } else {
                        State::Data(left - taken)
                    };
                }
                State::Trailers => {
                    let length = trailers(rest)?;
                    if length == 0 {
                        break;
                    }
                    at += length;
                    self.state = State::Done;
                }
                _ => {
                    self.state = self.step(byte)?;
                    at += 1;
                }
            }
        }
        self.ready += at;
        Ok(())
    }

    /// One byte of a chunk's frame.
    fn step(&self, byte: u8) -> Result<State, BadBody> {
        Ok(match (self.state, byte) {
            (State::Size { value, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 15 => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                State::Size {
                    value: value * 16 + u64::from(digit),
                    digits: digits + 1,
                }
            }
            (State::Size { value, digits: 1.. }, b'\r') => State::SizeLf { value },
            (State::Size { value, digits: 1.. }, b';') => State::Extension { value, length: 0 },
            (State::Extension { value, .. }, b'\r') => State::SizeLf { value },
            (State::Extension { value, length }, b'\t' | b' '..=b'~') if length < MAX_EXTENSION => {
                State::Extension {
                    value,
                    length: length + 1,
                }
            }
            (State::SizeLf { value: 0 }, b'\n') => State::Trailers,
            (State::SizeLf { value }, b'\n') => State::Data(value),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { value: 0, digits: 0 },
            _ => return Err(BadBody::Chunk),
        })
    }

    /// The source has ended.
    ///
    /// # Errors
    /// [`BadBody::Truncated`] unless that is what ends the body.
    pub fn end(&mut self) -> Result<(), BadBody> {
        match self.state {
            State::Done | State::Close => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BadBody::Truncated),
        }
    }
}

/// Length of the whole trailer section with its empty line; 0: not complete yet.
fn trailers(bytes: &[u8]) -> Result<usize, BadBody> {
    match bytes {
        [b'\r'] => return Ok(0),
        [b'\r', b'\n', ..] => return Ok(2),
        _ => {}
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) => {
            let section = &bytes[..length];
            let bare = section
                .windows(2)
                .any(|pair| pair[1] == b'\n' && pair[0] != b'\r');
            let allowed = |name: &str| Kind::of(name.as_bytes()) == Kind::Other;
            if bare || length > MAX_TRAILERS || !fields.iter().all(|field| allowed(field.name)) {
                return Err(BadBody::Trailers);
            }
            Ok(length)
        }
        Ok(httparse::Status::Partial) if bytes.len() < MAX_TRAILERS => Ok(0),
        _ => Err(BadBody::Trailers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scans a body cut into pieces of `step` bytes; how long it is, or why not.
    fn length(framing: Framing, text: &str, step: usize) -> Result<Option<usize>, BadBody> {
        let mut body = Body::new(framing);
        let bytes = text.as_bytes();
        let mut shown = 0;
        while shown < bytes.len() && !body.is_seen() {
            shown = (shown + step).min(bytes.len());
            body.scan(&bytes[body.ready..shown])?;
        }
        Ok(body.is_seen().then_some(body.ready))
    }

    #[test]
    fn bodies_end_where_they_end() {
        for (framing, text, wanted) in [
            (Framing::Empty, "", Ok(Some(0))),
            (Framing::Length(3), "abcdef", Ok(Some(3))),
            (Framing::Length(9), "abcdef", Ok(None)),
            (Framing::Chunked, "3\r\nabc\r\n0\r\n\r\nGET /", Ok(Some(13))),
            (
                Framing::Chunked,
                "A;x=\"y\"\r\n0123456789\r\n00\r\nx-sum: 1\r\n\r\n",
                Ok(Some(37)),
            ),
            (Framing::Chunked, "3\r\nabc\r\n0\r\nx: 1\r\n", Ok(None)),
            (Framing::Chunked, "3\nabc\r\n0\r\n\r\n", Err(BadBody::Chunk)),
            (Framing::Chunked, "3 \r\nabc\r\n0\r\n\r\n", Err(BadBody::Chunk)),
            (Framing::Chunked, "+3\r\nabc\r\n0\r\n\r\n", Err(BadBody::Chunk)),
            (Framing::Chunked, "0x3\r\nabc\r\n0\r\n\r\n", Err(BadBody::Chunk)),
            (Framing::Chunked, "\r\nabc", Err(BadBody::Chunk)),
            (Framing::Chunked, "3\r\nabcd\r\n", Err(BadBody::Chunk)),
            (Framing::Chunked, "3\r\nabc\n0\r\n\r\n", Err(BadBody::Chunk)),
            (
                Framing::Chunked,
                "3;a\nb\r\nabc\r\n0\r\n\r\n",
                Err(BadBody::Chunk),
            ),
            (Framing::Chunked, "fffffffffffffffff\r\n", Err(BadBody::Chunk)),
            (
                Framing::Chunked,
                "0\r\ncontent-length: 3\r\n\r\n",
                Err(BadBody::Trailers),
            ),
            (
                Framing::Chunked,
                "0\r\nX-Forwarded-Client-Cert: me\r\n\r\n",
                Err(BadBody::Trailers),
            ),
            (Framing::Chunked, "0\r\nx y\r\n\r\n", Err(BadBody::Trailers)),
        ] {
            for step in [1, 2, 3, 1000] {
                assert_eq!(length(framing, text, step), wanted, "{text:?} in steps of {step}");
            }
        }
    }
}

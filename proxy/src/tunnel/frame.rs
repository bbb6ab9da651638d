//! The frames of `weft-tcp`.
//!
//! Enters: bytes, in any pieces. Leaves: [`Event`]s, the payload of DATA in the pieces that came; and back. Never: a copy of
//! a payload, a buffer that grows, a frame that isn't one of these:
//!
//! ```text
//!  0      1      2             4                           8
//! +------+------+-------------+---------------------------+------------
//! | kind |  0   | length      | stream                    | payload
//! +------+------+-------------+---------------------------+------------   all numbers big-endian
//! ```
//!
//! | kind | name | payload | says |
//! |---|---|---|---|
//! | 1 | OPEN | – | connect to the application (only the side that began the tunnel; numbers rise) |
//! | 2 | OPENED | – | it is connected |
//! | 3 | REFUSED | 2: reason | it is not, and no byte has reached it |
//! | 4 | DATA | 1 to 16,384 | bytes of the stream |
//! | 5 | WINDOW | 4: bytes | that many more bytes may be sent |
//! | 6 | FIN | – | no more bytes from this side |
//! | 7 | RESET | 2: reason | the stream is over, both ways |
//! | 8, 9 | PING, PONG | 8: anything | is the other side there (stream 0) |
//! | 10 | GOAWAY | – | no new streams; those that are open go on (stream 0) |

/// Bytes of a frame's head.
pub const HEAD: usize = 8;
/// Most bytes of one DATA frame: with its head a little more than one TLS record.
pub const MOST_DATA: usize = 16 * 1024;

const OPEN: u8 = 1;
const OPENED: u8 = 2;
const REFUSED: u8 = 3;
const DATA: u8 = 4;
const WINDOW: u8 = 5;
const FIN: u8 = 6;
const RESET: u8 = 7;
const PING: u8 = 8;
const PONG: u8 = 9;
const GOAWAY: u8 = 10;

/// Why a stream was not opened. Nothing of it has reached the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Refusal {
    /// The application refuses the connection, or can't be reached.
    Unreachable = 1,
    /// Policy says no.
    Denied = 2,
    /// Too many streams in this tunnel.
    Busy = 3,
    /// The sidecar ends.
    Draining = 4,
    /// The application didn't accept in time.
    Slow = 5,
}

/// Why a stream ended without its two FINs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Reset {
    /// The connection behind it broke.
    Broken = 1,
    /// Policy says no by now.
    Denied = 2,
    /// The sidecar ends.
    Ended = 3,
}

/// One frame, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// OPEN.
    Open(u32),
    /// OPENED.
    Opened(u32),
    /// REFUSED.
    Refused(u32, Refusal),
    /// DATA has begun, with so many bytes.
    DataBegins(u32, usize),
    /// The next of these bytes.
    Data(u32, &'a [u8]),
    /// WINDOW.
    Window(u32, u32),
    /// FIN.
    Fin(u32),
    /// RESET.
    Reset(u32, Reset),
    /// PING.
    Ping(u64),
    /// PONG.
    Pong(u64),
    /// GOAWAY.
    GoAway,
}

/// A frame that is not one of the table's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a weft-tcp frame: kind {kind}, length {length}, stream {stream}")]
pub struct Malformed {
    kind: u8,
    length: usize,
    stream: u32,
}

/// Reads frames out of bytes that come in any pieces.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Head and short payload, as far as they came.
    begun: [u8; HEAD + 8],
    have: usize,
    /// Bytes of DATA that are still to come.
    left: usize,
    stream: u32,
}

impl Decoder {
    /// The next event; takes its bytes off the front of `input`. None: more bytes are needed, and all of these were taken.
    ///
    /// # Errors
    /// [`Malformed`]; nothing sensible follows.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Malformed> {
        if self.left > 0 {
            let count = self.left.min(input.len());
            if count == 0 {
                return Ok(None);
            }
            self.left -= count;
            return Ok(Some(Event::Data(self.stream, take(input, count))));
        }
        if !self.gather(input, HEAD) {
            return Ok(None);
        }
        let [kind, zero, l0, l1, s0, s1, s2, s3, ..] = self.begun;
        let (length, stream) = (
            usize::from(u16::from_be_bytes([l0, l1])),
            u32::from_be_bytes([s0, s1, s2, s3]),
        );
        let malformed = Malformed { kind, length, stream };
        let (fits, whole) = match kind {
            OPEN | OPENED | FIN => (length == 0, false),
            REFUSED | RESET => (length == 2, false),
            WINDOW => (length == 4, false),
            PING | PONG => (length == 8, true),
            GOAWAY => (length == 0, true),
            DATA => ((1..=MOST_DATA).contains(&length), false),
            _ => (false, false),
        };
        if !fits || zero != 0 || whole != (stream == 0) {
            return Err(malformed);
        }
        if kind == DATA {
            self.have = 0;
            self.left = length;
            self.stream = stream;
            return Ok(Some(Event::DataBegins(stream, length)));
        }
        if !self.gather(input, HEAD + length) {
            return Ok(None);
        }
        self.have = 0;
        let [.., p0, p1, p2, p3, p4, p5, p6, p7] = self.begun;
        let short = u16::from_be_bytes([p0, p1]);
        let long = u64::from_be_bytes([p0, p1, p2, p3, p4, p5, p6, p7]);
        Ok(Some(match kind {
            OPEN => Event::Open(stream),
            OPENED => Event::Opened(stream),
            REFUSED => Event::Refused(stream, Refusal::read(short)),
            WINDOW => Event::Window(stream, u32::from_be_bytes([p0, p1, p2, p3])),
            FIN => Event::Fin(stream),
            RESET => Event::Reset(stream, Reset::read(short)),
            PING => Event::Ping(long),
            PONG => Event::Pong(long),
            _ => Event::GoAway,
        }))
    }

    /// Nothing of a frame has come that isn't whole.
    pub fn is_between_frames(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// Fills `begun` up to `count` bytes. False: there are not enough yet.
    fn gather(&mut self, input: &mut &[u8], count: usize) -> bool {
        if self.have < count {
            let more = take(input, (count - self.have).min(input.len()));
            self.begun[self.have..self.have + more.len()].copy_from_slice(more);
            self.have += more.len();
        }
        self.have >= count
    }
}

impl Refusal {
    /// A reason that this version doesn't know says as little as the commonest.
    fn read(value: u16) -> Self {
        let all = [Self::Denied, Self::Busy, Self::Draining, Self::Slow];
        all.into_iter()
            .find(|each| *each as u16 == value)
            .unwrap_or(Self::Unreachable)
    }
}

impl Reset {
    fn read(value: u16) -> Self {
        let all = [Self::Denied, Self::Ended];
        all.into_iter()
            .find(|each| *each as u16 == value)
            .unwrap_or(Self::Broken)
    }
}

fn take<'a>(input: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (front, rest) = input.split_at(count);
    *input = rest;
    front
}

/// Writes an event that is a whole frame of its own.
pub fn write(out: &mut Vec<u8>, event: Event<'_>) {
    match event {
        Event::Open(stream) => head(out, OPEN, 0, stream),
        Event::Opened(stream) => head(out, OPENED, 0, stream),
        Event::Refused(stream, reason) => short(out, REFUSED, stream, &(reason as u16).to_be_bytes()),
        Event::DataBegins(stream, length) => head(out, DATA, length, stream),
        Event::Data(_, bytes) => out.extend_from_slice(bytes),
        Event::Window(stream, credit) => short(out, WINDOW, stream, &credit.to_be_bytes()),
        Event::Fin(stream) => head(out, FIN, 0, stream),
        Event::Reset(stream, reason) => short(out, RESET, stream, &(reason as u16).to_be_bytes()),
        Event::Ping(value) => short(out, PING, 0, &value.to_be_bytes()),
        Event::Pong(value) => short(out, PONG, 0, &value.to_be_bytes()),
        Event::GoAway => head(out, GOAWAY, 0, 0),
    }
}

fn short(out: &mut Vec<u8>, kind: u8, stream: u32, payload: &[u8]) {
    head(out, kind, payload.len(), stream);
    out.extend_from_slice(payload);
}

fn head(out: &mut Vec<u8>, kind: u8, length: usize, stream: u32) {
    debug_assert!(length <= MOST_DATA);
    let [l0, l1] = (length as u16).to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    out.extend_from_slice(&[kind, 0, l0, l1, s0, s1, s2, s3]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An event that owns its bytes; pieces of DATA joined.
    #[derive(Clone, Debug, PartialEq)]
    enum Owned {
        Frame(Event<'static>),
        Data(u32, Vec<u8>),
    }

    fn any_frame() -> impl Strategy<Value = Owned> {
        let refusal = prop::sample::select(vec![
            Refusal::Unreachable,
            Refusal::Denied,
            Refusal::Busy,
            Refusal::Slow,
        ]);
        let reset = prop::sample::select(vec![Reset::Broken, Reset::Denied, Reset::Ended]);
        let stream = 1..=u32::MAX;
        prop_oneof![
            stream.clone().prop_map(|id| Owned::Frame(Event::Open(id))),
            stream.clone().prop_map(|id| Owned::Frame(Event::Opened(id))),
            (stream.clone(), refusal).prop_map(|(id, why)| Owned::Frame(Event::Refused(id, why))),
            (stream.clone(), any::<u32>()).prop_map(|(id, credit)| Owned::Frame(Event::Window(id, credit))),
            stream.clone().prop_map(|id| Owned::Frame(Event::Fin(id))),
            (stream.clone(), reset).prop_map(|(id, why)| Owned::Frame(Event::Reset(id, why))),
            any::<u64>().prop_map(|value| Owned::Frame(Event::Ping(value))),
            any::<u64>().prop_map(|value| Owned::Frame(Event::Pong(value))),
            Just(Owned::Frame(Event::GoAway)),
            (stream, prop::collection::vec(any::<u8>(), 1..300))
                .prop_map(|(id, bytes)| Owned::Data(id, bytes)),
        ]
    }

    fn encode(frames: &[Owned]) -> Vec<u8> {
        let mut out = Vec::new();
        for frame in frames {
            match frame {
                Owned::Frame(event) => write(&mut out, *event),
                Owned::Data(stream, bytes) => {
                    write(&mut out, Event::DataBegins(*stream, bytes.len()));
                    write(&mut out, Event::Data(*stream, bytes));
                }
            }
        }
        out
    }

    fn decode(pieces: &[&[u8]]) -> Result<Vec<Owned>, Malformed> {
        let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
        for piece in pieces {
            let mut input = *piece;
            while let Some(event) = decoder.next(&mut input)? {
                match (event, frames.last_mut()) {
                    (Event::DataBegins(stream, _), _) => frames.push(Owned::Data(stream, Vec::new())),
                    (Event::Data(_, bytes), Some(Owned::Data(_, whole))) => whole.extend(bytes),
                    (Event::Data(..), _) => panic!("data without a beginning"),
                    (Event::Open(id), _) => frames.push(Owned::Frame(Event::Open(id))),
                    (Event::Opened(id), _) => frames.push(Owned::Frame(Event::Opened(id))),
                    (Event::Refused(id, why), _) => frames.push(Owned::Frame(Event::Refused(id, why))),
                    (Event::Window(id, credit), _) => frames.push(Owned::Frame(Event::Window(id, credit))),
                    (Event::Fin(id), _) => frames.push(Owned::Frame(Event::Fin(id))),
                    (Event::Reset(id, why), _) => frames.push(Owned::Frame(Event::Reset(id, why))),
                    (Event::Ping(value), _) => frames.push(Owned::Frame(Event::Ping(value))),
                    (Event::Pong(value), _) => frames.push(Owned::Frame(Event::Pong(value))),
                    (Event::GoAway, _) => frames.push(Owned::Frame(Event::GoAway)),
                }
            }
            assert!(input.is_empty());
        }
        assert!(decoder.is_between_frames());
        Ok(frames)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_whatever_the_pieces(
            frames in prop::collection::vec(any_frame(), 1..20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let bytes = encode(&frames);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode(&pieces).unwrap(), frames.clone());
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(decode(&single).unwrap(), frames);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (mut decoder, mut input) = (Decoder::default(), &bytes[..]);
            while let Ok(Some(_)) = decoder.next(&mut input) {}
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for (bytes, why) in [
            ([0, 0, 0, 0, 0, 0, 0, 1], "kind 0"),
            ([11, 0, 0, 0, 0, 0, 0, 1], "unknown kind"),
            ([1, 1, 0, 0, 0, 0, 0, 1], "reserved byte"),
            ([1, 0, 0, 1, 0, 0, 0, 1], "OPEN with a payload"),
            ([1, 0, 0, 0, 0, 0, 0, 0], "OPEN of stream 0"),
            ([4, 0, 0, 0, 0, 0, 0, 1], "empty DATA"),
            ([4, 0, 0x40, 1, 0, 0, 0, 1], "DATA of 16,385 bytes"),
            ([5, 0, 0, 3, 0, 0, 0, 1], "short WINDOW"),
            ([8, 0, 0, 8, 0, 0, 0, 1], "PING of a stream"),
            ([10, 0, 0, 0, 0, 0, 0, 1], "GOAWAY of a stream"),
            (*b"GET / HT", "something else"),
        ] {
            let error = Decoder::default().next(&mut &bytes[..]).unwrap_err();
            assert!(
                error.to_string().starts_with("not a weft-tcp frame"),
                "{why}: {error}"
            );
        }
    }
}

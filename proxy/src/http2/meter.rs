//! What a peer's frames cost, and when it has asked for too much.
//!
//! Enters: the bytes of a connection, both ways, as they pass. Leaves: a verdict. Never: a copy, an allocation; a peer that
//! makes work for ever without asking for anything (floods of SETTINGS, PING, PRIORITY, CONTINUATION, heads that are refused).

use std::time::Duration;

use tokio::time::Instant;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;
/// Bytes of a frame's head (RFC 9113 section 4.1).
const HEAD: usize = 9;
/// Bytes of a piece of a body that is worth its frame: a gRPC message has as many before its first.
const LEAST: usize = 5;
/// Bytes of a client's preface (RFC 9113 section 3.4).
const PREFACE: usize = 24;

/// Something that there is only so much of, and that comes back with time.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    left: u32,
    most: u32,
    a_second: u32,
    /// When it was last empty.
    since: Option<Instant>,
}

impl Bucket {
    /// A full one. `a_second` come back.
    pub const fn new(most: u32, a_second: u32) -> Self {
        Self {
            left: most,
            most,
            a_second,
            since: None,
        }
    }

    /// Takes one. `false`: it is empty.
    pub fn take(&mut self) -> bool {
        if self.left == 0 {
            let now = Instant::now();
            // A full bucket lasts for a while, so that time is only asked for when it matters.
            let passed = self
                .since
                .map_or(Duration::ZERO, |since| now.duration_since(since));
            let back = (passed.as_secs_f64() * f64::from(self.a_second)).min(f64::from(self.most));
            self.left = back as u32;
            if self.left == 0 {
                self.since.get_or_insert(now);
                return false;
            }
            self.since = Some(now);
        }
        self.left -= 1;
        true
    }

    /// Puts some back.
    pub fn put(&mut self, count: u32) {
        self.left = (self.left + count).min(self.most);
    }
}

/// The head of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    length: usize,
}

/// Finds the heads of frames in a stream of bytes.
#[derive(Clone, Copy, Debug)]
struct Frames {
    head: [u8; HEAD],
    have: usize,
    /// Bytes until the next head.
    skip: usize,
}

impl Frames {
    fn new(skip: usize) -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            skip,
        }
    }

    fn feed(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEAD - self.have).min(bytes.len());
            if self.skip > 0 || taken == 0 {
                return;
            }
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD {
                let [a, b, c, kind, flags, ..] = self.head;
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                self.have = 0;
                self.skip = length;
                seen(Frame { kind, flags, length });
            }
        }
    }
}

/// Which side the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It asks.
    Client,
    /// It answers.
    Server,
}

/// Counts a peer's frames. Every frame that carries no body, or hardly any, costs one; a request that is taken up, and every piece of a
/// body, gives some back; and so does time.
#[derive(Debug)]
pub struct Meter {
    peer: Role,
    come: Frames,
    gone: Frames,
    credit: Bucket,
    flooded: bool,
}

impl Meter {
    /// The meter of a connection that begins. `most`: how many frames may come at once; `a_second` may come for ever.
    pub fn new(peer: Role, most: u32, a_second: u32) -> Self {
        let (come, gone) = match peer {
            Role::Client => (PREFACE, 0),
            Role::Server => (0, PREFACE),
        };
        Self {
            peer,
            come: Frames::new(come),
            gone: Frames::new(gone),
            credit: Bucket::new(most, a_second),
            flooded: false,
        }
    }

    /// Bytes of the peer.
    pub fn came(&mut self, bytes: &[u8]) {
        let Self {
            come,
            credit,
            flooded,
            ..
        } = self;
        come.feed(bytes, |frame| match frame {
            Frame {
                kind: DATA,
                flags,
                length: LEAST..,
            } if flags & PADDED == 0 => credit.put(1),
            Frame {
                kind: DATA, flags, ..
            } if flags & END_STREAM != 0 => {}
            _ => *flooded |= !credit.take(),
        });
    }

    /// Bytes to the peer.
    pub fn went(&mut self, bytes: &[u8]) {
        let Self {
            peer, gone, credit, ..
        } = self;
        gone.feed(bytes, |frame| match (frame.kind, *peer) {
            // Whoever gets a body may say that there is room for more, on the stream and on the connection.
            (DATA, _) => credit.put(2),
            // A server may answer with a head, trailers and a reset.
            (HEADERS, Role::Server) => credit.put(3),
            _ => {}
        });
    }

    /// A client's request was taken up: its head, and a reset of it, are paid for.
    pub fn accepted(&mut self) {
        self.credit.put(2);
    }

    /// The peer has sent more than it may.
    pub fn is_flooded(&self) -> bool {
        self.flooded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0, (length >> 8) as u8, length as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD + length, b'x');
        frame
    }

    fn client(most: u32) -> Meter {
        let mut meter = Meter::new(Role::Client, most, 10);
        meter.came(&[b'P'; PREFACE]);
        meter
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_ask_for_nothing_are_bounded() {
        for (kind, flags, length) in [
            (0, 0, 0),
            (0, 0, 4),
            (0, PADDED, 2),
            (1, 4, 5),
            (2, 0, 5),
            (4, 0, 0),
            (6, 0, 8),
            (9, 0, 0),
            (99, 0, 3),
        ] {
            let mut meter = client(100);
            (0..100).for_each(|_| meter.came(&frame(kind, flags, length)));
            assert!(!meter.is_flooded(), "kind {kind}");
            meter.came(&frame(kind, flags, length));
            assert!(meter.is_flooded(), "kind {kind}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_honest_client_is_not() {
        let mut meter = client(100);
        for _ in 0..10_000 {
            // A request, taken up and answered with a body, for which there is room again; then a reset.
            meter.came(&frame(1, 5, 20));
            meter.accepted();
            meter.went(&frame(1, 4, 20));
            meter.went(&frame(0, 0, 100));
            meter.came(&frame(8, 0, 4));
            meter.came(&frame(8, 0, 4));
            meter.came(&frame(3, 0, 4));
            // An upload with a ping for each piece.
            meter.came(&frame(0, 0, 5));
            meter.came(&frame(6, 0, 8));
        }
        assert!(!meter.is_flooded());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_spent_comes_back() {
        let mut bucket = Bucket::new(3, 10);
        assert!((0..3).all(|_| bucket.take()));
        assert!(!bucket.take());
        tokio::time::advance(Duration::from_millis(250)).await;
        assert!(bucket.take() && bucket.take());
        assert!(!bucket.take());
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert!((0..3).all(|_| bucket.take()));
        assert!(!bucket.take());
    }

    proptest! {
        #[test]
        fn heads_are_found_wherever_the_bytes_are_cut(
            frames in proptest::collection::vec((0u8..12, any::<u8>(), 0usize..300), 1..20),
            cuts in proptest::collection::vec(1usize..50, 1..50),
            skip in 0usize..30,
        ) {
            let mut bytes = vec![7; skip];
            frames.iter().for_each(|(kind, flags, length)| bytes.extend(frame(*kind, *flags, *length)));
            let mut finder = Frames::new(skip);
            let mut found = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                finder.feed(piece, |frame| found.push((frame.kind, frame.flags, frame.length)));
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(found, frames);
        }
    }
}

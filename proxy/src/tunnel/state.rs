//! All streams of one tunnel, at one of its ends.
//!
//! Enters: what the streams' holders want (this file), and frames (`receive`). Leaves: frames to write, wake-ups. Never: I/O; DATA
//! of a stream that isn't open; more than the windows allow; a frame of a stream that nobody holds any more.

mod each;
mod receive;

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll, Waker};

use rapidhash::RapidHashMap;
use tokio::time::Instant;

use super::MOST_STREAMS;
use super::frame::{self, Event, MOST_DATA, Malformed, Refusal, Reset};
use super::open::NotOpened;
use super::queue::Queue;
use super::window;
use each::{Phase, Stream, Turn, broken, keep};

/// Frames wait to be written: DATA that would go beyond this has to wait for its turn.
const ROOM: usize = 64 * 1024;
/// Most DATA that one stream writes in its turn.
const TURN: usize = 2 * MOST_DATA;
/// Streams that get their turn at once.
const TURNS: usize = 2;

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// It opens streams.
    Opener,
    /// It is asked for streams.
    Acceptor,
}

/// What the peer did that it must not do. The tunnel ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// It doesn't speak `weft-tcp`.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// More DATA than the window allows.
    #[error("the peer sent more than the window of a stream")]
    Window,
    /// A frame that the state of the stream doesn't allow, or that only the other side may send.
    #[error("the peer sent a frame that is out of place")]
    Order,
    /// Too many frames that do nothing.
    #[error("the peer sent too many frames that do nothing")]
    Flood,
    /// Too many streams that were given up before they were open.
    #[error("the peer gave up too many streams before they were open")]
    GivenUp,
}

/// Why no stream of a tunnel goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// The connection is closed or broke.
    Gone,
    /// The peer doesn't answer.
    Silent,
}

#[derive(Debug)]
pub(super) struct State {
    side: Side,
    streams: RapidHashMap<u32, Stream>,
    /// The highest number so far.
    newest: u32,
    /// Frames to write, from `written` on.
    out: Vec<u8>,
    written: usize,
    /// Streams that wait for room.
    writers: VecDeque<u32>,
    arrivals: VecDeque<u32>,
    acceptor: Option<Waker>,
    driver: Option<Waker>,
    /// Something of a stream was sent since the driver looked.
    pub(super) sent: bool,
    /// What the windows may still grow.
    growth: u32,
    /// No new streams.
    leaving: bool,
    over: Option<Over>,
    futile: u32,
    futile_since: Instant,
    given_up: u32,
}

impl Violation {
    /// A short fixed word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "tunnel-frame",
            Self::Window => "tunnel-window",
            Self::Order => "tunnel-order",
            Self::Flood => "tunnel-flood",
            Self::GivenUp => "tunnel-given-up",
        }
    }
}

impl State {
    pub(super) fn new(side: Side) -> Self {
        Self {
            side,
            streams: RapidHashMap::default(),
            newest: 0,
            out: Vec::new(),
            written: 0,
            writers: VecDeque::new(),
            arrivals: VecDeque::new(),
            acceptor: None,
            driver: None,
            sent: false,
            growth: window::GROWTH,
            leaving: false,
            over: None,
            futile: 0,
            futile_since: Instant::now(),
            given_up: 0,
        }
    }

    /// Streams that are held, opening, or arrived.
    pub(super) fn count(&self) -> usize {
        self.streams.len()
    }

    /// Frames wait to be written, so many bytes.
    pub(super) fn backlog(&self) -> usize {
        self.out.len() - self.written
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving || self.over.is_some() || self.newest == u32::MAX
    }

    /// No new streams from now on; the peer is told if it is the one that opens them.
    pub(super) fn leave(&mut self) {
        if !self.leaving && self.over.is_none() {
            self.leaving = true;
            match self.side {
                Side::Acceptor => self.send(Event::GoAway),
                Side::Opener => self.nudge(),
            }
        }
    }

    /// The tunnel is over: everyone hears of it.
    pub(super) fn end(&mut self, over: Over) {
        self.over.get_or_insert(over);
        self.out = Vec::new();
        self.written = 0;
        self.writers.clear();
        for stream in self.streams.values_mut() {
            stream.wake();
        }
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.wake();
        }
    }

    /// Asks for a stream.
    pub(super) fn open(&mut self) -> Result<u32, NotOpened> {
        if let Some(over) = self.over {
            return Err(over.into());
        }
        if self.is_leaving() {
            return Err(NotOpened::Refused(Refusal::Draining));
        }
        if self.streams.len() >= MOST_STREAMS {
            return Err(NotOpened::Refused(Refusal::Busy));
        }
        self.newest += 1;
        let id = self.newest;
        self.streams.insert(id, Stream::new(Phase::Opening));
        self.send(Event::Open(id));
        Ok(id)
    }

    pub(super) fn poll_opened(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<Result<(), NotOpened>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(NotOpened::Gone));
        };
        match (stream.phase, stream.reset, self.over) {
            (Phase::Open, ..) => Poll::Ready(Ok(())),
            (Phase::Refused(refusal), ..) => Poll::Ready(Err(NotOpened::Refused(refusal))),
            (_, _, Some(over)) => Poll::Ready(Err(over.into())),
            (_, Some(_), _) => Poll::Ready(Err(NotOpened::Gone)),
            _ => {
                keep(&mut stream.reader, cx);
                Poll::Pending
            }
        }
    }

    /// The next stream that is asked for; none: the tunnel is over.
    pub(super) fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<Option<u32>> {
        if let Some(id) = self.arrivals.pop_front() {
            return Poll::Ready(Some(id));
        }
        if self.over.is_some() {
            return Poll::Ready(None);
        }
        keep(&mut self.acceptor, cx);
        Poll::Pending
    }

    /// The application is connected.
    pub(super) fn accept(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.phase = Phase::Open;
        if stream.reset.is_none() {
            self.given_up = self.given_up.saturating_sub(1);
            self.send(Event::Opened(id));
        }
    }

    /// The application is not connected.
    pub(super) fn refuse(&mut self, id: u32, refusal: Refusal) {
        if let Some(stream) = self.forget(id)
            && stream.reset.is_none()
        {
            self.send(Event::Refused(id, refusal));
        }
    }

    /// Whoever arrived has been given up by the peer, or everything is over.
    pub(super) fn poll_given_up(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<()> {
        match self.streams.get_mut(&id) {
            Some(stream) if stream.reset.is_none() && self.over.is_none() => {
                keep(&mut stream.reader, cx);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Bytes to read; none: FIN came.
    pub(super) fn poll_bytes(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<io::Result<&mut Queue>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(broken()));
        };
        if !stream.queue.is_empty() || stream.ended {
            return Poll::Ready(Ok(&mut stream.queue));
        }
        if let Some(error) = stream.error(self.over) {
            return Poll::Ready(Err(error));
        }
        keep(&mut stream.reader, cx);
        Poll::Pending
    }

    /// `count` bytes were taken off the queue.
    pub(super) fn consumed(&mut self, id: u32, count: usize) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.ended || stream.reset.is_some() {
            return;
        }
        if let Some(credit) = stream.window.read(count, &mut self.growth, Instant::now)
            && self.over.is_none()
        {
            frame::write(&mut self.out, Event::Window(id, credit));
            self.nudge();
        }
    }

    /// Takes some of `bytes` for writing.
    pub(super) fn poll_write(
        &mut self,
        id: u32,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let backlog = self.backlog();
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(broken()));
        };
        if let Some(error) = stream.error(self.over) {
            return Poll::Ready(Err(error));
        }
        if stream.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if stream.credit == 0 {
            keep(&mut stream.writer, cx);
            return Poll::Pending;
        }
        if stream.turn != Turn::Has && (backlog >= ROOM || !self.writers.is_empty()) {
            keep(&mut stream.writer, cx);
            if stream.turn == Turn::None {
                stream.turn = Turn::Waits;
                self.writers.push_back(id);
            }
            return Poll::Pending;
        }
        stream.turn = Turn::None;
        let count = bytes.len().min(stream.credit as usize).min(TURN);
        stream.credit -= count as u32;
        for piece in bytes[..count].chunks(MOST_DATA) {
            frame::write(&mut self.out, Event::DataBegins(id, piece.len()));
            self.out.extend_from_slice(piece);
        }
        self.sent = true;
        self.nudge();
        Poll::Ready(Ok(count))
    }

    /// Sends FIN, once.
    pub(super) fn finish(&mut self, id: u32) -> io::Result<()> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Err(broken());
        };
        if let Some(error) = stream.error(self.over) {
            return Err(error);
        }
        if !stream.finished {
            stream.finished = true;
            self.send(Event::Fin(id));
        }
        Ok(())
    }

    /// Its holder is gone: the stream is over both ways, if it isn't in order already.
    pub(super) fn release(&mut self, id: u32, why: Reset) {
        let Some(stream) = self.forget(id) else { return };
        let done = stream.reset.is_some() || matches!(stream.phase, Phase::Refused(_));
        let in_order = stream.ended && stream.finished;
        if !done && !in_order {
            self.send(Event::Reset(id, why));
        }
    }

    /// Frames to write. [`State::wrote`] says how far it came.
    pub(super) fn output(&self) -> &[u8] {
        &self.out[self.written..]
    }

    pub(super) fn wrote(&mut self, count: usize) {
        self.written += count;
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        } else if self.written > ROOM {
            self.out.drain(..self.written);
            self.written = 0;
        }
    }

    /// Everything was written: the next streams get their turn. True: others still wait, look again.
    pub(super) fn give_turns(&mut self) -> bool {
        let mut given = 0;
        while given < TURNS
            && let Some(id) = self.writers.pop_front()
        {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            stream.turn = Turn::Has;
            if let Some(writer) = stream.writer.take() {
                writer.wake();
            }
            given += 1;
        }
        !self.writers.is_empty()
    }

    /// Gives back the memory of the outgoing frames.
    pub(super) fn trim(&mut self) {
        if self.out.is_empty() {
            self.out = Vec::new();
        }
        self.streams.shrink_to(16);
    }

    pub(super) fn ping(&mut self) {
        frame::write(&mut self.out, Event::Ping(0));
    }

    /// The driver is to be woken when there is something to write.
    pub(super) fn watch(&mut self, cx: &mut Context<'_>) {
        keep(&mut self.driver, cx);
    }

    fn send(&mut self, event: Event<'_>) {
        if self.over.is_none() {
            frame::write(&mut self.out, event);
            self.sent = true;
            self.nudge();
        }
    }

    fn nudge(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    fn forget(&mut self, id: u32) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        self.growth += stream.window.grown();
        match stream.turn {
            Turn::Waits => self.writers.retain(|each| *each != id),
            // It won't use it.
            Turn::Has => self.nudge(),
            Turn::None => {}
        }
        if self.streams.is_empty() {
            self.nudge();
        }
        Some(stream)
    }
}

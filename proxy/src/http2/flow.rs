//! One direction of one stream.
//!
//! Enters: DATA and trailers of one stream. Leaves: the same on another, as far as its window allows. Never: window given
//! back for bytes that have not gone on.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;

use super::wire::Line;

/// Most bytes of a request's body that are kept for another try.
const MOST_KEPT: usize = 64 * 1024;

/// The source of a direction.
#[derive(Debug)]
pub struct Flow {
    source: RecvStream,
    /// Of the source's connection.
    line: Rc<Line>,
    /// Bytes that came from the source.
    came: u64,
    /// Taken from the source, not passed on yet, and not kept either.
    pending: Bytes,
    /// How much window is given back when `pending` went on.
    owed: bool,
    kept: Kept,
    trailers: Option<HeaderMap>,
    state: State,
    /// Bytes that were passed on in this try.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Data,
    Trailers,
    Done,
}

/// What was passed on already, for another try. The chunks share their memory with what was sent.
#[derive(Debug)]
struct Kept {
    chunks: Vec<Bytes>,
    size: usize,
    /// Chunks that this try has passed on again.
    replayed: usize,
    /// It is all there.
    whole: bool,
}

/// Why a direction ended early.
#[derive(Debug)]
pub enum FlowError {
    /// The source's stream or connection.
    Source(h2::Error),
    /// The sink's stream or connection.
    Sink(h2::Error),
}

impl Flow {
    /// The direction from `source`, a stream of the connection of `line`. `keep`: remember what passes by, up to a bound.
    pub fn new(source: RecvStream, keep: bool, line: Rc<Line>) -> Self {
        let kept = Kept {
            chunks: Vec::new(),
            size: 0,
            replayed: 0,
            whole: keep,
        };
        Self {
            source,
            line,
            came: 0,
            pending: Bytes::new(),
            owed: false,
            kept,
            trailers: None,
            state: State::Data,
            bytes: 0,
        }
    }

    /// There is nothing to pass on, not even trailers.
    pub fn is_empty(&self) -> bool {
        self.kept.size == 0
            && self.pending.is_empty()
            && self.trailers.is_none()
            && self.source.is_end_stream()
    }

    /// Everything was passed on.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Everything that was passed on can be passed on again.
    pub fn is_kept(&self) -> bool {
        self.kept.whole
    }

    /// Begins again from the first byte; only if [`Flow::is_kept`].
    pub fn rewind(&mut self) {
        if self.owed && !self.pending.is_empty() {
            // Half of a chunk went on: the other half is kept too.
            let _ = self.source.flow_control().release_capacity(self.pending.len());
        }
        self.owed = false;
        self.pending = Bytes::new();
        self.kept.replayed = 0;
        self.state = State::Data;
        self.bytes = 0;
    }

    /// The answer is on its way: no other try will follow.
    pub fn forget(&mut self) {
        self.kept.whole = false;
        if self.kept.replayed == self.kept.chunks.len() {
            self.kept.chunks = Vec::new();
            self.kept.replayed = 0;
        }
    }

    /// All that was passed on, if it was kept and has ended: body and trailers.
    pub fn copy(&self) -> Option<(Vec<Bytes>, Option<HeaderMap>)> {
        (self.is_done() && self.kept.whole).then(|| (self.kept.chunks.clone(), self.trailers.clone()))
    }

    /// The trailers that were passed on.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    /// Passes on until the end. Ready when the end went on. `through`: what the streams of the sink's connection share, if
    /// its peer may be one that doesn't read.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut SendStream<Bytes>,
        through: Option<&Line>,
    ) -> Poll<Result<(), FlowError>> {
        loop {
            if !self.pending.is_empty() {
                ready!(self.poll_pending(cx, sink, through))?;
                continue;
            }
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Data => ready!(self.poll_data(cx, sink))?,
                State::Trailers => {
                    let trailers = match self.trailers.clone() {
                        Some(kept) => Some(kept),
                        None => ready!(self.source.poll_trailers(cx)).map_err(FlowError::Source)?,
                    };
                    self.state = State::Done;
                    match trailers {
                        Some(trailers) => {
                            sink.send_trailers(trailers.clone()).map_err(FlowError::Sink)?;
                            self.trailers = Some(trailers);
                        }
                        None => sink.send_data(Bytes::new(), true).map_err(FlowError::Sink)?,
                    }
                }
            }
        }
    }

    /// Takes the next piece.
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), FlowError>> {
        if self.kept.replayed < self.kept.chunks.len() {
            self.pending = self.kept.chunks[self.kept.replayed].clone();
            self.kept.replayed += 1;
            self.owed = false;
            return Poll::Ready(Ok(()));
        }
        match ready!(self.source.poll_data(cx)) {
            None => self.state = State::Trailers,
            Some(Err(error)) => return Poll::Ready(Err(FlowError::Source(error))),
            Some(Ok(data)) if data.is_empty() => {
                if self.source.is_end_stream() {
                    self.state = State::Done;
                    sink.send_data(data, true).map_err(FlowError::Sink)?;
                }
            }
            Some(Ok(data)) => {
                self.came += data.len() as u64;
                self.line.received(self.came);
                if self.kept.whole {
                    self.kept.size += data.len();
                    if self.kept.size <= MOST_KEPT {
                        self.kept.chunks.push(data.clone());
                        self.kept.replayed = self.kept.chunks.len();
                    } else {
                        self.forget();
                    }
                }
                self.pending = data;
                self.owed = true;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Passes on what was taken, as far as the sink's window allows.
    fn poll_pending(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut SendStream<Bytes>,
        through: Option<&Line>,
    ) -> Poll<Result<(), FlowError>> {
        if let Some(line) = through {
            ready!(line.poll_room(cx));
        }
        sink.reserve_capacity(self.pending.len());
        let mut room = sink.capacity();
        while room == 0 {
            room = match ready!(sink.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(FlowError::Sink(error))),
                None => return Poll::Ready(Err(FlowError::Sink(Reason::STREAM_CLOSED.into()))),
            };
        }
        let piece = self.pending.split_to(room.min(self.pending.len()));
        let length = piece.len();
        let replayed = self.kept.replayed == self.kept.chunks.len();
        let last =
            self.pending.is_empty() && replayed && self.trailers.is_none() && self.source.is_end_stream();
        sink.send_data(piece, last).map_err(FlowError::Sink)?;
        if let Some(line) = through {
            line.queue(length);
        }
        self.bytes += length as u64;
        if self.owed {
            self.source
                .flow_control()
                .release_capacity(length)
                .map_err(FlowError::Source)?;
        }
        if last {
            self.state = State::Done;
        }
        Poll::Ready(Ok(()))
    }
}

//! What the peer's frames do.
//!
//! Enters: [`Event`]s. Leaves: changed streams, answers, [`Violation`]s. Never: growth by frames alone: an answer is at most
//! as long as what asked for it, and the driver doesn't read while answers can't be written.

use std::time::Duration;

use tokio::time::Instant;

use super::super::MOST_STREAMS;
use super::super::frame::{Event, Refusal, Reset};
use super::{Phase, Side, State, Stream, Violation};

/// Frames that do nothing, in one second, beyond which the peer is not taken for honest.
const MOST_FUTILE: u32 = 4_000;
/// Streams that the peer may give up before they are open, without any that opens in between.
const MOST_GIVEN_UP: u32 = 1_000;

impl State {
    /// Does what a frame says.
    ///
    /// # Errors
    /// The peer broke a rule.
    pub(in super::super) fn receive(&mut self, event: Event<'_>) -> Result<(), Violation> {
        match event {
            Event::Open(id) => self.arrives(id),
            Event::Opened(id) => self.answered(id, Phase::Open),
            Event::Refused(id, refusal) => self.answered(id, Phase::Refused(refusal)),
            Event::DataBegins(id, length) => match self.open_stream(id)? {
                Some(stream) if stream.ended => Err(Violation::Order),
                Some(stream) => stream.window.receive(length).map_err(|_| Violation::Window),
                None => Ok(()),
            },
            Event::Data(id, bytes) => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.queue.push(bytes);
                    if let Some(reader) = stream.reader.take() {
                        reader.wake();
                    }
                }
                Ok(())
            }
            Event::Window(id, credit) => match self.open_stream(id)? {
                Some(stream) => {
                    stream.credit = stream.credit.checked_add(credit).ok_or(Violation::Window)?;
                    if let Some(writer) = stream.writer.take() {
                        writer.wake();
                    }
                    Ok(())
                }
                None => self.futile(),
            },
            Event::Fin(id) => match self.open_stream(id)? {
                Some(stream) if stream.ended => Err(Violation::Order),
                Some(stream) => {
                    stream.ended = true;
                    stream.wake();
                    Ok(())
                }
                None => self.futile(),
            },
            Event::Reset(id, why) => self.was_reset(id, why),
            Event::Ping(value) => {
                // Answers that can't be written yet are as good as this one.
                if self.backlog() < super::ROOM {
                    super::frame::write(&mut self.out, Event::Pong(value));
                }
                self.futile()
            }
            Event::Pong(_) => self.futile(),
            Event::GoAway if self.side == Side::Opener => {
                self.leaving = true;
                Ok(())
            }
            Event::GoAway => Err(Violation::Order),
        }
    }

    fn arrives(&mut self, id: u32) -> Result<(), Violation> {
        if self.side != Side::Acceptor || id <= self.newest {
            return Err(Violation::Order);
        }
        self.newest = id;
        if self.leaving {
            self.send(Event::Refused(id, Refusal::Draining));
            return self.futile();
        }
        if self.streams.len() >= MOST_STREAMS {
            self.send(Event::Refused(id, Refusal::Busy));
            return self.futile();
        }
        self.streams.insert(id, Stream::new(Phase::Arrived));
        self.arrivals.push_back(id);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.wake();
        }
        Ok(())
    }

    fn answered(&mut self, id: u32, phase: Phase) -> Result<(), Violation> {
        if self.side != Side::Opener || id > self.newest {
            return Err(Violation::Order);
        }
        match self.streams.get_mut(&id) {
            Some(stream) if stream.phase == Phase::Opening => {
                stream.phase = phase;
                stream.wake();
                Ok(())
            }
            Some(_) => Err(Violation::Order),
            // It was given up meanwhile.
            None => self.futile(),
        }
    }

    fn was_reset(&mut self, id: u32, why: Reset) -> Result<(), Violation> {
        if id > self.newest {
            return Err(Violation::Order);
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.futile();
        };
        if stream.reset.is_some() {
            return Err(Violation::Order);
        }
        stream.reset = Some(why);
        stream.wake();
        if stream.phase != Phase::Arrived {
            return Ok(());
        }
        self.given_up += 1;
        if let Some(place) = self.arrivals.iter().position(|each| *each == id) {
            // Nobody holds it yet.
            self.arrivals.remove(place);
            self.forget(id);
        }
        if self.given_up > MOST_GIVEN_UP {
            Err(Violation::GivenUp)
        } else {
            Ok(())
        }
    }

    /// A stream that may carry bytes; none: it was released meanwhile.
    fn open_stream(&mut self, id: u32) -> Result<Option<&mut Stream>, Violation> {
        if id > self.newest {
            return Err(Violation::Order);
        }
        match self.streams.get_mut(&id) {
            Some(stream) if stream.phase != Phase::Open || stream.reset.is_some() => Err(Violation::Order),
            other => Ok(other),
        }
    }

    fn futile(&mut self) -> Result<(), Violation> {
        let now = Instant::now();
        if now.duration_since(self.futile_since) > Duration::from_secs(1) {
            self.futile_since = now;
            self.futile = 0;
        }
        self.futile += 1;
        if self.futile > MOST_FUTILE {
            Err(Violation::Flood)
        } else {
            Ok(())
        }
    }
}

//! One stream's part of the state.
//!
//! Enters: what its holder and the peer did. Leaves: why it can't go on; wake-ups. Never: a decision about other streams.

use std::io;
use std::task::{Context, Waker};

use tokio::time::Instant;

use super::super::frame::{Refusal, Reset};
use super::super::queue::Queue;
use super::super::window::{self, Window};
use super::Over;

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) phase: Phase,
    pub(super) queue: Queue,
    pub(super) window: Window,
    /// What may still be sent.
    pub(super) credit: u32,
    /// FIN came.
    pub(super) ended: bool,
    /// FIN was sent.
    pub(super) finished: bool,
    pub(super) reset: Option<Reset>,
    pub(super) turn: Turn,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// OPEN was sent.
    Opening,
    /// REFUSED came.
    Refused(Refusal),
    /// OPEN came.
    Arrived,
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    None,
    /// In `writers`.
    Waits,
    /// May write whatever is waiting already.
    Has,
}

impl Stream {
    pub(super) fn new(phase: Phase) -> Self {
        Self {
            phase,
            queue: Queue::default(),
            window: Window::new(Instant::now()),
            credit: window::FIRST,
            ended: false,
            finished: false,
            reset: None,
            turn: Turn::None,
            reader: None,
            writer: None,
        }
    }

    pub(super) fn error(&self, over: Option<Over>) -> Option<io::Error> {
        let kind = match (self.reset, over) {
            (None, None) => return None,
            (Some(Reset::Broken | Reset::Ended), _) | (None, Some(Over::Gone)) => {
                io::ErrorKind::ConnectionReset
            }
            (Some(Reset::Denied), _) => io::ErrorKind::PermissionDenied,
            (None, Some(Over::Silent)) => io::ErrorKind::TimedOut,
        };
        Some(kind.into())
    }

    pub(super) fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

pub(super) fn broken() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

pub(super) fn keep(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
}

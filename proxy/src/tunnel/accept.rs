//! The side that is asked for streams.
//!
//! Enters: a connection from another sidecar. Leaves: [`Arrival`]s, each to be accepted or refused. Never: a byte of a stream
//! before it was accepted.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;

use tokio::io::{AsyncBufRead, AsyncWrite};

use super::driver::Driver;
use super::frame::Refusal;
use super::state::{Side, State};
use super::stream::TunnelStream;

/// The streams that are asked for in one tunnel.
pub struct Arrivals(Rc<RefCell<State>>);

/// A stream that is asked for. Dropping it refuses it as unreachable.
#[must_use = "it must be accepted or refused"]
pub struct Arrival {
    state: Rc<RefCell<State>>,
    id: Option<u32>,
}

/// The accepting end of a tunnel over a fresh connection, and the task that moves its bytes.
pub fn server<IO: AsyncBufRead + AsyncWrite + Unpin>(io: IO) -> (Arrivals, Driver<IO>) {
    let state = Rc::new(RefCell::new(State::new(Side::Acceptor)));
    (Arrivals(state.clone()), Driver::new(io, Side::Acceptor, state))
}

impl Arrivals {
    /// The next stream; none: the tunnel is over.
    pub async fn next(&mut self) -> Option<Arrival> {
        let id = poll_fn(|cx| self.0.borrow_mut().poll_arrival(cx)).await?;
        Some(Arrival {
            state: self.0.clone(),
            id: Some(id),
        })
    }

    /// No new streams: the other side is told, and what is open goes on.
    pub fn go_away(&self) {
        self.0.borrow_mut().leave();
    }

    /// Streams that are open or asked for.
    pub fn streams(&self) -> usize {
        self.0.borrow().count()
    }
}

impl Arrival {
    /// The application is connected. Only now may its bytes flow.
    pub fn accept(mut self) -> TunnelStream {
        let id = self.id.take().unwrap_or_default();
        self.state.borrow_mut().accept(id);
        TunnelStream::new(self.state.clone(), id)
    }

    /// The application will not be connected.
    pub fn refuse(mut self, why: Refusal) {
        if let Some(id) = self.id.take() {
            self.state.borrow_mut().refuse(id, why);
        }
    }

    /// Returns when the other side doesn't want the stream any more.
    pub async fn given_up(&self) {
        let id = self.id.unwrap_or_default();
        poll_fn(|cx| self.state.borrow_mut().poll_given_up(id, cx)).await;
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.state.borrow_mut().refuse(id, Refusal::Unreachable);
        }
    }
}

impl fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrivals")
            .field("streams", &self.streams())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
